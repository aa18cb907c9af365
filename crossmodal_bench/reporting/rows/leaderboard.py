"""From records to leaderboards: the seeds of a method become one row, and each protocol has its own table."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.protocols.protocol import is_redrawn, primary_metric
from crossmodal_bench.evaluation.query_results import QueryResults, check_paired
from crossmodal_bench.evaluation.statistics.comparisons import (
    Difference,
    PairedDifference,
    compare_all,
    tied_with_first,
)
from crossmodal_bench.evaluation.statistics.intervals import Interval
from crossmodal_bench.jobs.published import Comparison
from crossmodal_bench.jobs.record import Record, row_name
from crossmodal_bench.reporting.rows.neighbours import comparable_numbers
from crossmodal_bench.reporting.rows.query_order import in_order_of, query_order, surely_alike
from crossmodal_bench.reporting.rows.row_results import Reader, RowResults, read_query_results, read_results
from crossmodal_bench.reporting.rows.stored_intervals import Target, from_queries, from_records

PRESETS = ("paper", "tuned", "small", "smoke")
"""Rows of different presets never mix; the papers' own settings come first."""


@dataclass(frozen=True)
class Cell:
    """One metric of one row, in the metric's unit.

    Attributes:
        mean: mean over the ``n`` seeds that have the metric.
        n: number of these seeds.
        low: lower end of the 95 % interval; None if there is no interval.
        high: its upper end.
        target: what the interval covers; None if there is none.
        items_error: standard error of the mean due to the choice of test images; None if unknown.
        seeds_error: likewise due to the choice of seeds; None for one seed.
        published: the comparable published number, or why there is none.
    """

    mean: float
    n: int
    low: float | None
    high: float | None
    target: Target | None
    items_error: float | None
    seeds_error: float | None
    published: Comparison

    @property
    def half_width(self) -> float | None:
        """The number printed after ±: the longer side of the interval; None if there is none."""
        if self.low is None or self.high is None:
            return None
        return max(self.mean - self.low, self.high - self.mean)


@dataclass(frozen=True)
class Row:
    """One method's results under one protocol and preset over its seeds; costs are means over seeds."""

    dataset: str
    protocol: str
    version: int
    unverified: bool
    evaluated_on: str
    preset: str
    method: str
    label: str
    overrides: dict[str, Any]
    seeds: tuple[int, ...]
    cells: dict[str, Cell]
    cost: dict[str, float]
    records: tuple[Record, ...] = field(repr=False)
    results: RowResults = field(repr=False)
    primary: str = ""
    shared: dict[str, Any] = field(default_factory=dict)
    """Those overrides that all rows of its table have, and that distinguish none."""

    @property
    def name(self) -> str:
        """The method, plus what distinguishes this row from the method's others."""
        own = {key: value for key, value in self.overrides.items() if key not in self.shared}
        name = row_name(self.method, self.label, own)
        return f"{name} [reference]" if self.reference else name

    @property
    def reference(self) -> bool:
        """Whether it is from ``results/``, shown alongside the user's own rows."""
        return self.records[-1].reference

    @property
    def ensemble(self) -> bool:
        """Whether several models' similarities were summed."""
        return bool(self.records[-1].ensemble)

    @property
    def target(self) -> Target | None:
        """What the row's intervals cover: that of the primary metric, else the first one."""
        cells = [self.cells[self.primary]] if self.primary in self.cells else []
        return next((cell.target for cell in (*cells, *self.cells.values()) if cell.target), None)

    @property
    def published(self) -> Comparison:
        """The published number of the primary metric, or why there is none."""
        cell = self.cells.get(self.primary)
        return cell.published if cell else Comparison(None, reason=f"{self.primary} was not measured")


