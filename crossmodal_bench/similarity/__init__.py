"""Scores of every image with every text; higher is better."""

from crossmodal_bench.similarity.bfan import bfan_similarity
from crossmodal_bench.similarity.order import order_similarity
from crossmodal_bench.similarity.scan import scan_similarity
from crossmodal_bench.similarity.vectors import cosine_similarity, negative_euclidean

__all__ = [
    "bfan_similarity",
    "cosine_similarity",
    "negative_euclidean",
    "order_similarity",
    "scan_similarity",
]
