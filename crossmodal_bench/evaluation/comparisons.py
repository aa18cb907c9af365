"""How sure a difference is: between two methods on the same queries, and among all methods of a table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from crossmodal_bench.evaluation.intervals import LEVEL, Target, seeds_variance
from crossmodal_bench.evaluation.query_results import QueryResults, check_same_queries, cluster_effects

_SWAPS = 10_000
_SWAPS_PER_PAIR = 100  # the least p, times the number of pairs, stays well below 5 %
_CELLS = 4_000_000  # swaps x clusters held together


@dataclass(frozen=True)
class Difference:
    """What separates two rows of a table in one metric, on the same queries.

    Attributes:
        value: the first row's mean over its runs minus the second's, in the metric's unit.
        low: lower bound of the 95 % interval of the difference.
        high: its upper bound.
        p: two-sided p of no difference.
        items_error: the standard error that the choice of test images makes.
        seeds_error: the one that the choice of seeds makes beside it; 0 where neither row has several.
        df: the degrees of freedom of both together.
        targets: what each side is: a method, of which there are several seeds, or a single model.
        n: number of runs of each side.
    """

    value: float
    low: float
    high: float
    p: float
    items_error: float
    seeds_error: float
    df: float
    targets: tuple[Target, Target]
    n: tuple[int, int]


@dataclass(frozen=True)
class PairedDifference:
    """Two rows of a table by their positions, their difference, and its p adjusted to all of the table's pairs."""

    first: int
    second: int
    difference: Difference
    adjusted_p: float


def compare(a: Sequence[QueryResults], b: Sequence[QueryResults], key: str) -> Difference:
    """The difference of two rows (``a`` minus ``b``), each of which has one run or several.

    Raises:
        ValueError: where the runs didn't all answer the same queries, one side has no run, or the metric is
            no mean over queries nor a combination of such means.
    """
    return compare_all([a, b], key)[0].difference


def compare_all(rows: Sequence[Sequence[QueryResults]], key: str, *, seed: int = 0) -> list[PairedDifference]:
    """The differences of all pairs of rows of one table, their p adjusted to one another by Holm.

    Args:
        rows: of each row, its runs.
        key: the metric.
        seed: of the random swaps.

    Raises:
        ValueError: as of ``compare``.
    """
    if not all(rows):
        raise ValueError("a row without any run cannot be compared")
    if len(rows) < 2:
        return []
    check_same_queries([run for runs in rows for run in runs], key)
    measured = [cluster_effects(runs, key) for runs in rows]
    summaries = RowSummaries.stacked([RowSummaries.of(row.values, row.effects) for row in measured])
    contributions = np.stack([row.contributions.mean(0) for row in measured])
    first, second = np.array(list(itertools.combinations(range(len(rows)), 2))).T
    tests = paired_t(summaries.take(first), summaries.take(second), measured[0].step)
    swapped = paired_randomisation(
        contributions[first] - contributions[second],
        n=max(_SWAPS, _SWAPS_PER_PAIR * len(first)),
        seed=seed,
    )
    # Swaps are exact between two models. Where seeds count too, they still guard against Student's
    # distribution where so few images tell the methods apart that it doesn't hold.
    models = (summaries.runs[first] == 1) & (summaries.runs[second] == 1)
    p = np.where(models, swapped, np.maximum(swapped, tests.p))
    adjusted = holm(p.tolist())
    limits = [row.bounds for row in measured if row.bounds is not None]
    limit = limits[0][1] - limits[0][0] if len(limits) == len(measured) else np.inf
    value = summaries.means[first] - summaries.means[second]
    low = np.minimum(value, np.maximum(-limit, tests.centre - tests.half_width))
    high = np.maximum(value, np.minimum(limit, tests.centre + tests.half_width))
    targets: list[Target] = ["method" if len(runs) > 1 else "model" for runs in rows]
    return [
        PairedDifference(
            first=a,
            second=b,
            difference=Difference(
                value=float(value[pair]),
                low=float(low[pair]),
                high=float(high[pair]),
                p=float(p[pair]),
                items_error=float(tests.items_error[pair]),
                seeds_error=float(tests.seeds_error[pair]),
                df=float(tests.df[pair]),
                targets=(targets[a], targets[b]),
                n=(len(rows[a]), len(rows[b])),
            ),
            adjusted_p=adjusted[pair],
        )
        for pair, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True))
    ]


def not_behind_first(first: int, pairs: Sequence[PairedDifference]) -> frozenset[int]:
    """The positions of the rows that are not significantly behind the first one, itself included.

    Each p is adjusted to all pairs of the table, so that it doesn't matter that the first one was picked for
    coming first: in 95 of 100 tables at least, the best of the methods is in the set.

    Args:
        first: the position of the row with the best mean.
        pairs: all pairs of the table's rows, as of ``compare_all``.
    """
    members = {first}
    for pair in pairs:
        if first in (pair.first, pair.second) and pair.adjusted_p >= 1 - LEVEL:
            members |= {pair.first, pair.second}
    return frozenset(members)


