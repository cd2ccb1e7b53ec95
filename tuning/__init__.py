"""Searching: draws recipes, trains each with the one training path, and says which was the best."""
