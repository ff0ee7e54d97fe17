"""The posterior over transition and cost weights, one family a file."""