@dataclass(frozen=True)
class Table:
    """Rows that are comparable: one data set, one version of one protocol, one split.

    Attributes:
        dataset: the data set.
        protocol: the protocol. Under some, each seed has its own draw of the split (``redrawn``).
        version: the version of the protocol.
        unverified: whether the test split only matches a named protocol's numbers of images and captions,
            without being verified as its split.
        evaluated_on: the split.
        primary: the metric that ranks the rows.
        rows: sorted by preset, then best first.
        first: the position of the row with the best number of all presets; None if no row has one. Reference
            rows do not count: users' own rows are marked and tested among themselves, since every further row
            would reduce the power of the tests.
        tested: the positions of the rows that are compared with each other: they answered the same queries as
            the first, and their results on single queries are known.
        pairs: the differences between any two of them in the primary metric, by position; the p values are
            adjusted for all of the table's pairs.
    """

    dataset: str
    protocol: str
    version: int
    unverified: bool
    evaluated_on: str
    primary: str
    rows: tuple[Row, ...]
    first: int | None
    tested: tuple[int, ...]
    pairs: tuple[PairedDifference, ...] = field(repr=False)

    @property
    def redrawn(self) -> bool:
        """Whether each seed has its own draw of the split."""
        return is_redrawn(self.protocol)

    @property
    def best_set(self) -> frozenset[int]:
        """The positions of the rows that are not significantly behind the first, including the first.

        Empty if the first row cannot be tested, or there is nothing to test it against: the highest number
        alone says nothing.
        """
        if self.first is None or self.first not in self.tested or len(self.tested) < 2:
            return frozenset()
        return tied_with_first(self.first, self.pairs)

    @property
    def metrics(self) -> list[str]:
        """The metrics that any row has, in the order of the metric table."""
        return metric_table.in_order({metric for row in self.rows for metric in row.cells})

    @property
    def own(self) -> tuple[Row, ...]:
        """The rows other than references."""
        return tuple(row for row in self.rows if not row.reference)

    @property
    def records(self) -> list[Record]:
        """All records of the table's own rows, row by row."""
        return [record for row in self.own for record in row.records]

    def difference(self, position: int, other: int) -> Difference | None:
        """The row at ``position`` minus the other in the primary metric; None unless both are tested.

        The p value is not adjusted.
        """
        for pair in self.pairs:
            if (pair.first, pair.second) == (position, other):
                return pair.difference
            if (pair.first, pair.second) == (other, position):
                return _reversed(pair.difference)
        return None


def _reversed(difference: Difference) -> Difference:
    """The difference with its rows swapped."""
    return replace(
        difference,
        value=-difference.value,
        low=-difference.high,
        high=-difference.low,
        targets=difference.targets[::-1],
        n=difference.n[::-1],
    )


def leaderboard(records: Iterable[Record], read: Reader = read_query_results) -> list[Row]:
    """One row per (data set, protocol, split, preset, method, overrides, label), averaged over seeds.

    Single models and ensembles never share a row, and versions of a protocol never share a table. Rows are
    sorted by table (data set, protocol, version, split), then by preset (``PRESETS``), then best first by the
    protocol's primary metric. A record counts under every protocol it was measured under (COCO's 5K and 1K
    tests), a seed once per row: of several records of one seed (one job in two suites) the last finished one
    is used, or n would claim more than was measured.

    References get their own rows, only next to others of the same data set, protocol, version and split.

    Args:
        records: those of finished jobs, and references.
        read: reads a record's results on single queries, from which intervals and comparisons are computed.
    """
    rows = []
    measured = [part for record in records for part in record.by_protocol()]
    own = {_split_key(part) for part in measured if not part.reference}
    shown = (part for part in measured if not part.reference or _split_key(part) in own)
    ordered = sorted(shown, key=lambda record: (_table_key(record), record.finished_at, record.job.id))
    for (_, protocol, *_), together in itertools.groupby(ordered, key=_table_key):
        groups: dict[tuple[str, ...], dict[int, Record]] = {}
        for record in together:
            groups.setdefault(_row_key(record), {})[record.job.seed] = record
        table = [_row([seeds[seed] for seed in sorted(seeds)], read) for seeds in groups.values()]
        rows += _ranked(table, protocol)
    return rows


def tables(rows: Iterable[Row]) -> list[Table]:
    """The tables of a leaderboard, in order, with the differences between the rows of each."""
    split = []
    for (dataset, protocol, version, unverified, evaluated_on), together in itertools.groupby(
        rows, key=lambda row: (row.dataset, row.protocol, row.version, row.unverified, row.evaluated_on)
    ):
        members = tuple(together)
        primary = members[0].primary
        first = _first(members, primary)
        tested = _tested(members, first, primary)
        split.append(
            Table(
                dataset=dataset,
                protocol=protocol,
                version=version,
                unverified=unverified,
                evaluated_on=evaluated_on,
                primary=primary,
                rows=members,
                first=first,
                tested=tested,
                pairs=_pairs(members, first, tested, primary),
            )
        )
    return split


