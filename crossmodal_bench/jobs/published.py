"""The papers' own numbers, row by row, and whether one of ours is comparable.

The numbers are in ``published.yaml``. Each row states the protocol, the features, the text encoder, and
whether it is a single model or an ensemble, because two numbers may share a column only if all of these agree
and ours was obtained with the paper's settings. Numbers that differ in any of them are listed separately,
with the differences.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator

from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.core.files import parse_yaml, shown
from crossmodal_bench.core.validation import Items, Model, WholeNumber, fault, validated
from crossmodal_bench.evaluation.metric_table import published_keys
from crossmodal_bench.evaluation.protocols.protocol import PROTOCOLS
from crossmodal_bench.jobs.encoders import Encoders, PublishedImage, PublishedText

METRICS = published_keys()
"""The metrics that a table may have, in the units of ``metric_table``."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of a paper's table.

    ``ours`` is our name for the method (None if we don't have it), ``backbone`` the image and text features
    as the paper names them (None: not stated), ``image`` and ``text`` the same for comparison with a record's
    encoders (None: not stated, so that nothing agrees), ``ensemble`` whether several models' similarities
    were summed (None: not stated). If ``comparable`` is false, ``note`` says why. ``values`` maps metric keys
    to numbers, None for '-'. ``label`` is that of the suite's row whose overrides turn our method into this
    one; empty for the method's own setting. ``source`` is how a report cites the row: "ACMR Table 2, SIFT +
    LDA".
    """

    paper: str
    table: str
    method: str
    ours: str | None
    label: str
    dataset: str
    protocol: str
    backbone: str | None
    image: PublishedImage | None
    text: PublishedText | None
    ensemble: bool | None
    comparable: bool
    note: str
    values: dict[str, float | None]
    caption: str
    source: str


@dataclass(frozen=True)
class Setting:
    """How one of our numbers was obtained, in every respect in which a published one must agree.

    Attributes:
        encoders: the encoders of every model that the number is based on; empty if the record does not say.
        preset: of the settings.
        papers_settings: whether these are the paper's: the preset ``paper``, or one that configures the
            method identically.
        ensemble: whether several models' similarities were summed.
        overrides: the keys that the user changed from the method's or its suite's setting.
    """

    encoders: tuple[Encoders, ...]
    preset: str
    papers_settings: bool
    ensemble: bool = False
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Apart:
    """A published number of the same method that is not comparable to ours and is listed separately.

    Attributes:
        value: the number.
        source: the paper's row.
        kind: ``protocol`` if it was measured on other test items, else ``features`` if images or texts were
            encoded differently, else ``setting``.
        differs: what differs, ours and theirs.
    """

    value: float
    source: str
    kind: Literal["protocol", "features", "setting"]
    differs: str

    @property
    def heading(self) -> str:
        """The heading under which it is listed."""
        headings = {
            "protocol": "published, under another protocol",
            "features": "published, on other features",
            "setting": "published, with other settings",
        }
        return headings[self.kind]


@dataclass(frozen=True)
class Comparison:
    """The published counterpart of one of our numbers, or the reason why there is none.

    Either ``value`` and ``source`` (a row's) are set, or ``reason`` is. ``note`` is what a reader must know
    about the value. ``also`` has the different numbers that other matching rows give, with their sources.
    ``apart`` has the published numbers that do not match, with what differs; they never share a column with
    ours.
    """

    value: float | None
    source: str | None = None
    reason: str | None = None
    note: str = ""
    also: tuple[tuple[float, str], ...] = ()
    apart: tuple[Apart, ...] = ()

    @property
    def apart_text(self) -> str:
        """The numbers that do not match, in one phrase."""
        return "; ".join(
            f"{number.heading}: {number.value:g} ({number.source}), {number.differs}" for number in self.apart
        )


def _known_metric(name: str) -> str:
    if name not in METRICS:
        raise fault(f"has the unknown name {shown(name)}{nearest(name, METRICS)}")
    return name


Metric = Annotated[str, AfterValidator(_known_metric)]


class Paper(Model):
    """The facts about a paper; ``name`` is its method's."""

    name: str
    year: WholeNumber
    citation: str


class ProtocolFacts(Model):
    """A published protocol: its data set, and what distinguishes its split from others of that data set."""

    dataset: str
    split: str = ""
    note: str = ""


class _Inherited(Model):
    """What a table or a group sets for all its rows, or a row for itself; see ``PublishedRow``.

    Defaults do not count: what no level sets is missing, unless it is in ``_OPTIONAL``.
    """

    columns: Items[Metric] = ()
    protocol: str = ""
    backbone: str | None = None
    image: PublishedImage | None = None
    text: PublishedText | None = None
    ensemble: bool | None = None
    comparable: bool = True
    note: str = ""


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
        """The table's name in its paper."""
        return self.table if self.table.startswith("in-text") else f"Table {self.table}"


class _Document(Model):
    papers: dict[str, Paper]
    protocols: dict[str, ProtocolFacts]
    tables: Items[_Table]


_OPTIONAL: dict[str, Any] = {"comparable": True}


@dataclass(frozen=True)
class Published:
    """The content of ``published.yaml``: rows by year of paper, citations by paper, facts by protocol."""

    rows: tuple[PublishedRow, ...]
    citations: dict[str, str]
    protocols: dict[str, ProtocolFacts]


def published_rows() -> tuple[PublishedRow, ...]:
    """Every row, a paper's own before later papers' quotations of it; ``BadInput`` for a malformed file."""
    return _published().rows


def citations() -> dict[str, str]:
    """The reference of each paper, by ``PublishedRow.paper``."""
    return dict(_published().citations)


def comparison(ours: str, protocol: str, metric: str, setting: Setting, *, label: str = "") -> Comparison:
    """The published number to show next to our ``metric`` of method ``ours`` under ``protocol``.

    It is that of the first row that agrees with ``setting``. Rows that do not agree are listed separately:
    those under our protocol or, if there are none and ours is a named one, the closest under the method's
    other protocols. A number that no table has is not an error; ``reason`` says so.

    Args:
        ours: our name for the method.
        protocol: the protocol that our number was measured under.
        metric: its key.
        setting: how our number was obtained.
        label: selects the row that a suite's row with that label corresponds to.
    """
    known = _published().protocols
    dataset = _dataset(protocol, known)
    rows = [row for row in published_rows() if (row.ours, row.label, row.dataset) == (ours, label, dataset)]
    if not rows:
        name = f" ({label})" if label else ""
        return Comparison(None, reason=f"not published: no table has {ours}{name} on this data set")
    elsewhere = [row for row in rows if row.protocol != protocol]
    rows = [row for row in rows if row.protocol == protocol]
    if not rows:
        # An unverified split is shown without any published number, not even a separate one.
        others = elsewhere if protocol in PROTOCOLS else []
        apart = _apart(_nearest(others, setting), protocol, metric, setting)
        return Comparison(None, reason=f"not comparable: {_other_protocols(elsewhere, known)}", apart=apart)
    rows = [row for row in rows if row.values.get(metric) is not None]
    if not rows:
        return Comparison(None, reason=f"not published: no table has {metric} of {ours} under {protocol}")
    rows, refused = [row for row in rows if row.comparable], rows
    if not rows:
        return Comparison(None, reason=f"not comparable: {refused[0].note}")
    apart = _apart(rows, protocol, metric, setting)
    rows = [row for row in rows if not _differences(row, protocol, setting)]
    if not rows:
        return Comparison(None, reason=f"not comparable: {apart[0].differs}", apart=apart)
    chosen = rows[0]
    value = chosen.values[metric]
    printed = ((row.values[metric], row.source) for row in rows[1:])
    also = tuple((other, source) for other, source in printed if other is not None and other != value)
    notes = [known[protocol].note, chosen.note]
    if any(_is_given(encoders) for encoders in setting.encoders):
        notes.append("Our features are assumed to be the paper's because their number and width match.")
    note = " ".join(filter(None, notes))
    return Comparison(value, source=chosen.source, note=note, also=also, apart=apart)


def _nearest(rows: Sequence[PublishedRow], setting: Setting) -> list[PublishedRow]:
    """The rows with the fewest differences, apart from their protocol."""
    counts = [len(_differences(row, row.protocol, setting)) for row in rows]
    return [row for row, count in zip(rows, counts, strict=True) if count == min(counts)]


def _apart(rows: Sequence[PublishedRow], protocol: str, metric: str, setting: Setting) -> tuple[Apart, ...]:
    """The rows that have the metric and differ in something, except those that are not comparable at all."""
    numbers = []
    for row in rows:
        value = row.values.get(metric)
        differences = _differences(row, protocol, setting)
        if value is None or not differences or not row.comparable:
            continue
        kinds = {difference.kind for difference in differences}
        our = ", ".join(difference.ours for difference in differences)
        their = ", ".join(difference.theirs for difference in differences if difference.theirs)
        numbers.append(
            Apart(
                value,
                source=row.source,
                kind=next(kind for kind in ("protocol", "features", "setting") if kind in kinds),
                differs=f"ours: {our}" + (f"; theirs: {their}" if their else ""),
            )
        )
    return tuple(numbers)


@dataclass(frozen=True)
class _Difference:
    kind: Literal["protocol", "features", "setting"]
    ours: str
    theirs: str = ""


def _differences(row: PublishedRow, protocol: str, setting: Setting) -> list[_Difference]:
    """The differences between a published number and one of ours, including what either leaves unstated."""
    differences = []
    if row.protocol != protocol:
        differences.append(_Difference("protocol", protocol, row.protocol))
    for side, theirs in (("image", row.image), ("text", row.text)):
        ours = [getattr(encoders, side) for encoders in setting.encoders]
        if theirs is None or not ours or not all(theirs.agrees(each) for each in ours):
            unsaid = f"{side} encoder not stated"
            described = dict.fromkeys(unsaid if each is None else each.text for each in ours)
            differences.append(
                _Difference(
                    "features",
                    " and ".join(described) or f"{side} encoder not in the record",
                    unsaid if theirs is None else theirs.text,
                )
            )
    if row.ensemble is not setting.ensemble:
        names = {True: "an ensemble", False: "a single model", None: "not stated whether an ensemble"}
        differences.append(_Difference("setting", names[setting.ensemble], names[row.ensemble]))
    if not setting.papers_settings:
        differences.append(_Difference("setting", f"preset {setting.preset}"))
    if setting.overrides:
        differences.append(_Difference("setting", f"overrides change {', '.join(setting.overrides)}"))
    return differences


def _is_given(encoders: Encoders) -> bool:
    """Whether image features are provided as arrays, which do not say what produced them."""
    image = encoders.image
    return image is not None and (image.network is None or image.regions == "precomputed")


def _dataset(protocol: str, known: Mapping[str, ProtocolFacts]) -> str:
    """The data set of a protocol; one that no paper used starts with its data set (``flickr30k-test``)."""
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
    """Parse the YAML ``text`` of the file ``source``.

    Raises:
        BadInput: it does not match the schema; the message names the file, the row and the field.
    """
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise BadInput(f"{source} is not valid YAML ({error}); fix it") from error
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
                    _fail(location, "method", "occurs twice; remove one, or say what distinguishes them")
                rows[key] = published
    return Published(
        # A paper's own number comes before a later paper's quotation of it.
        rows=tuple(sorted(rows.values(), key=lambda row: document.papers[row.paper].year)),
        citations={key: paper.citation for key, paper in document.papers.items()},
        protocols=document.protocols,
    )


def _published_row(document: _Document, table: _Table, group: _Group, row: _Row, where: str) -> PublishedRow:
    cells = _inherited([table, group, row], where)
    columns = cells["columns"]
    if len(row.values) != len(columns):
        counts = f"{len(row.values)} entries for {len(columns)} columns"
        _fail(where, "values", f"has {counts}; write null for '-'")
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
        image=cells["image"],
        text=cells["text"],
        ensemble=cells["ensemble"],
        comparable=cells["comparable"],
        note=cells["note"],
        source=f"{title}, {cells['backbone']}" if cells["backbone"] else title,
        values=dict(zip(columns, row.values, strict=True)),
    )


def _inherited(levels: Sequence[_Inherited], where: str) -> dict[str, Any]:
    """The inner levels' values on top of the outer ones', but with the notes of all levels."""
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
