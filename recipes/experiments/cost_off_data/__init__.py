"""What a run's cost head predicts for states that nobody has visited."""
