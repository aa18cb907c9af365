"""Per-query results as stored in a job's directory: written by an evaluation, read by reports."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.metric_table import RANKED_FAMILIES, Family
from crossmodal_bench.evaluation.query_results import QueryResults
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks, Side
from crossmodal_bench.evaluation.ranking.ranks import Ranks, stored_arrays

PerQuery = dict[str, NDArray[np.float64]]
"""By metric key, (n_queries,) the values whose mean is the metric."""

_STORED_AS: Mapping[Family, str] = {
    "all_positives": "positives",
    "label_precision": "ap",
    "class_level": "class",
}
"""Prefixes of the keys of per-query results in their file; those of ranks follow from the ranks."""


def load_query_results(path: Path) -> QueryResults:
    """Load what ``Evaluation.save`` wrote.

    Raises:
        MissingInput: the file is missing.
        BadInput: it is damaged, or was written by a version that did not store ties and clusters.
    """
    names = [f"{folder}/{metric.key}" for family, folder in _STORED_AS.items() for metric in _kept(family)]
    stored = stored_arrays(path, ["image_cluster", "text_cluster", "i2t", *names])
    if "image_cluster" not in stored or "text_cluster" not in stored:
        raise BadInput(f"{path} was written by an earlier version, without ties; run its job again")
    per_query: PerQuery = {}
    families: list[Family] = []
    if "i2t" in stored:
        ranks = Ranks.load(path)
        families.append("ranks")
        per_query |= per_query_of_ranks({side: ranks.of(side) for side in metric_table.SIDES})
    for family, folder in _STORED_AS.items():
        kept = {
            metric.key: stored[f"{folder}/{metric.key}"]
            for metric in _kept(family)
            if f"{folder}/{metric.key}" in stored
        }
        if kept:
            families.append(family)
            per_query |= kept
    ordered = tuple(family for family in RANKED_FAMILIES if family in families)
    return QueryResults(per_query, stored["image_cluster"], stored["text_cluster"], ordered)


def per_query_of_ranks(ranks: Mapping[Side, QueryRanks]) -> PerQuery:
    """By key, the per-query values of each metric of ranks that is a mean over queries."""
    return {
        metric.key: np.asarray(metric.function(ranks[side]), dtype=np.float64)
        for side in metric_table.SIDES
        for metric in metric_table.computed("ranks", side)
        if metric.function is not None and metric.per_query
    }


def stored_per_query(per_query: PerQuery, families: Collection[Family]) -> dict[str, NDArray[Any]]:
    """By name in the file, the results that don't follow from ranks."""
    return {
        f"{folder}/{metric.key}": per_query[metric.key]
        for family, folder in _STORED_AS.items()
        if family in families
        for metric in _kept(family)
    }


def _kept(family: Family) -> list[metric_table.Metric]:
    return [metric for metric in metric_table.computed(family) if metric.per_query]
