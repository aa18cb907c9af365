"""Numbers of a table from ranks: pure functions. Recalls are in percent, ranks 1-based."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RECALL_CUTOFFS = (1, 5, 10)


def recall_at_k(ranks: NDArray[Any], k: int) -> float:
    """Percentage of queries with a positive among the first ``k``: hits, not the share of positives."""
    return 100.0 * float(np.mean(_checked(ranks) <= k))


def median_rank(ranks: NDArray[Any]) -> float:
    """MedR as in the originals' code: floor(median) + 1 of the 0-based ranks."""
    return float(np.floor(np.median(_checked(ranks) - 1)) + 1)


def mean_rank(ranks: NDArray[Any]) -> float:
    """MeanR: the mean of the 1-based ranks."""
    return float(np.mean(_checked(ranks)))


def recall_metrics(i2t: NDArray[Any], t2i: NDArray[Any]) -> dict[str, float]:
    """R@1/5/10, MedR, MeanR of both directions, ``rsum`` and GXN's ``sum``, from 1-based ranks.

    i2t: (n_images,), t2i: (n_texts,). ``rsum`` is the sum of the six recalls; ``sum`` (Gu et al., CVPR 2018)
    is R@1 + R@10 of both directions.
    """
    metrics: dict[str, float] = {}
    for side, ranks in (("i2t", i2t), ("t2i", t2i)):
        for k in RECALL_CUTOFFS:
            metrics[f"{side}/R@{k}"] = recall_at_k(ranks, k)
        metrics[f"{side}/MedR"] = median_rank(ranks)
        metrics[f"{side}/MeanR"] = mean_rank(ranks)
    metrics["rsum"] = sum(metrics[f"{side}/R@{k}"] for side in ("i2t", "t2i") for k in RECALL_CUTOFFS)
    metrics["sum"] = sum(metrics[f"{side}/R@{k}"] for side in ("i2t", "t2i") for k in (1, 10))
    return metrics


def fold_metrics(folds: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> dict[str, float]:
    """``recall_metrics`` of each fold's own ranks (i2t, t2i), each metric averaged over the folds."""
    return mean_metrics([recall_metrics(i2t, t2i) for i2t, t2i in folds])


def mean_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over rows that have the same metrics."""
    if not rows:
        raise ValueError("no folds to average")
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def fold_slices(n_images: int, folds: int) -> list[slice]:
    """Consecutive blocks of n_images / folds images, as the five folds of COCO 1K are cut.

    Raises ValueError where the images don't divide: a remainder would be dropped without a word.
    """
    if folds < 1 or n_images < folds or n_images % folds:
        raise ValueError(f"{n_images} images cannot be cut into {folds} equal folds")
    size = n_images // folds
    return [slice(start, start + size) for start in range(0, n_images, size)]


def _checked(ranks: NDArray[Any]) -> NDArray[Any]:
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or not len(ranks) or ranks.min() < 1:
        raise ValueError("ranks must be a non-empty (n,) array of 1-based ranks")
    return ranks
