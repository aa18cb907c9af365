"""How sure one number is: a single ± whose target is stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from crossmodal_bench.evaluation.query_results import QueryResults, cluster_effects

Target = Literal["method", "model"]

TARGETS: Mapping[Target, str] = {
    "method": "this method on other images and with other seeds",
    "model": "this model on other images",
}
"""What an interval is about: of several seeds, and of a single one (or of a method without any chance)."""

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A metric, and the 95 % interval of what it would be over all images that there are (and all seeds).

    Attributes:
        value: the mean over the runs, in the metric's unit.
        low: never below what the metric can be.
        high: never above it.
        items_error: the standard error that the choice of test images makes.
        seeds_error: the standard error that the choice of seeds makes beside it; 0 for a model.
        df: the degrees of freedom of both together.
        target: what the interval is about; see ``TARGETS``.
        n: number of runs.
    """

    value: float
    low: float
    high: float
    items_error: float
    seeds_error: float
    df: float
    target: Target
    n: int

    @property
    def half_width(self) -> float:
        """The longer side, so that value ± half_width never claims more than [low, high] does."""
        return max(self.high - self.value, self.value - self.low)


@dataclass(frozen=True)
class Errors:
    """Standard errors of means over runs, with their degrees of freedom; arrays of one shape."""

    items: NDArray[np.float64]
    seeds: NDArray[np.float64]
    df: NDArray[np.float64]

    @property
    def total(self) -> NDArray[np.float64]:
        """Of both sources of chance together."""
        return np.hypot(self.items, self.seeds)


def interval(runs: Sequence[QueryResults], key: str) -> Interval:
    """The interval of one metric over the runs (seeds) of one row of a table.

    Raises:
        ValueError: without any run, where the runs didn't answer the same queries, or where the metric is
            no mean over queries nor a combination of such means (median rank, BLEU).
    """
    measured = cluster_effects(runs, key)
    errors = errors_of_mean(measured.values, measured.effects)
    value = measured.values.mean()
    clusters = measured.effects.shape[-1]
    if measured.bounds is None:
        half = stats.t.ppf((1 + LEVEL) / 2, errors.df) * errors.total
        low, high = value - half, value + half
    else:
        lowest, highest = measured.bounds
        scale = highest - lowest
        low, high = bounded_interval(
            (value - lowest) / scale, (errors.total / scale) ** 2, errors.df, clusters
        )
        low, high = lowest + scale * low, lowest + scale * high
    return Interval(
        value=float(value),
        low=float(low),
        high=float(high),
        items_error=float(errors.items),
        seeds_error=float(errors.seeds),
        df=float(errors.df),
        target="method" if len(runs) > 1 else "model",
        n=len(runs),
    )


def intervals(runs: Sequence[QueryResults]) -> dict[str, Interval]:
    """By key, the interval of each metric that has per-query results, combinations included."""
    if not runs:
        raise ValueError("an interval needs at least one run")
    return {key: interval(runs, key) for key in runs[0].keys if all(key in run.keys for run in runs)}


def errors_of_mean(values: NDArray[np.float64], effects: NDArray[np.float64]) -> Errors:
    """What images and seeds add to the error of a mean over runs.

    Images and seeds are crossed: all runs answer the same queries, so that more seeds don't make up for few
    images. Where images affect each run differently, this shows in the runs' variance, but stands in the
    images' part already and is taken off the seeds'. Degrees of freedom are Satterthwaite's.

    Args:
        values: (..., runs) the runs' metrics.
        effects: (..., runs, clusters) as of ``ClusterEffects``.
    """
    runs, clusters = effects.shape[-2:]
    freedom = max(1, clusters - 1)
    items = clusters / freedom * (effects.mean(-2) ** 2).sum(-1)
    seeds = seeds_variance(values, effects)
    total = items + seeds.own
    spread = items**2 / freedom + seeds.of_runs**2 / max(1, runs - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        df = np.where(spread > 0, total**2 / spread, freedom)
    return Errors(np.sqrt(items), np.sqrt(seeds.own), np.clip(df, 1.0, freedom))


@dataclass(frozen=True)
class SeedsVariance:
    """Variances of a mean over runs that come from the runs; 0 where there is one.

    Attributes:
        of_runs: what the runs' values show: seeds, and that images affect the runs differently.
        own: the seeds' part.
    """

    of_runs: NDArray[np.float64]
    own: NDArray[np.float64]


def seeds_variance(values: NDArray[np.float64], effects: NDArray[np.float64]) -> SeedsVariance:
    """The variance that the choice of seeds adds to a mean over runs; arguments as of ``errors_of_mean``."""
    runs, clusters = effects.shape[-2:]
    if runs == 1:
        return SeedsVariance(np.zeros(values.shape[:-1]), np.zeros(values.shape[:-1]))
    of_runs = values.var(-1, ddof=1) / runs
    interaction = ((effects - effects.mean(-2, keepdims=True)) ** 2).sum((-2, -1))
    interaction *= clusters / max(1, clusters - 1) / (runs - 1) / runs
    return SeedsVariance(of_runs, np.maximum(0.0, of_runs - interaction))


def bounded_interval(
    share: NDArray[np.float64], variance: NDArray[np.float64], df: NDArray[np.float64], clusters: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % interval of a mean of values between 0 and 1 (Korn & Graubard, 1998), never without a width.

    It is the binomial's for as many independent items as would give this variance; where nothing varies (all
    hits, or none), for the clusters. Bounds are mid-P ones.

    Args:
        share: the mean.
        variance: its own, not that of its values.
        df: the variance's degrees of freedom.
        clusters: how many clusters were drawn.
    """
    share, variance, df = np.broadcast_arrays(
        *(np.asarray(given, np.float64) for given in (share, variance, df))
    )
    freedom = max(1, clusters - 1)
    upper = (1 + LEVEL) / 2
    uncorrected = variance * freedom / clusters
    small = uncorrected <= 1e-15
    items = share * (1 - share) / np.where(small, 1.0, uncorrected)
    items *= (stats.t.ppf(upper, freedom) / stats.t.ppf(upper, df)) ** 2
    items = np.where(small, float(clusters), items)
    items = np.maximum(items, 1.0)
    hits = share * items
    low = _mid_p_lower(hits, items)
    high = 1 - _mid_p_lower(items - hits, items)
    return np.minimum(low, share), np.maximum(high, share)


def _mid_p_lower(hits: NDArray[np.float64], items: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of hits at which at least so many of the items would be 2.5 % likely, by mid-P.

    Neither number need be whole: the incomplete beta function goes through the binomial's probabilities.
    """
    below, above = np.zeros_like(hits), np.ones_like(hits)
    misses = np.maximum(items - hits, 0.0)
    for _ in range(50):
        middle = (below + above) / 2
        as_many = np.where(hits > 0, special.betainc(np.maximum(hits, 1e-12), misses + 1, middle), 1.0)
        more = np.where(misses > 1e-9, special.betainc(hits + 1, np.maximum(misses, 1e-9), middle), 0.0)
        reached = (as_many + more) / 2 >= (1 - LEVEL) / 2
        below, above = np.where(reached, below, middle), np.where(reached, middle, above)
    return np.where(hits > 0, below, 0.0)
