"""Using a trained run: search, export of vectors and of weights."""
