"""From records to leaderboards: seeds become one row, and only numbers of one protocol share a table."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.protocols import primary_metric
from crossmodal_bench.evaluation.statistics import t_interval
from crossmodal_bench.jobs.published import Comparison
from crossmodal_bench.jobs.record import Record, row_name
from crossmodal_bench.reporting.neighbours import published_beside

PRESETS = ("paper", "controlled", "small", "smoke")
"""Rows of different presets never mix; the papers' own settings come first."""


@dataclass(frozen=True)
class Cell:
    """One metric of one row.

    ``mean`` and ``sd`` (sample standard deviation, nan for one seed) are over the ``n`` seeds that have the
    metric; ``half_width`` is that of the 95 % t-interval of the mean over seeds (nan for one seed). ``low``
    and ``high`` bound the 95 % bootstrap interval over test images: the seeds' bounds averaged, so the
    interval of one typical run, not of the mean over seeds; None where no seed has one.
    """

    mean: float
    sd: float
    half_width: float
    n: int
    low: float | None
    high: float | None
    published: Comparison


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
    primary: str = ""
    best: bool = False

    @property
    def name(self) -> str:
        """The method, with what distinguishes this row from the method's others."""
        return row_name(self.method, self.label, self.overrides)

    @property
    def ensemble(self) -> bool:
        """Whether several models' similarities were summed."""
        return bool(self.records[-1].ensemble)

    @property
    def published(self) -> Comparison:
        """The published number of the primary metric, or why there is none."""
        cell = self.cells.get(self.primary)
        return cell.published if cell else Comparison(None, reason=f"{self.primary} was not measured")


@dataclass(frozen=True)
class Table:
    """The rows that may be compared: one data set, one version of one protocol, one split.

    ``unverified``: the test split has a named protocol's numbers of images and captions without being
    verified as its split.
    """

    dataset: str
    protocol: str
    version: int
    unverified: bool
    evaluated_on: str
    primary: str
    rows: tuple[Row, ...]

    @property
    def metrics(self) -> list[str]:
        """The metrics that any row has, in the order of the table of metrics."""
        return metric_table.in_order({metric for row in self.rows for metric in row.cells})

    @property
    def records(self) -> list[Record]:
        """Every record behind the table, row by row."""
        return [record for row in self.rows for record in row.records]


def leaderboard(records: Iterable[Record]) -> list[Row]:
    """One row per (data set, protocol, split, preset, method, overrides, label), averaged over seeds.

    Single models and ensembles never share a row, two versions of a protocol never a table. Rows are sorted
    by table (data set, protocol, version, split), then by preset (``PRESETS``), then best first by the
    protocol's primary metric; the best of each table is marked. A record counts under every protocol that it
    was measured under (COCO's 5K and 1K tests), a seed once per row: of several records of it (one job in two
    suites) the last finished one is taken, or n would claim more than was measured.
    """
    rows = []
    measured = (part for record in records for part in record.by_protocol())
    ordered = sorted(measured, key=lambda record: (_table_key(record), record.finished_at, record.job.id))
    for (_, protocol, *_), together in itertools.groupby(ordered, key=_table_key):
        groups: dict[tuple[str, ...], dict[int, Record]] = {}
        for record in together:
            groups.setdefault(_row_key(record), {})[record.job.seed] = record
        table = [_row([seeds[seed] for seed in sorted(seeds)]) for seeds in groups.values()]
        rows += _ranked(table, protocol)
    return rows


def tables(rows: Iterable[Row]) -> list[Table]:
    """The rows of a leaderboard as its tables, in order."""
    split = []
    for (dataset, protocol, version, unverified, evaluated_on), together in itertools.groupby(
        rows, key=lambda row: (row.dataset, row.protocol, row.version, row.unverified, row.evaluated_on)
    ):
        members = tuple(together)
        split.append(Table(dataset, protocol, version, unverified, evaluated_on, members[0].primary, members))
    return split


def differences(records: Sequence[Record], names: Sequence[str] = ()) -> list[str]:
    """What differs, of ``names`` (default: everything), between records that are averaged or compared."""
    sentences = []
    for name in names or _PROVENANCE:
        distinct = dict.fromkeys(_PROVENANCE[name](record) for record in records)
        if len(distinct) > 1:
            sentences.append(f"different {name}: {' / '.join(distinct)}")
    return sentences


def features_text(record: Record) -> str:
    """Kind of regions, network, weights with their checksum, and image size, in one phrase."""
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
    """The kind, number and rule of the labels, and what they are good for."""
    labels = record.data.labels
    kind = labels.get("kind", "none")
    if kind == "none":
        return "none"
    rule = f": {labels['rule']}" if labels.get("rule") else ""
    purpose = "" if kind == "real" else "; they serve training only, no metric rests on them"
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


def _row_key(record: Record) -> tuple[str, ...]:
    job = record.job
    kind = "ensemble" if record.ensemble else "single model"
    return (job.preset, job.method, job.label, json.dumps(job.overrides, sort_keys=True), kind)


def _row(records: Sequence[Record]) -> Row:
    job = records[-1].job
    metrics = {metric: None for record in records for metric in record.metrics}
    costs = {name: None for record in records for name in record.cost}
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
        cells={metric: _cell(metric, records) for metric in metrics},
        cost={name: statistics.fmean(r.cost[name] for r in records if name in r.cost) for name in costs},
        records=tuple(records),
    )


def _cell(metric: str, records: Sequence[Record]) -> Cell:
    values = [record.metrics[metric] for record in records if metric in record.metrics]
    bounds = [record.bootstrap[metric] for record in records if metric in record.bootstrap]
    mean, half_width, n = t_interval(values)
    return Cell(
        mean=mean,
        sd=statistics.stdev(values) if n > 1 else math.nan,
        half_width=half_width,
        n=n,
        low=statistics.fmean(low for low, _ in bounds) if bounds else None,
        high=statistics.fmean(high for _, high in bounds) if bounds else None,
        published=published_beside(records, metric),
    )


def _ranked(rows: Sequence[Row], protocol: str) -> list[Row]:
    primary = _primary(protocol, rows[0].dataset, {metric for row in rows for metric in row.cells})
    sign = 1 if metric_table.lookup(primary).lower_is_better else -1

    def cost(row: Row) -> float:
        return sign * row.cells[primary].mean if primary in row.cells else math.inf

    def position(row: Row) -> tuple[int, str, float, str]:
        preset = PRESETS.index(row.preset) if row.preset in PRESETS else len(PRESETS)
        return (preset, row.preset, cost(row), row.name)

    best = min(cost(row) for row in rows)
    return [
        replace(row, primary=primary, best=primary in row.cells and cost(row) == best)
        for row in sorted(rows, key=position)
    ]


def _primary(protocol: str, dataset: str, present: set[str]) -> str:
    """The protocol's own metric; for one's own data, or where it was not measured, the first there is."""
    summaries = [metric.key for metric in metric_table.summaries()]
    own = primary_metric(protocol, dataset) or summaries[0]
    preferred = [own, *summaries, *metric_table.in_order(present)]
    return next((metric for metric in preferred if metric in present), summaries[0])
