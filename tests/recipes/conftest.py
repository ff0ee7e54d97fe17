"""Recipes are scripts that import each other as siblings: put their folder on the path."""

import sys
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))
