"""Comparisons of runs, rows and settings with each other, and of models with chance."""
