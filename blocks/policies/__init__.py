"""Policies to take away: act without the world model, save, load."""
