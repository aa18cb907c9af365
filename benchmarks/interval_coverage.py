"""How often the ± holds what it says, and how often equal methods are told apart, by simulation.

OMP_NUM_THREADS=1 python benchmarks/interval_coverage.py
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from crossmodal_bench.evaluation.intervals import bounded_interval, errors_of_mean

IMAGES = (20, 243, 1000)
SEEDS = (1, 3, 5)
RECALLS = (0.05, 0.2, 0.5, 0.8, 0.95, 0.98, 0.99, 0.995, 0.999)
SUMS = {
    "rsum of 75": (0.03, 0.12, 0.20, 0.03, 0.14, 0.23),
    "rsum of 336": (0.37, 0.68, 0.79, 0.27, 0.57, 0.68),
    "rsum of 570": (0.86, 0.98, 0.99, 0.89, 0.985, 0.995),
    "rsum of 598": (0.99, 0.999, 0.9999, 0.992, 0.9995, 0.9999),
}
"""Recalls of images at 1, 5 and 10, and of captions."""

CAPTIONS = 5
IMAGE = 0.45
"""Variance that an image has in common with its captions, for all methods and seeds, of a query's ease: 1."""
QUERY = 0.20
"""Variance of a query's own ease, for all methods and seeds."""
SEED = 0.0137
"""Standard deviation of a seed: 2.8 points of rsum where it is 336."""


@dataclass(frozen=True)
class World:
    """The ease of queries, (repeats, runs, images) of image queries and with captions behind of text queries.

    A query hits at a recall r where its ease, standard normal over images and seeds, is below r's quantile.
    """

    images: NDArray[np.float32]
    texts: NDArray[np.float32]
    seeds: NDArray[np.float32]
    seed_deviation: float

    def per_image(self, measured: str | float) -> NDArray[np.float64]:
        """(repeats, runs, images) between 0 and 1: what the metric is the mean of over the images."""
        if isinstance(measured, float):
            return _hits(self.images, measured)
        if measured.startswith("t2i"):
            return _hits(self.texts, float(measured.split()[1])).mean(-1)
        of_images, of_texts = SUMS[measured][:3], SUMS[measured][3:]
        total = sum(_hits(self.images, recall) for recall in of_images)
        total = total + sum(_hits(self.texts, recall).mean(-1) for recall in of_texts)
        return total / 6

    def truth(self, measured: str | float, runs: int) -> NDArray[np.float64]:
        """(repeats,) what an interval is about: over all seeds, or with a single run for that one's."""
        if isinstance(measured, float):
            recalls = [measured]
        elif measured.startswith("t2i"):
            recalls = [float(measured.split()[1])]
        else:
            recalls = list(SUMS[measured])
        limits = stats.norm.ppf(recalls)
        if runs > 1:
            return np.full(len(self.seeds), np.mean(recalls))
        rest = math.sqrt(1 - self.seed_deviation**2)
        return stats.norm.cdf((limits - self.seeds[:, :1]) / rest).mean(-1)


def _hits(ease: NDArray[np.float32], recall: float) -> NDArray[np.float64]:
    return (ease < np.float32(stats.norm.ppf(recall))).astype(np.float64)


def world(
    generator: np.random.Generator, repeats: int, methods: int, runs: int, images: int, seed: float
) -> Iterator[World]:
    """The same images asked of each method; each method's seeds are its own."""
    normal = lambda *shape: generator.standard_normal(shape, dtype=np.float32)  # noqa: E731
    image = math.sqrt(IMAGE) * normal(repeats, 1, images)
    own = math.sqrt(QUERY) * normal(repeats, 1, images)
    own_texts = math.sqrt(QUERY) * normal(repeats, 1, images, CAPTIONS)
    rest = math.sqrt(1 - IMAGE - QUERY - seed**2)
    for _ in range(methods):
        seeds = seed * normal(repeats, runs)
        yield World(
            images=image + own + rest * normal(repeats, runs, images) + seeds[..., None],
            texts=image[..., None]
            + own_texts
            + rest * normal(repeats, runs, images, CAPTIONS)
            + seeds[..., None, None],
            seeds=seeds,
            seed_deviation=seed,
        )


def new_interval(results: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The package's interval of each repeat."""
    values = results.mean(-1)
    clusters = results.shape[-1]
    errors = errors_of_mean(values, (results - values[..., None]) / clusters)
    return bounded_interval(values.mean(-1), errors.total**2, errors.df, clusters)
