"""Studies: recipes x tasks x seeds, on this machine or a Ray cluster."""
