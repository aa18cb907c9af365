"""A run's results for each query, and how the metrics depend on the images drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.metric_table import Family, Metric


@dataclass(frozen=True)
class QueryResults:
    """Per-query results of one run under one protocol.

    Attributes:
        per_query: by metric key, (n_queries,) the metric's function for each query, before the unit's scale.
            R@K is the probability of a hit when ties are broken at random (mostly 0 or 1). NaN: the query
            doesn't count. With folds, the queries of all folds in the order of the whole split.
        image_cluster: (n_images,) the image itself, or its identity: queries of one cluster are drawn
            together, because they are not independent.
        text_cluster: (n_texts,) that of the text's image.
        families: the families of metrics that the protocol includes.
        redrawn: whether each run of a row has its own draw of the split. Clusters are then numbered
            consistently across draws: one number is one image (or identity), and a draw has some of them.
    """

    per_query: Mapping[str, NDArray[np.float64]]
    image_cluster: NDArray[np.int64]
    text_cluster: NDArray[np.int64]
    families: tuple[Family, ...]
    redrawn: bool = False

    @property
    def keys(self) -> list[str]:
        """The metrics that have per-query results, and their combinations, in the order of the table."""
        combined = (
            metric.key
            for metric in metric_table.ENTRIES
            if metric.terms
            and metric.family in self.families
            and all(term in self.per_query for term in metric.terms)
        )
        return metric_table.in_order({*self.per_query, *combined})

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers of images and texts evaluated."""
        return len(self.image_cluster), len(self.text_cluster)

    @cached_property
    def clusters(self) -> NDArray[np.int64]:
        """The clusters that have any query, ascending."""
        return np.unique(np.concatenate([self.image_cluster, self.text_cluster]))

    def metric(self, key: str) -> Metric:
        """The metric of that key among this protocol's families.

        Raises:
            ValueError: there are no per-query results of which it is the mean, or a combination of means.
        """
        for metric in metric_table.ENTRIES:
            terms = metric.terms or (metric.key,)
            if metric.key == key and metric.family in self.families and set(terms) <= set(self.per_query):
                return metric
        raise ValueError(f"{key} has no per-query results; metrics that have them: {', '.join(self.keys)}")


@dataclass(frozen=True)
class ClusterEffects:
    """One metric of several runs, as a sum over the clusters drawn.

    Attributes:
        values: (runs,) the metric, in its unit.
        contributions: (runs, clusters) the terms that sum to the metric; 0 if a run's draw lacks the cluster.
        effects: (runs, clusters) how much higher the metric is because each cluster was drawn instead of an
            average one; the rows sum to 0. 0 if a run's draw lacks the cluster.
        bounds: the smallest and largest possible values of the metric; None if unknown.
        step: how much the metric changes if all queries change from worst to best in one of its terms.
    """

    values: NDArray[np.float64]
    contributions: NDArray[np.float64]
    effects: NDArray[np.float64]
    bounds: tuple[float, float] | None
    step: float


def cluster_effects(runs: Sequence[QueryResults], key: str) -> ClusterEffects:
    """The metric of each run, and the contribution of each cluster of queries.

    Runs with their own draws are laid out over the clusters that any of them has. What a cluster adds to the
    mean over the runs is then the mean over all runs, where those that lack it count as 0: so the variance
    over clusters is that of images shared by several draws, and of images that a single draw has.

    Raises:
        ValueError: there are no runs, the runs didn't answer the same queries (except with their own draws),
            or the metric is not a mean over queries or a combination of such means.
    """
    if not runs:
        raise ValueError("an interval needs at least one run")
    redrawn = runs[0].redrawn
    if redrawn:
        _check_redrawn(runs, key)
    else:
        check_same_queries(runs, key)
    metric = runs[0].metric(key)
    terms = metric.terms or (metric.key,)
    share = 1 / len(terms) if metric.combination == "mean" else 1.0
    numbers = np.unique(np.concatenate([run.clusters for run in runs]))
    size = _number_of_clusters(runs[0], metric, numbers)
    contributions = np.zeros((len(runs), size))
    effects = np.zeros((len(runs), size))
    drawn = np.zeros(size, dtype=np.bool_)
    highest = 0.0
    known = True
    for term in terms:
        part = runs[0].metric(term)
        for row, run in enumerate(runs):
            results = run.per_query[term]
            counts = ~np.isnan(results)
            if not counts.any():
                raise ValueError(f"no query counts for {term}")
            results, index = results[counts], _clusters(run, part, numbers)[counts]
            weight = share * part.unit.scale / len(results)
            sums = np.bincount(index, results, size)
            contributions[row] += weight * sums
            effects[row] += weight * (sums - results.mean() * np.bincount(index, minlength=size))
            drawn[index] = True
            known &= bool(results.min() >= 0 and results.max() <= 1)
        highest += share * part.unit.scale
    return ClusterEffects(
        values=contributions.sum(1),
        contributions=contributions[:, drawn],
        effects=effects[:, drawn],
        bounds=(0.0, highest) if known else None,
        step=highest / len(terms),
    )


def check_paired(rows: Sequence[Sequence[QueryResults]], key: str) -> None:
    """ValueError if the runs of several rows cannot be paired by their queries.

    All runs must have answered the same queries. If each seed has its own draw, only those of the same seed
    must: the rows then need the same seeds, in the same order.
    """
    if not any(run.redrawn for runs in rows for run in runs):
        check_same_queries([run for runs in rows for run in runs], key)
        return
    if len({len(runs) for runs in rows}) > 1:
        raise ValueError("each seed has its own draw, but the rows have different numbers of seeds")
    for together in zip(*rows, strict=True):
        check_same_queries(together, key)


def _check_redrawn(runs: Sequence[QueryResults], key: str) -> None:
    """ValueError if the metric cannot be laid out over the images of several draws."""
    metric = runs[0].metric(key)
    if any(runs[0].metric(term).queries == "classes" for term in metric.terms or (key,)):
        raise ValueError(f"{key} is measured by class, but the runs have their own draws")
    for run in runs:
        run.metric(key)
        if not run.redrawn:
            raise ValueError("some runs have their own draws, but others share one")


def check_same_queries(runs: Sequence[QueryResults], key: str) -> None:
    """ValueError if the runs' results of the metric are not for the same queries in the same clusters."""
    first = runs[0]
    metric = first.metric(key)
    for run in runs[1:]:
        run.metric(key)
        if not np.array_equal(run.image_cluster, first.image_cluster) or not np.array_equal(
            run.text_cluster, first.text_cluster
        ):
            raise ValueError("the runs must answer the same queries: their images or texts differ")
        for term in metric.terms or (key,):
            ours, theirs = run.per_query[term], first.per_query[term]
            if ours.shape != theirs.shape:
                raise ValueError(
                    f"the runs must answer the same queries: {term} has {len(theirs)} of them in one run, "
                    f"but {len(ours)} in another"
                )
            if not np.array_equal(np.isnan(ours), np.isnan(theirs)):
                raise ValueError(f"a query counts for {term} in one run but not in another")


def _clusters(run: QueryResults, metric: Metric, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n_queries,) the position of each query's cluster among ``numbers``; classes are their own clusters."""
    if metric.queries == "classes":
        return np.arange(len(run.per_query[metric.key]))
    clusters = run.image_cluster if metric.queries == "images" else run.text_cluster
    return np.searchsorted(numbers, clusters)


def _number_of_clusters(run: QueryResults, metric: Metric, numbers: NDArray[np.int64]) -> int:
    if metric.queries == "classes" and not metric.terms:
        return len(run.per_query[metric.key])
    return len(numbers)
