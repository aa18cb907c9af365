"""What metrics of ranks are computed with, and how rows of metrics are averaged: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def hit_at_k(ranks: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """(n,) whether each query has a positive among its first ``k`` items: a hit, not the share of positives.

    Args:
        ranks: (n,) 1-based ranks of the best positives.
        k: how many items are looked at.
    """
    return checked_ranks(ranks) <= k


def median_rank(ranks: NDArray[Any]) -> float:
    """MedR as in the originals' code: floor(median) + 1 of the 0-based ranks."""
    return float(np.floor(np.median(checked_ranks(ranks) - 1)) + 1)


def mean_rank(ranks: NDArray[Any]) -> float:
    """MeanR: the mean of the 1-based ranks."""
    return float(np.mean(checked_ranks(ranks)))


def checked_ranks(ranks: NDArray[Any]) -> NDArray[Any]:
    """The ranks as an array; ValueError where they are no non-empty (n,) array of 1-based ranks."""
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or not len(ranks) or ranks.min() < 1:
        raise ValueError("ranks must be a non-empty (n,) array of 1-based ranks")
    return ranks


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
