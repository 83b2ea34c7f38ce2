"""Recipes: each file is read alone."""
