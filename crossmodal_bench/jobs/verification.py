"""Does a record match its files? Every metric that follows from per-query results is recomputed."""

from __future__ import annotations

import numpy as np

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.evaluate import fold_metrics
from crossmodal_bench.evaluation.metrics import fold_slices
from crossmodal_bench.evaluation.protocols.protocol import PROTOCOLS, RULES, Protocol, id_scheme
from crossmodal_bench.evaluation.protocols.splits import SplitItems, split_hash
from crossmodal_bench.evaluation.query_results import QueryResults
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks
from crossmodal_bench.evaluation.ranking.ranks import Ranks
from crossmodal_bench.evaluation.statistics.intervals import intervals
from crossmodal_bench.evaluation.stored_results import load_query_results
from crossmodal_bench.jobs.query_ids import Ids, load_query_ids
from crossmodal_bench.jobs.record import Record

ROUNDING = 1e-9
"""How far a recomputed metric may be from the record's; only another NumPy version makes it differ."""

_OF_INTERVALS = 1e-6
"""Likewise the ends of its interval, which another SciPy finds by other series."""


def check_record(record: Record) -> list[str]:
    """What is wrong with a record, in sentences that name the file; empty if everything agrees.

    Checks under every protocol: its version, the query ids and the split that they form, the consistency of
    the ranks, and every metric that follows from them, with its interval. Caption metrics and curves do not
    follow from them, and are not checked.
    """
    return [fault for part in record.by_protocol() for fault in _faults(part)]


def recomputed_metrics(record: Record) -> dict[str, float]:
    """Every metric of the record's protocol that follows from its per-query results.

    Raises:
        MissingInput: the file is missing.
        BadInput: it is damaged, or has impossible values.
    """
    try:
        return _metrics(record)
    # Shapes that do not match, ranks below 1, text instead of numbers.
    except (ValueError, TypeError, IndexError) as error:
        raise BadInput(f"{record.ranks} has inconsistent per-query results; run its job again") from error


def named_protocol(record: Record) -> Protocol | None:
    """The named protocol whose split the record claims, if it claims one."""
    return PROTOCOLS.get(record.job.protocol)


def current_version(record: Record) -> int:
    """The current version of the record's protocol."""
    protocol = named_protocol(record)
    return RULES if protocol is None else protocol.version


def _metrics(record: Record) -> dict[str, float]:
    results = load_query_results(record.ranks)
    metrics: dict[str, float] = {}
    for family in results.families:
        if family == "ranks":
            metrics |= fold_metrics(_folds(record, results))
            continue
        means = {
            metric.key: metric.average(results.per_query[metric.key])
            for metric in metric_table.computed(family)
            if metric.key in results.per_query
        }
        metrics |= means | dict(metric_table.combinations(means, [family]))
    return metrics


def _folds(record: Record, results: QueryResults) -> list[tuple[QueryRanks, QueryRanks]]:
    """(i2t, t2i) of each fold; a fold's captions are those whose cluster is one of its images."""
    ranks = Ranks.load(record.ranks)
    i2t, t2i = ranks.of("i2t"), ranks.of("t2i")
    for side, stored in ((i2t, ranks.i2t_expected), (t2i, ranks.t2i_expected)):
        if not np.allclose(side.expected, stored, equal_nan=True):
            raise ValueError("expected ranks do not match the ties")
    protocol = named_protocol(record) or PROTOCOLS.get(record.resembles)
    if protocol is None or protocol.folds == 1:
        return [(i2t, t2i)]
    owner = results.text_cluster
    folds = []
    for block in fold_slices(len(i2t), protocol.folds):
        texts = (owner >= block.start) & (owner < block.stop)
        folds.append((_chosen(i2t, block), _chosen(t2i, texts)))
    return folds


def _chosen(ranks: QueryRanks, rows: slice | np.ndarray) -> QueryRanks:
    return QueryRanks(ranks.strict[rows], ranks.tied[rows], ranks.tied_positives[rows])


