"""Results on single queries of a row's runs, from which its intervals and comparisons are computed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.evaluation.protocols.protocol import is_redrawn
from crossmodal_bench.evaluation.query_results import QueryResults
from crossmodal_bench.evaluation.statistics.intervals import Interval, intervals
from crossmodal_bench.evaluation.stored_results import load_query_results
from crossmodal_bench.jobs.directory import check_own
from crossmodal_bench.jobs.query_ids import Ids, load_query_ids
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.rows.query_order import QueryOrder, in_order_of, query_order, surely_alike

Reader = Callable[[Record], QueryResults]
"""Reads the results of a record's queries under the record's protocol; BadInput if there are none."""

_OTHER_QUERIES = "the seeds did not answer the same queries"
_TOLERANCE = 1e-3
"""Tolerance between a mean over queries and the record's number, in units of the metric function's value.

Folds with unequal numbers of captions weigh queries slightly differently; another run differs by more.
"""


@dataclass(frozen=True)
class RowResults:
    """The runs of one row, in the order of its seeds; or why they are unknown.

    Attributes:
        runs: one per seed; empty unless known for all seeds.
        intervals: the interval of the mean over the runs, by metric; for each metric that is a mean over
            queries, or a sum or mean of such metrics.
        missing: why they are unknown, as the end of a sentence; empty if they are known.
    """

    runs: tuple[QueryResults, ...] = ()
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    missing: str = ""


def read_query_results(record: Record) -> QueryResults:
    """A record's results on single queries under its protocol; cached until the file changes.

    Raises:
        MissingInput: there is no file of them.
        BadInput: the file is damaged, or was written by an earlier version.
    """
    path = record.ranks
    try:
        state = path.stat()
    # The protocol's name is part of the file name, and may be any text in a record from others.
    except (OSError, ValueError) as error:
        raise MissingInput(f"{path} is missing; run its job again") from error
    try:
        check_own(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); run its job again") from error
    return _load(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=512)
def _load(path: Path, modified: int, size: int) -> QueryResults:
    """The results in a file with that time and size."""
    damaged = BadInput(f"{path} has inconsistent per-query results; run its job again")
    try:
        results = load_query_results(path)
    # Impossible numbers, or text instead of numbers.
    except (ValueError, TypeError) as error:
        raise damaged from error
    clusters = {"images": results.image_cluster, "texts": results.text_cluster}
    if any(cluster.ndim != 1 or cluster.dtype.kind not in "iu" for cluster in clusters.values()):
        raise damaged
    for key, values in results.per_query.items():
        if values.ndim != 1 or values.dtype.kind != "f" or not len(values):
            raise damaged
        queries = results.metric(key).queries
        if queries != "classes" and len(values) != len(clusters[queries]):
            raise damaged
    return results


def read_results(records: Sequence[Record], read: Reader) -> RowResults:
    """The results of all runs of one row.

    They count only if they give the numbers of the records: a file from another run, or one written under
    other rules, says nothing about these.

    Args:
        records: the records of the row, under one protocol.
        read: reads one record's results.
    """
    runs = []
    for record in records:
        try:
            results = read(record)
        except MissingInput:
            return RowResults(missing="there is no file of them")
        except BadInput as error:
            return RowResults(missing=str(error))
        for key in results.keys:
            if key in record.metrics and not _gives(results, key, record.metrics[key]):
                return RowResults(missing=f"they do not give the record's {key}")
        runs.append(results)
    if is_redrawn(records[0].job.protocol):
        try:
            runs = _numbered_alike(runs, [load_query_ids(record.files, record.ranks) for record in records])
        except BadInput as error:
            return RowResults(missing=str(error))
    elif len({record.data.split_hash for record in records}) > 1:
        # Queries are numbered from 0 in every split, so different queries could look the same.
        return RowResults(missing=_OTHER_QUERIES)
    elif not surely_alike(records):
        try:
            runs = _ordered_alike(runs, [query_order(record) for record in records])
        except BadInput as error:
            return RowResults(missing=str(error))
    measured = [key for key in runs[0].keys if all(key in record.metrics for record in records)]
    try:
        return RowResults(tuple(runs), _intervals(runs, measured))
    except ValueError:
        return RowResults(missing=_OTHER_QUERIES)


def _ordered_alike(runs: Sequence[QueryResults], orders: Sequence[QueryOrder]) -> list[QueryResults]:
    """Runs with their queries in the order of the first one; BadInput where they are others."""
    ordered = [in_order_of(run, order, runs[0], orders[0]) for run, order in zip(runs, orders, strict=True)]
    if any(run is None for run in ordered):
        raise BadInput(_OTHER_QUERIES)
    return [run for run in ordered if run is not None]


def _numbered_alike(runs: Sequence[QueryResults], ids: Sequence[Ids]) -> list[QueryResults]:
    """Runs on different draws, with cluster numbers of images derived from their ids.

    Raises BadInput if queries are not grouped by image, whose ids identify the same image in two draws.
    """
    known = sorted({name for image_ids, _ in ids for name in image_ids})
    number = {name: position for position, name in enumerate(known)}
    numbered = []
    for run, (image_ids, _) in zip(runs, ids, strict=True):
        owner = run.text_cluster
        by_image = np.array_equal(run.image_cluster, np.arange(len(image_ids)))
        if not by_image or owner.min(initial=0) < 0 or owner.max(initial=0) >= len(image_ids):
            raise BadInput("their queries are not grouped by image, as several draws require")
        of_image = np.array([number[name] for name in image_ids], dtype=np.int64)
        numbered.append(
            replace(run, image_cluster=of_image, text_cluster=of_image[owner], redrawn=True),
        )
    return numbered


def _intervals(runs: Sequence[QueryResults], keys: Sequence[str]) -> dict[str, Interval]:
    """Intervals of these metrics only: the results of the others were not checked."""
    needed = {term for key in keys for term in (runs[0].metric(key).terms or (key,))}
    if any(not needed <= set(run.per_query) for run in runs):
        raise ValueError("a run lacks results that others have")
    if not keys:
        return {}
    parts = [replace(run, per_query={key: run.per_query[key] for key in needed}) for run in runs]
    known = intervals(parts)
    return {key: known[key] for key in keys}


def _gives(results: QueryResults, key: str, number: float) -> bool:
    """Whether the mean of the results is the record's number."""
    metric = results.metric(key)
    terms = [results.metric(term) for term in metric.terms] or [metric]
    if any(np.isnan(results.per_query[term.key]).all() for term in terms):
        return False
    means = [term.average(results.per_query[term.key]) for term in terms]
    mean = metric.combined(means) if metric.terms else means[0]
    return abs(mean - number) <= _TOLERANCE * metric.unit.scale * len(terms)
