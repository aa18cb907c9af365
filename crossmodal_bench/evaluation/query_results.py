"""What a run has got for each query, and how the metrics follow from the images that were drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.metric_table import Family, Metric


@dataclass(frozen=True)
class QueryResults:
    """Per-query results of one run under one protocol.

    Attributes:
        per_query: by metric key, (n_queries,) what the metric's function gives for each query, before the
            unit's scale. R@K is a probability of a hit when ties are broken at random (mostly 0 or 1). NaN:
            the query doesn't count. With folds, the queries of all folds in the order of the whole split.
        image_cluster: (n_images,) the image itself, or its identity: queries of one cluster are drawn
            together, because they are not independent.
        text_cluster: (n_texts,) that of the text's image.
        families: the families of metrics that the protocol asks for.
    """

    per_query: Mapping[str, NDArray[np.float64]]
    image_cluster: NDArray[np.int64]
    text_cluster: NDArray[np.int64]
    families: tuple[Family, ...]

    @property
    def keys(self) -> list[str]:
        """The metrics that have per-query results, and the combinations of these, in the table's order."""
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
        """How many images and texts were evaluated."""
        return len(self.image_cluster), len(self.text_cluster)

    @cached_property
    def cluster_index(self) -> Mapping[Literal["images", "texts"], NDArray[np.int64]]:
        """The clusters of both kinds of queries, numbered alike from 0."""
        both = np.concatenate([self.image_cluster, self.text_cluster])
        index = np.unique(both, return_inverse=True)[1].astype(np.int64)
        return {"images": index[: len(self.image_cluster)], "texts": index[len(self.image_cluster) :]}

    def metric(self, key: str) -> Metric:
        """The metric of that key among this protocol's families.

        Raises:
            ValueError: where there are no per-query results that it is a mean of, or a combination of means.
        """
        for metric in metric_table.ENTRIES:
            terms = metric.terms or (metric.key,)
            if metric.key == key and metric.family in self.families and set(terms) <= set(self.per_query):
                return metric
        raise ValueError(f"{key} has no per-query results; those that have: {', '.join(self.keys)}")


@dataclass(frozen=True)
class ClusterEffects:
    """One metric of several runs on the same queries, as a sum over the clusters that were drawn.

    Attributes:
        values: (runs,) the metric, in its unit.
        contributions: (runs, clusters) what the metric is the sum of.
        effects: (runs, clusters) by how much the metric is higher because each cluster was drawn and not an
            average one; the rows sum to 0.
        bounds: the least and the greatest value that the metric can have; None where that is not known.
        step: by how much the metric changes if all queries change from worst to best in one of its terms.
    """

    values: NDArray[np.float64]
    contributions: NDArray[np.float64]
    effects: NDArray[np.float64]
    bounds: tuple[float, float] | None
    step: float


def cluster_effects(runs: Sequence[QueryResults], key: str) -> ClusterEffects:
    """The metric of each run, and what each cluster of queries adds to it.

    Raises:
        ValueError: without any run, where the runs didn't answer the same queries, or where the metric is
            no mean over queries nor a combination of such means.
    """
    if not runs:
        raise ValueError("an interval needs at least one run")
    check_same_queries(runs, key)
    metric = runs[0].metric(key)
    terms = metric.terms or (metric.key,)
    share = 1 / len(terms) if metric.combination == "mean" else 1.0
    size = _number_of_clusters(runs[0], metric)
    contributions = np.zeros((len(runs), size))
    effects = np.zeros((len(runs), size))
    drawn = np.zeros(size, dtype=np.bool_)
    highest = 0.0
    known = True
    for term in terms:
        part = runs[0].metric(term)
        results = np.stack([run.per_query[term] for run in runs])
        counts = ~np.isnan(results[0])
        if not counts.any():
            raise ValueError(f"no query counts for {term}")
        index = _clusters(runs[0], part)[counts]
        weight = share * part.unit.scale / counts.sum()
        sums = np.stack([np.bincount(index, row, size) for row in results[:, counts]])
        means = results[:, counts].mean(1, keepdims=True)
        contributions += weight * sums
        effects += weight * (sums - means * np.bincount(index, minlength=size))
        drawn[index] = True
        known &= bool(np.nanmin(results) >= 0 and np.nanmax(results) <= 1)
        highest += share * part.unit.scale
    return ClusterEffects(
        values=contributions.sum(1),
        contributions=contributions[:, drawn],
        effects=effects[:, drawn],
        bounds=(0.0, highest) if known else None,
        step=highest / len(terms),
    )


def check_same_queries(runs: Sequence[QueryResults], key: str) -> None:
    """ValueError where the runs' results of the metric are not of the same queries in the same clusters."""
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
                    f"the runs must answer the same queries: {term} has {len(theirs)} of them, "
                    f"and elsewhere {len(ours)}"
                )
            if not np.array_equal(np.isnan(ours), np.isnan(theirs)):
                raise ValueError(f"a query counts for {term} in one run and not in another")


def _clusters(run: QueryResults, metric: Metric) -> NDArray[np.int64]:
    """(n_queries,) the cluster of each query of a metric; classes are drawn themselves."""
    if metric.queries == "classes":
        return np.arange(len(run.per_query[metric.key]))
    return run.cluster_index[metric.queries]


def _number_of_clusters(run: QueryResults, metric: Metric) -> int:
    if metric.queries == "classes" and not metric.terms:
        return len(run.per_query[metric.key])
    return 1 + max(int(index.max(initial=-1)) for index in run.cluster_index.values())
