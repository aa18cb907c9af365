"""What metrics of ranks are computed with, and how rows of metrics are averaged: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks


def hit_at_k(ranks: QueryRanks, k: int) -> NDArray[np.float64]:
    """(n,) how probably a query has a positive among its first ``k`` items: a hit, not a share of positives.

    0 or 1 where nothing is tied; see ``QueryRanks.hit_probability``. NaN for a query without a positive.
    """
    return ranks.hit_probability(k)


def median_rank(ranks: QueryRanks) -> float:
    """MedR as in the originals' code, floor(median) + 1 of the 0-based ranks, here of the expected ones."""
    return float(np.floor(np.nanmedian(ranks.expected - 1)) + 1)


def mean_rank(ranks: QueryRanks) -> float:
    """MeanR: the mean of the 1-based expected ranks."""
    return float(np.nanmean(ranks.expected))


def mean_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over rows that have the same metrics; ValueError without any row."""
    if not rows:
        raise ValueError("no folds to average")
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def fold_slices(n_images: int, folds: int) -> list[slice]:
    """Consecutive blocks of n_images / folds images, as the five folds of COCO 1K are cut.

    Raises ValueError where the images don't divide: a remainder would be dropped without a word.
    """
    if folds < 1 or n_images < folds or n_images % folds:
        raise ValueError(f"{n_images} images cannot be cut into {folds} equal folds")
    size = n_images // folds
    return [slice(start, start + size) for start in range(0, n_images, size)]