def have_same_queries(row: Row, other: Row, metric: str) -> bool:
    """Whether all runs of both rows answered the same queries, with known results, for a metric.

    If each seed has its own draw: whether both rows have the same seeds, with the same queries per seed.
    """
    if metric not in row.results.intervals or metric not in other.results.intervals:
        return False
    splits, others = ([record.data.split_hash for record in each.records] for each in (row, other))
    if splits != others if is_redrawn(row.protocol) else len({*splits, *others}) > 1:
        return False
    runs = runs_in_order_of(row, other)
    if runs is None:
        return False
    try:
        check_paired([runs, other.results.runs], metric)
    except ValueError:
        return False
    return True


def runs_in_order_of(row: Row, other: Row) -> tuple[QueryResults, ...] | None:
    """What the runs of a row gave for each query, in the order of another row's queries.

    None where the rows have answered other queries. Where each seed has a draw of its own, the order is the
    data set's.
    """
    runs = row.results.runs
    if row is other or is_redrawn(row.protocol) or surely_alike([*row.records, *other.records]):
        return runs
    try:
        ours, theirs = query_order(row.records[0]), query_order(other.records[0])
    except BadInput:
        return None
    like = other.results.runs[0]
    ordered = [run for run in (in_order_of(run, ours, like, theirs) for run in runs) if run is not None]
    return tuple(ordered) if len(ordered) == len(runs) else None


def differences(records: Sequence[Record], names: Sequence[str] = ()) -> list[str]:
    """The differences in ``names`` (default: all) between records that are averaged or compared."""
    sentences = []
    for name in names or _PROVENANCE:
        distinct = dict.fromkeys(_PROVENANCE[name](record) for record in records)
        if len(distinct) > 1:
            sentences.append(f"different {name}: {' / '.join(distinct)}")
    return sentences


def features_text(record: Record) -> str:
    """Kind of regions, network, weights with checksum, and image size, in one phrase."""
    features = record.data.features or {}
    members = (_features_text(source) for source in features.get("members", [record.data.features]))
    return " + ".join(dict.fromkeys(members))


def _features_text(features: dict[str, Any] | None) -> str:
    if features is None:
        return "given by the data set"
    if "given" in features:
        return f"the user's own: {features['given']}"
    pooled = features.get("pooled")
    return _made_by(features) + (f", and {_made_by(pooled)}" if pooled else "")


def _made_by(features: dict[str, Any]) -> str:
    regions = f"{features.get('count')} {features['regions']} regions" if features.get("regions") else ""
    if features.get("regions") == "precomputed":
        return f"{regions} of {features.get('weights')}, {features.get('dim')} wide"
    checksum = str(features.get("weights_sha256") or "unknown")[:12]
    size = features.get("image_size")
    pixels = f", {size} px" if size else ""
    pixels += ", squashed" if features.get("image_fit") == "squash" else ""
    pixels += ", inside the model" if features.get("inside_the_model") else ""
    network = f"{regions} of {features.get('network')}" if regions else features.get("network")
    return f"{network}, weights {features.get('weights')} (sha256 {checksum}){pixels}"


def labels_text(record: Record) -> str:
    """The kind, number, rule and use of the labels."""
    labels = record.data.labels
    kind = labels.get("kind", "none")
    if kind == "none":
        return "none"
    rule = f": {labels['rule']}" if labels.get("rule") else ""
    purpose = "" if kind == "real" else "; used in training only, by no metric"
    return f"{labels.get('count')} {kind}{rule}{purpose}"


_PROVENANCE: dict[str, Callable[[Record], str]] = {
    "data fingerprints": lambda record: record.data.fingerprint[:12],
    "split hashes": lambda record: record.data.split_hash,
    "features": features_text,
    "labels": labels_text,
    "source fingerprints": lambda record: record.source_fingerprint[:12],
}


def _table_key(record: Record) -> tuple[str, str, int, bool, str]:
    return (
        record.job.dataset,
        record.job.protocol,
        record.protocol_version,
        bool(record.resembles),
        record.evaluated_on,
    )


def _split_key(record: Record) -> tuple[str | int, ...]:
    return (*_table_key(record), record.data.split_hash)


