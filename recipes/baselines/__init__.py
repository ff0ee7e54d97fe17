"""Other libraries' algorithms, counted as the recipes are."""
