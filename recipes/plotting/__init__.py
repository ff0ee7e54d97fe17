"""A run's pictures: learning, calibration, filmstrip, video."""
