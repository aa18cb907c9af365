"""The papers' own numbers, row by row, and whether one of ours may stand beside them.

The numbers lie in ``published.yaml``. A row says under which protocol it was measured, on which features and
whether by one model or an ensemble, because two numbers may share a column only where all of that agrees.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, Field

from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.core.files import parse_yaml, shown
from crossmodal_bench.core.validation import Items, Model, WholeNumber, fault, validated
from crossmodal_bench.evaluation.metric_table import published_keys

METRICS = published_keys()
"""The metrics that a table may have, in the units of the table of metrics."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of a paper's table.

    ``ours`` is our name of the method (None: we have none), ``backbone`` the image and text features (None:
    not stated), ``ensemble`` whether several models' similarities were summed (None: not stated). Where
    ``comparable`` is false, ``note`` says why. ``values`` maps metric keys to numbers, None for '-'.
    ``label`` is that of the suite's row whose overrides make our method this one; empty for the method's own
    setting. ``could_mean`` maps our metric keys to a column that may be that metric: the paper leaves it
    open.
    ``source`` is how a report names the row: "ACMR Table 2, SIFT + LDA".
    """

    paper: str
    table: str
    method: str
    ours: str | None
    label: str
    dataset: str
    protocol: str
    backbone: str | None
    ensemble: bool | None
    comparable: bool
    note: str
    values: dict[str, float | None]
    caption: str
    source: str
    could_mean: dict[str, str] = field(default_factory=dict)

    def value(self, metric: str) -> float | None:
        """The number printed for ``metric``, or in the column that could mean it, or None."""
        return self.values.get(self.could_mean.get(metric, metric))


@dataclass(frozen=True)
class Comparison:
    """A published number for one of ours, or the reason why there is none.

    Either ``value``, ``source`` and ``backbone`` (a row's) are set, or ``reason`` is. ``note`` holds what a
    reader must know beside the value, other published values of the same method included.
    """

    value: float | None
    source: str | None = None
    reason: str | None = None
    note: str = ""
    backbone: str | None = None


def _known_metric(name: str) -> str:
    if name not in METRICS:
        raise fault(f"has the unknown name {shown(name)}{nearest(name, METRICS)}")
    return name


Metric = Annotated[str, AfterValidator(_known_metric)]


class Paper(Model):
    """What a table says of a paper; ``name`` is its method's."""

    name: str
    year: WholeNumber
    citation: str


class ProtocolFacts(Model):
    """A published protocol: its data set, and what tells its split from others of the same data set."""

    dataset: str
    split: str = ""
    note: str = ""


class _Inherited(Model):
    """What a table or a group says for all its rows, and a row for itself; see ``PublishedRow``.

    A default counts for nothing: what no level gives is missing, but for what ``_OPTIONAL`` has.
    """

    columns: Items[Metric] = ()
    protocol: str = ""
    backbone: str | None = None
    ensemble: bool | None = None
    comparable: bool = True
    note: str = ""
    could_mean: dict[Metric, str] = Field(default_factory=dict)


class _Row(_Inherited):
    method: str
    values: Items[float | None]
    ours: str | None = None
    label: str = ""


class _Group(_Inherited):
    rows: Items[_Row]


class _Table(_Inherited):
    paper: str
    table: str
    caption: str
    groups: Items[_Group]

    @property
    def title(self) -> str:
        """How its paper names it."""
        return self.table if self.table.startswith("in-text") else f"Table {self.table}"


class _Document(Model):
    papers: dict[str, Paper]
    protocols: dict[str, ProtocolFacts]
    tables: Items[_Table]


_OPTIONAL: dict[str, Any] = {"comparable": True, "could_mean": {}}


@dataclass(frozen=True)
class Published:
    """What ``published.yaml`` holds: rows by their papers' years, citations by paper, protocols' facts."""

    rows: tuple[PublishedRow, ...]
    citations: dict[str, str]
    protocols: dict[str, ProtocolFacts]


def published_rows() -> tuple[PublishedRow, ...]:
    """Every row, a paper's own before later papers' quotations; ``BadInput`` on a malformed file."""
    return _published().rows


def citations() -> dict[str, str]:
    """The reference of each paper, by the key that ``PublishedRow.paper`` holds."""
    return dict(_published().citations)


def comparison(
    ours: str,
    protocol: str,
    metric: str,
    *,
    label: str = "",
    ensemble: bool = False,
) -> Comparison:
    """The published number to show beside our ``metric`` of method ``ours`` under ``protocol``.

    The first row counts, and the note lists those with other features. ``label`` asks for the row that a
    suite's row of that label stands for.
    ``ensemble`` says that our number is an ensemble's. What no table has is no error: the reason says so.
    """
    known = _published().protocols
    dataset = _dataset(protocol, known)
    rows = [row for row in published_rows() if (row.ours, row.label, row.dataset) == (ours, label, dataset)]
    if not rows:
        name = f" ({label})" if label else ""
        return Comparison(None, reason=f"not published: no table has {ours}{name} on this data set")
    rows, others = [row for row in rows if row.protocol == protocol], rows
    if not rows:
        return Comparison(None, reason=f"not comparable: {_other_protocols(others, known)}")
    rows = [row for row in rows if row.value(metric) is not None]
    if not rows:
        return Comparison(None, reason=f"not published: no table has {metric} of {ours} under {protocol}")
    rows, others = [row for row in rows if row.comparable], rows
    if not rows:
        return Comparison(None, reason=f"not comparable: {others[0].note}")
    rows, others = [row for row in rows if row.ensemble in (ensemble, None)], rows
    if not rows:
        theirs, our = ("a single model", "an ensemble") if ensemble else ("an ensemble", "a single model")
        reason = f"not comparable: {theirs}'s number ({others[0].source}), ours is {our}'s"
        return Comparison(None, reason=reason)
    chosen = rows[0]
    value = chosen.value(metric)
    also = [f"{row.value(metric):g} ({row.source})" for row in rows[1:] if row.value(metric) != value]
    notes = [known[protocol].note, chosen.note]
    if also:
        notes.append(f"Also published: {', '.join(also)}.")
    note = " ".join(filter(None, notes))
    return Comparison(value, source=chosen.source, note=note, backbone=chosen.backbone)


def _dataset(protocol: str, known: Mapping[str, ProtocolFacts]) -> str:
    """The data set of a protocol; one that no paper used starts with its name (``flickr30k-test``)."""
    if protocol in known:
        return known[protocol].dataset
    return protocol.partition("-")[0]


def _other_protocols(rows: Sequence[PublishedRow], known: Mapping[str, ProtocolFacts]) -> str:
    names = list(dict.fromkeys(row.protocol for row in rows))
    if len(names) == 1 and known[names[0]].split:
        return f"the paper's split is {known[names[0]].split}"
    return f"the published protocol is {' or '.join(names)}"


@functools.cache
def _published() -> Published:
    path = resources.files(__package__) / "published.yaml"
    return parse(path.read_text(encoding="utf-8"), path.name)


def parse(text: str, source: str) -> Published:
    """The YAML ``text`` of the file ``source``.

    Raises:
        BadInput: it does not fit; the sentence names the file, the row and the field.
    """
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise BadInput(f"{source} is not valid YAML ({error}); mend it") from error
    document = validated(_Document, content, source)
    rows: dict[tuple[str | None, ...], PublishedRow] = {}
    for table in document.tables:
        where = f"{source}: {table.paper} {table.title}"
        _check_known(table.paper, "paper", document.papers, where)
        for group in table.groups:
            for row in group.rows:
                location = f"{where}, row {shown(row.method)}"
                published = _published_row(document, table, group, row, location)
                key = (table.paper, table.table, row.method, published.protocol, published.backbone)
                if key in rows:
                    _fail(location, "method", "stands there twice; drop one, or say what tells them apart")
                rows[key] = published
    return Published(
        # An own number comes before a later paper's quotation of it.
        rows=tuple(sorted(rows.values(), key=lambda row: document.papers[row.paper].year)),
        citations={key: paper.citation for key, paper in document.papers.items()},
        protocols=document.protocols,
    )


def _published_row(document: _Document, table: _Table, group: _Group, row: _Row, where: str) -> PublishedRow:
    cells = _inherited([table, group, row], where)
    columns = cells["columns"]
    for column in cells["could_mean"].values():
        _check_known(column, "could_mean", columns, where)
    if len(row.values) != len(columns):
        counts = f"{len(row.values)} entries for {len(columns)} columns"
        _fail(where, "values", f"has {counts}; null stands for '-'")
    _check_known(cells["protocol"], "protocol", document.protocols, where)
    if not cells["comparable"] and not cells["note"]:
        _fail(where, "note", "is missing; say why the row is not comparable")
    title = f"{document.papers[table.paper].name} {table.title}"
    return PublishedRow(
        paper=table.paper,
        table=table.table,
        caption=table.caption,
        method=row.method,
        ours=row.ours,
        label=row.label,
        dataset=document.protocols[cells["protocol"]].dataset,
        protocol=cells["protocol"],
        backbone=cells["backbone"],
        ensemble=cells["ensemble"],
        comparable=cells["comparable"],
        note=cells["note"],
        source=f"{title}, {cells['backbone']}" if cells["backbone"] else title,
        values=dict(zip(columns, row.values, strict=True)),
        could_mean=cells["could_mean"],
    )


def _inherited(levels: Sequence[_Inherited], where: str) -> dict[str, Any]:
    """What the inner levels give over what the outer ones do, but with the notes of all."""
    cells = dict(_OPTIONAL)
    for level in levels:
        given = _Inherited.model_fields.keys() & level.model_fields_set
        cells |= {name: getattr(level, name) for name in given}
    cells["note"] = " ".join(level.note for level in levels if level.note)
    for name in _Inherited.model_fields:
        if name not in cells:
            _fail(where, name, "is missing; add it to the row, its group or its table")
    return cells


def _check_known(name: str, field: str, choices: Collection[str], where: str) -> None:
    if name not in choices:
        _fail(where, field, f"has the unknown name {shown(name)}{nearest(name, choices)}")


def _fail(where: str, field: str, what: str) -> NoReturn:
    raise BadInput(f"{where}: field '{field}' {what}")
