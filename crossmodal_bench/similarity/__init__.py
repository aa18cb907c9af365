"""Scores of every image with every text; higher is better."""

from crossmodal_bench.similarity.vectors import cosine_similarity, negative_euclidean

__all__ = ["cosine_similarity", "negative_euclidean"]