def _faults(record: Record) -> list[str]:
    path = record.directory
    version = current_version(record)
    if record.protocol_version != version:
        return [
            f"{path} was measured under {record.protocol_label}, but {record.job.protocol}@{version} is "
            "current; run its job again"
        ]
    try:
        metrics = recomputed_metrics(record)
        results = load_query_results(record.ranks)
        ids = load_query_ids(record.files, record.ranks)
    except BadInput as error:
        return [str(error)]
    # Of other queries than the record's, nothing else can be right.
    return _wrong_items(record, results, ids) or [
        *_wrong_metrics(record, metrics),
        *_wrong_intervals(record, results),
    ]


def _wrong_metrics(record: Record, metrics: dict[str, float]) -> list[str]:
    faults = []
    for key, value in metrics.items():
        stated = record.metrics.get(key)
        if stated is None or abs(stated - value) > ROUNDING * max(1.0, abs(value)):
            said = "no such metric" if stated is None else f"{stated}"
            faults.append(f"{record.ranks} gives {key} {value}, but the record has {said}; run its job again")
    for key in record.metrics.keys() - metrics.keys():
        if metric_table.lookup(key).family in metric_table.RANKED_FAMILIES:
            faults.append(f"{record.ranks} does not give the record's {key}; run its job again")
    return faults


def _wrong_intervals(record: Record, results: QueryResults) -> list[str]:
    try:
        found = {key: (each.low, each.high) for key, each in intervals([results]).items()}
    # Clusters of other queries, or a metric for which no query counts.
    except (ValueError, IndexError):
        return [f"{record.ranks} holds no results of queries that fit together; run its job again"]
    faults = []
    for key, ends in found.items():
        stated = record.intervals.get(key)
        if stated is None or not np.allclose(stated, ends, rtol=_OF_INTERVALS, atol=_OF_INTERVALS):
            said = "none" if stated is None else _interval_text(stated)
            faults.append(
                f"{record.ranks} gives {key} the interval {_interval_text(ends)} and the record has {said}; "
                "run its job again"
            )
    faults += [
        f"{record.ranks} does not give the record's interval of {key}; run its job again"
        for key in record.intervals.keys() - found.keys()
    ]
    return faults


def _interval_text(ends: tuple[float, float]) -> str:
    return f"[{ends[0]:.6g}, {ends[1]:.6g}]"


def _wrong_items(record: Record, results: QueryResults, ids: Ids) -> list[str]:
    """Faults in the queries: whether they are those of the record's split."""
    path = record.ranks
    image_ids, caption_ids = ids
    counts = record.data.counts.get(record.evaluated_on, {})
    found = {"images": len(results.image_cluster), "captions": len(results.text_cluster)}
    if (len(image_ids), len(caption_ids)) != (found["images"], found["captions"]):
        return [f"{path} has different numbers of query results and ids; run its job again"]
    for what, count in found.items():
        if counts.get(what) != count:
            return [f"{path} has {count:,} {what}, but the record {counts.get(what)}; run its job again"]
    if len(set(image_ids)) != len(image_ids):
        return [f"{path} repeats an image id; run its job again"]
    protocol = named_protocol(record)
    owner = results.text_cluster
    # By identity, clusters are persons; and texts without an image are numbered after all images.
    by_image = np.array_equal(results.image_cluster, np.arange(len(image_ids)))
    if not by_image or owner.max(initial=0) >= len(image_ids):
        return []
    items = SplitItems(image_ids, owner, caption_ids)
    if record.evaluated_on == "test" and record.data.split_hash != split_hash(
        items, id_scheme(record.job.dataset.partition("-")[0])
    ):
        return [f"{path} is not of the record's split {record.data.split_hash}; run its job again"]
    if protocol is not None and protocol.split.verifiable:
        return [
            f"{path} is not of the split of {record.protocol_label}: {fault}; run its job again"
            for fault in protocol.split.faults(items, ordered=protocol.folds > 1)
        ]
    return []