def _row_key(record: Record) -> tuple[str, ...]:
    job = record.job
    kind = "ensemble" if record.ensemble else "single model"
    if record.reference:
        kind = f"reference {kind}"
    return (job.preset, job.method, job.label, json.dumps(job.overrides, sort_keys=True), kind)


def _row(records: Sequence[Record], read: Reader) -> Row:
    job = records[-1].job
    results = read_results(records, read)
    metrics = {metric: None for record in records for metric in record.metrics}
    costs = {name: None for record in records for name in record.cost}
    published = comparable_numbers(records, metrics)
    return Row(
        dataset=job.dataset,
        protocol=job.protocol,
        version=records[-1].protocol_version,
        unverified=bool(records[-1].resembles),
        evaluated_on=records[-1].evaluated_on,
        preset=job.preset,
        method=job.method,
        label=job.label,
        overrides=job.overrides,
        seeds=tuple(record.job.seed for record in records),
        cells={
            metric: _cell(metric, records, results.intervals.get(metric), published[metric])
            for metric in metrics
        },
        cost={name: statistics.fmean(r.cost[name] for r in records if name in r.cost) for name in costs},
        records=tuple(records),
        results=results,
    )


def _cell(metric: str, records: Sequence[Record], interval: Interval | None, published: Comparison) -> Cell:
    """One number with ``interval``, from its queries, or else with the interval that the records state."""
    measured = [record for record in records if metric in record.metrics]
    values = [record.metrics[metric] for record in measured]
    if interval is None:
        bounds = [record.intervals[metric] for record in measured if metric in record.intervals]
        shown = from_records(values, bounds)
    else:
        shown = from_queries(interval)
    return Cell(
        mean=statistics.fmean(values),
        n=len(values),
        low=shown.low,
        high=shown.high,
        target=shown.target,
        items_error=shown.items_error,
        seeds_error=shown.seeds_error,
        published=published,
    )


def _ranked(rows: Sequence[Row], protocol: str) -> list[Row]:
    primary = _primary(protocol, rows[0].dataset, {metric for row in rows for metric in row.cells})
    shared = _shared_overrides(rows)

    def position(row: Row) -> tuple[int, str, float, str]:
        preset = PRESETS.index(row.preset) if row.preset in PRESETS else len(PRESETS)
        return (preset, row.preset, _cost(row, primary), row.name)

    named = [replace(row, primary=primary, shared=shared) for row in rows]
    return sorted(named, key=position)


def _shared_overrides(rows: Sequence[Row]) -> dict[str, Any]:
    """What every row of a table was run with; nothing for a single row, which has no others to share with."""
    first, *others = rows
    return {
        key: value
        for key, value in first.overrides.items()
        if others and all(key in row.overrides and row.overrides[key] == value for row in others)
    }


def _cost(row: Row, metric: str) -> float:
    """The row's number, negated if higher is better; infinite if missing."""
    if metric not in row.cells:
        return math.inf
    return row.cells[metric].mean * (1 if metric_table.lookup(metric).lower_is_better else -1)


def _first(rows: Sequence[Row], primary: str) -> int | None:
    measured = [position for position, row in enumerate(rows) if primary in row.cells and not row.reference]
    return min(measured, key=lambda position: _cost(rows[position], primary), default=None)


def _tested(rows: Sequence[Row], first: int | None, primary: str) -> tuple[int, ...]:
    """The rows whose queries are known and the same as those of the first row."""
    if first is None:
        return ()
    return tuple(
        position
        for position, row in enumerate(rows)
        if not row.reference and have_same_queries(row, rows[first], primary)
    )


def _pairs(
    rows: Sequence[Row], first: int | None, tested: Sequence[int], metric: str
) -> tuple[PairedDifference, ...]:
    if first is None:
        return ()
    ordered = [runs_in_order_of(rows[position], rows[first]) for position in tested]
    pairs = compare_all([runs for runs in ordered if runs is not None], metric)
    return tuple(replace(pair, first=tested[pair.first], second=tested[pair.second]) for pair in pairs)


def _primary(protocol: str, dataset: str, present: set[str]) -> str:
    """The protocol's own metric; for users' own data, or if it was not measured, the first available."""
    summaries = [metric.key for metric in metric_table.summaries()]
    own = primary_metric(protocol, dataset) or summaries[0]
    preferred = [own, *summaries, *metric_table.in_order(present)]
    return next((metric for metric in preferred if metric in present), summaries[0])
