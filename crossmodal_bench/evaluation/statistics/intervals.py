"""The uncertainty of a single number: one ± with a stated target."""

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
"""What an interval refers to: with several seeds, and with a single one (or for a deterministic method)."""

LEVEL = 0.95
_NOTHING = 1e-12  # as a share, or as a number of items
_ONE_THAT_VARIES = 0.5  # from simulations: benchmarks/interval_coverage.py


@dataclass(frozen=True)
class Interval:
    """A metric, and the 95 % interval of its value over the whole population of images (and seeds).

    Attributes:
        value: the mean over the runs, in the metric's unit.
        low: never below the metric's minimum.
        high: never above its maximum.
        items_error: the standard error due to the choice of test images.
        seeds_error: that due to the choice of seeds, in addition; 0 for a model.
        clusters: number of images (or identities, or classes) drawn.
        n: number of runs.
        target: what the interval refers to; see ``TARGETS``.
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
        ValueError: there are no runs, they didn't answer the same queries, or the metric is not a mean over
            queries or a combination of such means (median rank, BLEU).
    """
    if not runs:
        raise ValueError("an interval needs at least one run")
    return _intervals(runs, [key])[key]


def intervals(runs: Sequence[QueryResults]) -> dict[str, Interval]:
    """By key, the interval of each metric for which all runs have per-query results, with combinations.

    Raises:
        ValueError: there are no runs, or they didn't answer the same queries.

    Examples:
        >>> import torch
        >>> from crossmodal_bench.core.encoding import Encoding
        >>> from crossmodal_bench.evaluation.evaluate import evaluate
        >>> from crossmodal_bench.evaluation.protocols.protocol import own_protocol
        >>> items = Encoding(torch.eye(50))
        >>> dot = lambda images, texts: images.values @ texts.values.T
        >>> perfect = evaluate(own_protocol("mine"), items, items, dot, torch.arange(50))
        >>> found = intervals([perfect.query_results])["i2t/R@1"]
        >>> found.value, round(found.low, 1), found.high  # 50 images show no more than that
        (100.0, 94.2, 100.0)
    """
    if not runs:
        raise ValueError("an interval needs at least one run")
    return _intervals(runs, [key for key in runs[0].keys if all(key in run.keys for run in runs)])


def model_intervals(evaluation: Evaluation) -> dict[str, list[float]]:
    """By key, [low, high] of this model on other images, for each mean over queries and combination."""
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
    """(...) the variance of a mean over runs due to the choice of images.

    Args:
        effects: (..., runs, clusters) as in ``ClusterEffects``.
    """
    clusters = effects.shape[-1]
    return clusters / max(1, clusters - 1) * (effects.mean(-2) ** 2).sum(-1)


def seeds_variance(values: NDArray[np.float64], effects: NDArray[np.float64]) -> NDArray[np.float64]:
    """(...) the variance of a mean over runs due to the choice of seeds.

    Images and seeds are crossed: all runs answer the same queries. Images that affect each run differently
    contribute to the runs' variance, but the images' variance already includes this, so it is subtracted
    here. The same applies if each run has its own draw and lacks some images: the effect of testing on other
    images is subtracted, and what remains of the runs' variance is that of seeds and of their training data.

    Args:
        values: (..., runs) the runs' metrics.
        effects: (..., runs, clusters) as in ``ClusterEffects``.
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
    """(...) 95 % interval of a mean over runs of means of values between 0 and 1; its width is never 0.

    It is the binomial's (mid-P) for the number of independent items with the same error (after Korn and
    Graubard, 1998): exactly the binomial's for hits or misses of one run, one per cluster; asymmetric near 0
    and 1; and with enough items the same as mean ± t x error. The errors of images and of seeds are added as
    squares, each with the t of its own degrees of freedom (after Graybill and Wang, 1980).

    How much less the clusters' means vary than hits and misses would is known only from the clusters on the
    rarer side of the mean. If these are few, it counts little (as if half a cluster more had been seen that
    varied as hits do), and if there are none (all hits, say), not at all.

    Args:
        values: (..., runs) the runs' metrics.
        effects: (..., runs, clusters) as in ``ClusterEffects``.
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
    """Student's quantile for a mean over that many; a single one's variance is 0 or unknown: not scaled."""
    return float(t_quantile((1 + LEVEL) / 2, number - 1)) if number > 1 else 1.0


def _least_share(hits: NDArray[np.float64], items: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lower mid-P bound: the share of hits for which at least as many hits are 2.5 % likely.

    The numbers need not be integers: the incomplete beta function interpolates the binomial's probabilities.
    """
    misses = np.maximum(items - hits, 0.0)
    likely = (1 - LEVEL) / 2
    some, any_miss = hits > _NOTHING, misses > _NOTHING
    positive_hits, positive_misses = np.where(some, hits, 1.0), np.where(any_miss, misses, 1.0)
    # Mid-P is between the exact bounds for these hits and for one hit more.
    below = special.betaincinv(positive_hits, misses + 1, likely)
    above = np.where(any_miss, special.betaincinv(hits + 1, positive_misses, likely), 1.0)
    for _ in range(40):
        middle = (below + above) / 2
        as_many = special.betainc(positive_hits, misses + 1, middle)
        more = np.where(any_miss, special.betainc(hits + 1, positive_misses, middle), 0.0)
        reached = (as_many + more) / 2 >= likely
        below, above = np.where(reached, below, middle), np.where(reached, middle, above)
    return np.where(some, below, 0.0)
