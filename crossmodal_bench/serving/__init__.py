"""What a trained run answers, and what it hands out: search, vectors, weights."""
