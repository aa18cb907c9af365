"""How sure one number is: a single ± whose target is stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crossmodal_bench.evaluation.evaluate import Evaluation
from crossmodal_bench.evaluation.query_results import ClusterEffects, QueryResults, cluster_effects
from crossmodal_bench.evaluation.statistics.student_t import t_quantile

Target = Literal["method", "model"]

TARGETS: Mapping[Target, str] = {
    "method": "this method on other images and with other seeds",
    "model": "this model on other images",
}
"""What an interval is about: of several seeds, and of a single one (or of a method without any chance)."""

LEVEL = 0.95
_NOTHING = 1e-12  # of a share, or of a number of items
_ONE_THAT_VARIES = 0.5  # by simulation: benchmarks/interval_coverage.py


@dataclass(frozen=True)
class Interval:
    """A metric, and the 95 % interval of what it would be over all images that there are (and all seeds).

    Attributes:
        value: the mean over the runs, in the metric's unit.
        low: never below what the metric can be.
        high: never above it.
        items_error: the standard error that the choice of test images makes.
        seeds_error: the standard error that the choice of seeds makes beside it; 0 for a model.
        clusters: how many images (or identities, or classes) were drawn.
        n: number of runs.
        target: what the interval is about; see ``TARGETS``.
    """

    value: float
    low: float
    high: float
    items_error: float
    seeds_error: float
    clusters: int
    n: int
    target: Target

    @property
    def half_width(self) -> float:
        """The longer side, so that value ± half_width never claims more than [low, high] does."""
        return max(self.high - self.value, self.value - self.low)


def interval(runs: Sequence[QueryResults], key: str) -> Interval:
    """The interval of one metric over the runs (seeds) of one row of a table.

    Raises:
        ValueError: without any run, where the runs didn't answer the same queries, or where the metric is
            no mean over queries nor a combination of such means (median rank, BLEU).
    """
    if not runs:
        raise ValueError("an interval needs at least one run")
    return _intervals(runs, [key])[key]


def intervals(runs: Sequence[QueryResults]) -> dict[str, Interval]:
    """By key, the interval of each metric that all runs have per-query results of, combinations included.

    Raises:
        ValueError: without any run, or where the runs didn't answer the same queries.
    """
    if not runs:
        raise ValueError("an interval needs at least one run")
    return _intervals(runs, [key for key in runs[0].keys if all(key in run.keys for run in runs)])


def model_intervals(evaluation: Evaluation) -> dict[str, list[float]]:
    """By key, [low, high] of this model on other images, of each mean over queries and their combinations."""
    measured = intervals([evaluation.query_results])
    return {key: [each.low, each.high] for key, each in measured.items()}


def _intervals(runs: Sequence[QueryResults], keys: Sequence[str]) -> dict[str, Interval]:
    measured = [cluster_effects(runs, key) for key in keys]
    bounds = [_bounds(effects) for effects in measured]
    return {
        key: Interval(
            value=float(effects.values.mean()),
            low=low,
            high=high,
            items_error=float(np.sqrt(items_variance(effects.effects))),
            seeds_error=float(np.sqrt(seeds_variance(effects.values, effects.effects))),
            clusters=effects.effects.shape[-1],
            n=len(runs),
            target="method" if len(runs) > 1 else "model",
        )
        for key, effects, (low, high) in zip(keys, measured, bounds, strict=True)
    }


def _bounds(measured: ClusterEffects) -> tuple[float, float]:
    if measured.bounds is not None:
        lowest, highest = measured.bounds
        scale = highest - lowest
        low, high = bounded_interval((measured.values - lowest) / scale, measured.effects / scale)
        return lowest + scale * float(low), lowest + scale * float(high)
    items = items_variance(measured.effects)
    seeds = seeds_variance(measured.values, measured.effects)
    runs, clusters = measured.effects.shape
    half = np.sqrt(_quantile(clusters) ** 2 * items + _quantile(runs) ** 2 * seeds)
    value = measured.values.mean()
    return float(value - half), float(value + half)


def items_variance(effects: NDArray[np.float64]) -> NDArray[np.float64]:
    """(...) the variance that the choice of images makes in a mean over runs.

    Args:
        effects: (..., runs, clusters) as of ``ClusterEffects``.
    """
    clusters = effects.shape[-1]
    return clusters / max(1, clusters - 1) * (effects.mean(-2) ** 2).sum(-1)


def seeds_variance(values: NDArray[np.float64], effects: NDArray[np.float64]) -> NDArray[np.float64]:
    """(...) the variance that the choice of seeds makes in a mean over runs.

    Images and seeds are crossed: all runs answer the same queries. Where images affect each run differently,
    this shows in the runs' variance, but the images' variance has it already, and it is taken off here. The
    same holds where each run has a draw of its own and lacks some images: that other images are tested is
    taken off, and what remains of the runs' variance is that of seeds and of what they were trained on.

    Args:
        values: (..., runs) the runs' metrics.
        effects: (..., runs, clusters) as of ``ClusterEffects``.
    """
    runs, clusters = effects.shape[-2:]
    if runs == 1:
        return np.zeros(values.shape[:-1])
    of_runs = values.var(-1, ddof=1) / runs
    interaction = ((effects - effects.mean(-2, keepdims=True)) ** 2).sum((-2, -1))
    interaction *= clusters / max(1, clusters - 1) / (runs - 1) / runs
    return np.maximum(0.0, of_runs - interaction)


def bounded_interval(
    values: NDArray[np.float64], effects: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(...) 95 % interval of a mean over runs of means of values between 0 and 1; it always has a width.

    It is the binomial's (mid-P) for as many independent items as make the same error (after Korn and
    Graubard, 1998): exactly the binomial's for hits or misses of one run, one for each cluster; asymmetric
    near 0 and 1; and with enough items what mean ± t x error is. The errors of images and of seeds are added
    as squares, each with the t of its own degrees of freedom (after Graybill and Wang, 1980).

    How much less the clusters' means vary than hits and misses would is known from those clusters only that
    are on the rarer side of the mean. Where these are few, it counts little (as if half a cluster more had
    been seen that varied as hits do), and where nothing is on it (all hits, say), not at all.

    Args:
        values: (..., runs) the runs' metrics.
        effects: (..., runs, clusters) as of ``ClusterEffects``.
    """
    runs, clusters = effects.shape[-2:]
    share = np.clip(values.mean(-1), 0.0, 1.0)
    of_hits = share * (1 - share)
    of_clusters = clusters * (effects.mean(-2) ** 2).sum(-1)
    rarer = np.minimum(share, 1 - share)
    constant = of_hits <= _NOTHING
    known = clusters * rarer**2 / np.where(constant, 1.0, rarer**2 + of_clusters)
    ratio = of_clusters / np.where(constant, 1.0, of_hits)
    ratio = (known * ratio + _ONE_THAT_VARIES) / (known + _ONE_THAT_VARIES)
    variance = ratio * of_hits / clusters
    seeds = seeds_variance(values, effects)
    variance = variance + seeds * (_quantile(runs) / _quantile(clusters)) ** 2
    items = np.where(constant, float(clusters), of_hits / np.where(constant, 1.0, variance))
    items = np.maximum(items, 1.0)
    low = _least_share(share * items, items)
    high = 1 - _least_share((1 - share) * items, items)
    return np.minimum(low, share), np.maximum(high, share)


