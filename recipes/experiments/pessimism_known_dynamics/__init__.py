"""How often pessimism covers a cost return known in closed form."""