@dataclass(frozen=True)
class RowSummaries:
    """What comparing rows needs of each; arrays (...) of one shape, whatever they run over.

    Attributes:
        means: the metric's mean over the row's runs.
        effects: (..., clusters) the mean of the runs' ``ClusterEffects.effects``.
        of_runs: the variance of the mean that the runs' values show.
        seeds: the part of it that is the seeds' own.
        runs: how many there are.
    """

    means: NDArray[np.float64]
    effects: NDArray[np.float64]
    of_runs: NDArray[np.float64]
    seeds: NDArray[np.float64]
    runs: NDArray[np.int64]

    @classmethod
    def of(cls, values: NDArray[np.float64], effects: NDArray[np.float64]) -> RowSummaries:
        """From (..., runs) values and (..., runs, clusters) effects."""
        variance = seeds_variance(values, effects)
        means = values.mean(-1)
        return cls(
            means,
            effects.mean(-2),
            variance.of_runs,
            variance.own,
            np.full_like(means, values.shape[-1], int),
        )

    @classmethod
    def stacked(cls, rows: Sequence[RowSummaries]) -> RowSummaries:
        """Several rows as one, along a new first axis."""
        return cls(
            np.stack([row.means for row in rows]),
            np.stack([row.effects for row in rows]),
            np.stack([row.of_runs for row in rows]),
            np.stack([row.seeds for row in rows]),
            np.stack([row.runs for row in rows]),
        )

    def take(self, index: NDArray[np.int64]) -> RowSummaries:
        """Those at ``index`` of the first axis."""
        return RowSummaries(
            self.means[index], self.effects[index], self.of_runs[index], self.seeds[index], self.runs[index]
        )


@dataclass(frozen=True)
class PairedT:
    """Student's test of paired rows; arrays of one shape.

    Attributes:
        centre: of the interval of the difference.
        half_width: of the 95 % interval.
        p: two-sided.
        items_error: standard error from the choice of images.
        seeds_error: standard error from the choice of seeds, of both sides.
        df: degrees of freedom.
    """

    centre: NDArray[np.float64]
    half_width: NDArray[np.float64]
    p: NDArray[np.float64]
    items_error: NDArray[np.float64]
    seeds_error: NDArray[np.float64]
    df: NDArray[np.float64]


def paired_t(a: RowSummaries, b: RowSummaries, step: float) -> PairedT:
    """Test and interval of ``a`` minus ``b``, pair by pair.

    Two images are added on which the methods differ by one ``step``, to either side, as Bonett and Price (2012)
    do for proportions: no error is 0 then, and the sparse differences of few images or of recalls near 0 or
    100 % keep their level. Images are paired, seeds are each side's own; degrees of freedom are
    Satterthwaite's.
    """
    clusters = a.effects.shape[-1]
    enlarged = clusters + 2
    value = a.means - b.means
    centre = value * clusters / enlarged
    per_cluster = clusters * (a.effects - b.effects) + value[..., None]
    squares = (per_cluster**2).sum(-1) + 2 * step**2 - enlarged * centre**2
    items = squares / enlarged / (enlarged - 1)
    seeds = a.seeds + b.seeds
    total = items + seeds
    spread = items**2 / (enlarged - 1)
    for side in (a, b):
        spread = spread + side.of_runs**2 / np.maximum(1, side.runs - 1)
    df = np.clip(total**2 / spread, 1.0, enlarged - 1)
    error = np.sqrt(total)
    return PairedT(
        centre=centre,
        half_width=stats.t.ppf((1 + LEVEL) / 2, df) * error,
        p=2 * stats.t.sf(np.abs(centre) / error, df),
        items_error=np.sqrt(items),
        seeds_error=np.sqrt(seeds),
        df=df,
    )


def paired_randomisation(
    differences: NDArray[np.float64], n: int = _SWAPS, seed: int = 0
) -> NDArray[np.float64]:
    """(pairs,) two-sided p of no difference between two models, by swapping their results image by image.

    The results for all queries of an image are swapped together. The observed assignment counts as one of the
    n + 1, so p is never 0.

    Args:
        differences: (pairs, clusters) the parts that the clusters have in the difference of two models.
        n: number of random assignments, the same ones for all pairs.
        seed: of the assignments.
    """
    pairs, clusters = differences.shape
    # Sums of the same terms in another order differ in the last digits and must still count as equal.
    reach = np.abs(differences.sum(1)) - 1e-9 * np.abs(differences).sum(1)
    generator = np.random.default_rng(seed)
    step = max(1, _CELLS // max(clusters, pairs))
    extreme = np.zeros(pairs, dtype=np.int64)
    for start in range(0, n, step):
        signs = generator.integers(0, 2, size=(min(step, n - start), clusters), dtype=np.int8)
        sums = (2.0 * signs - 1.0) @ differences.T
        extreme += (np.abs(sums) >= reach).sum(0)
    return (extreme + 1) / (n + 1)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of several p-values (Holm, 1979), in the order they came."""
    raw = np.asarray(pvalues, dtype=np.float64)
    if raw.ndim != 1 or ((raw < 0) | (raw > 1) | np.isnan(raw)).any():
        raise ValueError("p-values must lie between 0 and 1")
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()
