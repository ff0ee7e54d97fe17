"""The world model's errors on held-out episodes of a recorded dataset."""
