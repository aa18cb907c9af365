"""The uncertainty of differences: between two methods on the same queries, and among a table's methods."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.evaluation.query_results import QueryResults, check_paired, cluster_effects
from crossmodal_bench.evaluation.statistics.intervals import LEVEL, Target, seeds_variance
from crossmodal_bench.evaluation.statistics.student_t import t_quantile

SIGNIFICANT = 0.05
"""Two rows differ significantly if their adjusted p is below this."""

_SWAPS = 10_000
_SWAPS_PER_PAIR = 100  # keeps the smallest p, times the number of pairs, well below 5 %
_LEAST_P = 1e-15
_CELLS = 4_000_000  # swaps x clusters held together


@dataclass(frozen=True)
class Difference:
    """The difference between two rows of a table in one metric, on the same queries.

    Attributes:
        value: the first row's mean over its runs minus the second's, in the metric's unit.
        low: lower bound of the 95 % interval of the difference.
        high: its upper bound.
        p: two-sided p of no difference.
        items_error: the standard error due to the choice of test images.
        seeds_error: that due to the choice of seeds, in addition; 0 if neither row has several.
        targets: what each side is: a method, with several seeds, or a single model.
        n: number of runs of each side.
    """

    value: float
    low: float
    high: float
    p: float
    items_error: float
    seeds_error: float
    targets: tuple[Target, Target]
    n: tuple[int, int]


@dataclass(frozen=True)
class PairedDifference:
    """Two rows of a table by position, their difference, and its p adjusted for all pairs of rows."""

    first: int
    second: int
    difference: Difference
    adjusted_p: float


def compare(a: Sequence[QueryResults], b: Sequence[QueryResults], key: str) -> Difference:
    """The difference between two rows (``a`` minus ``b``), each with one or several runs.

    Raises:
        ValueError: the runs didn't all answer the same queries (or those of the same seed, if each seed has
            its own draw), one side has no runs, or the metric is not a mean over queries or a combination of
            such means.

    Examples:
        >>> import torch
        >>> from crossmodal_bench.core.encoding import Encoding
        >>> from crossmodal_bench.evaluation.evaluate import evaluate
        >>> from crossmodal_bench.evaluation.protocols.protocol import own_protocol
        >>> dot = lambda images, texts: images.values @ texts.values.T
        >>> protocol, vectors, others = own_protocol("mine"), torch.eye(50), torch.eye(50).roll(1, 0)
        >>> def results(weight):  # each text is its image's vector, and so much of another's
        ...     texts = Encoding(vectors + weight * others)
        ...     return evaluate(protocol, Encoding(vectors), texts, dot, torch.arange(50)).query_results
        >>> difference = compare([results(0.5)], [results(2.0)], "i2t/R@1")
        >>> difference.value, difference.p < 0.01
        (100.0, True)
    """
    return compare_all([a, b], key)[0].difference


def compare_all(rows: Sequence[Sequence[QueryResults]], key: str, *, seed: int = 0) -> list[PairedDifference]:
    """The differences of all pairs of rows of one table, with p jointly adjusted by Holm's method.

    If each seed has its own draw, the rows' runs of one seed answer the same queries. Their images are
    paired; the variance over seeds, which includes that of the draws, counts on both sides as if each had
    drawn independently, so that no difference appears more certain than it is.

    Args:
        rows: the runs of each row.
        key: the metric.
        seed: of the random swaps.

    Raises:
        ValueError: as for ``compare``.
    """
    if not all(rows):
        raise ValueError("a row without any runs cannot be compared")
    if len(rows) < 2:
        return []
    check_paired(rows, key)
    measured = [cluster_effects(runs, key) for runs in rows]
    table = TableSummary.of([row.values for row in measured], [row.effects for row in measured])
    contributions = np.stack([row.contributions.mean(0) for row in measured])
    first, second = np.array(list(itertools.combinations(range(len(rows)), 2))).T
    tests = paired_t(table, first, second, measured[0].step)
    swapped = paired_randomisation(
        contributions[first] - contributions[second],
        n=max(_SWAPS, _SWAPS_PER_PAIR * len(first)),
        seed=seed,
    )
    # Swaps are exact between two models. With several seeds, they still guard against Student's distribution
    # when so few images separate the methods that it doesn't hold.
    single = np.array([len(runs) == 1 for runs in rows])
    models = single[first] & single[second]
    p = np.where(models, swapped, np.maximum(swapped, tests.p()))
    adjusted = holm(p.tolist())
    limits = [row.bounds for row in measured if row.bounds is not None]
    limit = limits[0][1] - limits[0][0] if len(limits) == len(measured) else np.inf
    value = table.means[first] - table.means[second]
    half = tests.half_width(1 - LEVEL)
    low = np.minimum(value, np.maximum(-limit, tests.centre - half))
    high = np.maximum(value, np.minimum(limit, tests.centre + half))
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
                items_error=float(np.sqrt(tests.items[pair])),
                seeds_error=float(np.sqrt(tests.seeds[pair])),
                targets=(targets[a], targets[b]),
                n=(len(rows[a]), len(rows[b])),
            ),
            adjusted_p=adjusted[pair],
        )
        for pair, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True))
    ]


def tied_with_first(first: int, pairs: Sequence[PairedDifference]) -> frozenset[int]:
    """The positions of the rows that are not significantly behind the first one, itself included.

    Each p is adjusted for all pairs of the table, so it doesn't matter that the first row was selected for
    coming first: in at least 95 of 100 tables, the best of the methods is in the set.

    Args:
        first: the position of the row with the best mean.
        pairs: all pairs of the table's rows, as from ``compare_all``.
    """
    members = {first}
    for pair in pairs:
        if first in (pair.first, pair.second) and pair.adjusted_p >= SIGNIFICANT:
            members |= {pair.first, pair.second}
    return frozenset(members)


@dataclass(frozen=True)
class TableSummary:
    """The statistics of a table, or of many tables at once (...), that comparisons of rows need.

    Attributes:
        means: (..., rows) the metric's mean over each row's runs.
        products: (..., rows, rows) inner products of the rows' cluster effects (``ClusterEffects``), each
            averaged over runs.
        seeds: (..., rows) the variance of the mean due to the seeds.
        seeds_df: its degrees of freedom; 0 if no row has several runs.
        clusters: number of clusters drawn.
    """

    means: NDArray[np.float64]
    products: NDArray[np.float64]
    seeds: NDArray[np.float64]
    seeds_df: int
    clusters: int

    @classmethod
    def of(
        cls, values: Sequence[NDArray[np.float64]], effects: Sequence[NDArray[np.float64]]
    ) -> TableSummary:
        """From each row's (..., runs) values and (..., runs, clusters) effects.

        A variance estimated from three seeds is unreliable, and among many pairs, those would stand out whose
        seeds happen to agree. So a row's seeds count with their own variance or, if that is larger, with the
        average over all rows.
        """
        mean_effects = np.stack([row.mean(-2) for row in effects], -2)
        runs = np.array([row.shape[-1] for row in values])
        own = np.stack([seeds_variance(*row) for row in zip(values, effects, strict=True)], -1)
        freedom = runs - 1
        of_one_run = (own * runs * freedom).sum(-1, keepdims=True) / max(1, freedom.sum())
        return cls(
            means=np.stack([row.mean(-1) for row in values], -1),
            products=mean_effects @ mean_effects.swapaxes(-1, -2),
            seeds=np.where(runs > 1, np.maximum(own, of_one_run / runs), 0.0),
            seeds_df=int(freedom.sum()),
            clusters=effects[0].shape[-1],
        )


@dataclass(frozen=True)
class PairedT:
    """Student's test of pairs of rows; (..., pairs) arrays.

    Attributes:
        centre: of the interval of the difference.
        items: the variance due to the choice of images.
        seeds: the variance due to the choice of seeds, on both sides.
        items_df: the former's degrees of freedom.
        seeds_df: the latter's.
    """

    centre: NDArray[np.float64]
    items: NDArray[np.float64]
    seeds: NDArray[np.float64]
    items_df: int
    seeds_df: int

    def half_width(self, alpha: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Half width of the interval with error ``alpha``: both errors as squares, each with its own t."""
        tail = np.asarray(alpha) / 2
        of_images = t_quantile(tail, self.items_df) ** 2 * self.items
        of_seeds = t_quantile(tail, self.seeds_df) ** 2 * self.seeds
        return np.sqrt(of_images + of_seeds)

    def p(self) -> NDArray[np.float64]:
        """Two-sided p of no difference: the alpha whose interval ends at 0."""
        low, high = np.full_like(self.centre, np.log(_LEAST_P)), np.zeros_like(self.centre)
        for _ in range(40):
            middle = (low + high) / 2
            outside = np.abs(self.centre) >= self.half_width(np.exp(middle))
            low, high = np.where(outside, low, middle), np.where(outside, middle, high)
        return np.exp(high)


