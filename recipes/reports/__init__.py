"""Reports on any set of runs."""
