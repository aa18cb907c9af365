"""The functions behind metrics of ranks, and averages over rows of metrics: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks


def hit_at_k(ranks: QueryRanks, k: int) -> NDArray[np.float64]:
    """(n,) probability that a query has a positive among its first ``k`` items: a hit, not a share.

    0 or 1 if nothing is tied; see ``QueryRanks.hit_probability``. NaN for a query without a positive.
    """
    return ranks.hit_probability(k)


def median_rank(ranks: QueryRanks) -> float:
    """MedR as in the originals' code, floor(median) + 1 of the 0-based ranks, here of the expected ranks."""
    return float(np.floor(np.nanmedian(ranks.expected - 1)) + 1)


def mean_rank(ranks: QueryRanks) -> float:
    """MeanR: the mean of the 1-based expected ranks."""
    return float(np.nanmean(ranks.expected))


def mean_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over rows with the same metrics; ValueError without any rows."""
    if not rows:
        raise ValueError("no folds to average")
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def fold_slices(n_images: int, folds: int) -> list[slice]:
    """Consecutive blocks of n_images / folds images, like the five folds of COCO 1K.

    Raises ValueError if the images cannot be divided evenly: a remainder would be dropped silently.
    """
    if folds < 1 or n_images < folds or n_images % folds:
        raise ValueError(f"{n_images} images cannot be cut into {folds} equal folds")
    size = n_images // folds
    return [slice(start, start + size) for start in range(0, n_images, size)]