def paired_t(
    table: TableSummary, first: NDArray[np.int64], second: NDArray[np.int64], step: float
) -> PairedT:
    """Test and interval of the ``first`` rows minus the ``second``, pair by pair.

    Two images are added on which the methods differ by one ``step`` in either direction, as Bonett and Price
    (2012) do for proportions: so no error is 0, and sparse differences, on few images or for recalls near 0
    or 100 %, keep their level. Images are paired; seeds are each side's own.
    """
    diagonal = np.diagonal(table.products, axis1=-2, axis2=-1)
    squares = diagonal[..., first] + diagonal[..., second] - 2 * table.products[..., first, second]
    value = table.means[..., first] - table.means[..., second]
    clusters, enlarged = table.clusters, table.clusters + 2
    centre = value * clusters / enlarged
    squares = clusters * (clusters * squares + value**2) + 2 * step**2 - enlarged * centre**2
    return PairedT(
        centre=centre,
        items=squares / enlarged / (enlarged - 1),
        seeds=table.seeds[..., first] + table.seeds[..., second],
        items_df=enlarged - 1,
        seeds_df=max(1, table.seeds_df),
    )


def paired_randomisation(
    differences: NDArray[np.float64], n: int = _SWAPS, seed: int = 0
) -> NDArray[np.float64]:
    """(pairs,) two-sided p of no difference between two models, by swapping their results image by image.

    The results for all queries of an image are swapped together. The observed assignment counts as one of the
    n + 1, so p is never 0.

    Args:
        differences: (pairs, clusters) the clusters' shares in the difference between two models.
        n: number of random assignments, the same for all pairs.
        seed: of the assignments.
    """
    pairs, clusters = differences.shape
    # Sums of the same terms in another order differ in their last digits, but must still count as equal.
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
    """Holm's step-down adjustment of several p-values (Holm, 1979), in the given order."""
    raw = np.asarray(pvalues, dtype=np.float64)
    if raw.ndim != 1 or ((raw < 0) | (raw > 1) | np.isnan(raw)).any():
        raise ValueError("p-values must be between 0 and 1")
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()
