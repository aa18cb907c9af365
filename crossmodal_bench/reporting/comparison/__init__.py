"""What separates runs, rows and settings from each other, and a model from random scores."""