def _quantile(number: int) -> float:
    """Student's, for a mean over that many; a single one's variance is 0 or unknown, and not scaled."""
    return float(t_quantile((1 + LEVEL) / 2, number - 1)) if number > 1 else 1.0


def _least_share(hits: NDArray[np.float64], items: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lower mid-P bound: the share of hits with which at least so many among the items are 2.5 % likely.

    Neither number need be whole: the incomplete beta function goes through the binomial's probabilities.
    """
    misses = np.maximum(items - hits, 0.0)
    likely = (1 - LEVEL) / 2
    some, any_miss = hits > _NOTHING, misses > _NOTHING
    positive_hits, positive_misses = np.where(some, hits, 1.0), np.where(any_miss, misses, 1.0)
    # Mid-P lies between the exact bounds of these hits and of one hit more.
    below = special.betaincinv(positive_hits, misses + 1, likely)
    above = np.where(any_miss, special.betaincinv(hits + 1, positive_misses, likely), 1.0)
    for _ in range(40):
        middle = (below + above) / 2
        as_many = special.betainc(positive_hits, misses + 1, middle)
        more = np.where(any_miss, special.betainc(hits + 1, positive_misses, middle), 0.0)
        reached = (as_many + more) / 2 >= likely
        below, above = np.where(reached, below, middle), np.where(reached, middle, above)
    return np.where(some, below, 0.0)
