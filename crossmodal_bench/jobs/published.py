"""The papers' own numbers, row by row, and whether one of ours may stand beside them.

The numbers lie in ``published.yaml``. A row says under which protocol it was measured, on which features and
whether by one model or an ensemble, because two numbers may share a column only where all of that agrees.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, NoReturn

import yaml

from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.evaluation.metric_table import published_keys

METHODS = frozenset(
    [
        *("cca", "sm", "vse", "acmr", "acmr_imi", "acmr_imd", "acmr_no_adversary", "timam"),
        *("timam_no_adversary", "scan", "scan_i2t", "bfan", "bfan_prob", "vsrn"),
        *(f"{kind}_{host}" for kind in ("united", "multiple", "addr") for host in ("scan", "bfan", "vsrn")),
        *("gru", "gru_bi", "gxn_resnet", "gxn_finetune", "gxn_i2t_xe", "gxn_i2t_mix", "gxn_t2i", "gxn"),
    ]
)
"""Our canonical method names, the only ones that a row's ``ours`` may have."""
METRICS = published_keys()
"""The metrics that a table may have, in the units of the table of metrics."""

_DEFAULTS: dict[str, Any] = {"ours": None, "label": "", "comparable": True, "note": "", "could_mean": {}}
_INHERITED = ("columns", "protocol", "backbone", "ensemble", "comparable", "note", "could_mean")


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


@dataclass(frozen=True)
class Published:
    """What ``published.yaml`` holds: rows by their papers' years, citations by paper, protocols' facts."""

    rows: tuple[PublishedRow, ...]
    citations: dict[str, str]
    protocols: dict[str, dict[str, str]]


def published_rows() -> tuple[PublishedRow, ...]:
    """Every row, a paper's own before later papers' quotations; ``BadInput`` on a malformed file."""
    return _published().rows


def citations() -> dict[str, str]:
    """The reference of each paper, by the key that ``PublishedRow.paper`` holds."""
    return dict(_published().citations)


def published_for(ours: str, protocol: str) -> list[PublishedRow]:
    """The rows of our method ``ours`` under exactly ``protocol``; empty where no table has any."""
    return [row for row in published_rows() if row.ours == ours and row.protocol == protocol]


def comparison(
    ours: str,
    protocol: str,
    metric: str,
    *,
    label: str = "",
    backbone: str | None = None,
    ensemble: bool = False,
) -> Comparison:
    """The published number to show beside our ``metric`` of method ``ours`` under ``protocol``.

    ``backbone`` asks for the row with these features (a row's own words); without it the first row counts,
    and the note lists the others. ``label`` asks for the row that a suite's row of that label stands for.
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
        return Comparison(
            None, reason=f"not comparable: {theirs}'s number ({others[0].source}), ours is {our}'s"
        )
    if backbone is not None:
        rows, others = [row for row in rows if row.backbone == backbone], rows
        if not rows:
            stated = " and ".join(dict.fromkeys(row.backbone or "features not stated" for row in others))
            return Comparison(None, reason=f"not comparable: published with {stated}")
    chosen, value = rows[0], rows[0].value(metric)
    also = [f"{row.value(metric):g} ({row.source})" for row in rows[1:] if row.value(metric) != value]
    notes = [known[protocol].get("note"), chosen.note, also and f"Also published: {', '.join(also)}."]
    return Comparison(value, chosen.source, None, " ".join(str(one) for one in notes if one), chosen.backbone)


def _dataset(protocol: str, known: Mapping[str, Mapping[str, str]]) -> str:
    """The data set of a protocol; one that no paper used starts with its name (``flickr30k-test``)."""
    if protocol in known:
        return known[protocol]["dataset"]
    return protocol.partition("-")[0]


def _other_protocols(rows: Sequence[PublishedRow], known: Mapping[str, Mapping[str, str]]) -> str:
    names = list(dict.fromkeys(row.protocol for row in rows))
    if len(names) == 1 and "split" in known[names[0]]:
        return f"the paper's split is {known[names[0]]['split']}"
    return f"the published protocol is {' or '.join(names)}"


@functools.cache
def _published() -> Published:
    path = resources.files(__package__) / "published.yaml"
    return parse(path.read_text(encoding="utf-8"), path.name)


def parse(text: str, source: str) -> Published:
    """Reads and checks the YAML ``text``; raises ``BadInput`` naming ``source``, the row and the field."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error
    document = _mapping(document, source, required=("papers", "protocols", "tables"))
    papers, years = _typed(document, "papers", dict, source), {}
    for key, paper in papers.items():
        _mapping(paper, f"{source}: paper {key}", required=("name", "year", "citation"))
        years[key] = _typed(paper, "year", int, f"{source}: paper {key}")
    protocols = {
        key: _mapping(facts, f"{source}: protocol {key}", required=("dataset",), optional=("split", "note"))
        for key, facts in _typed(document, "protocols", dict, source).items()
    }
    rows: dict[tuple[str | None, ...], PublishedRow] = {}
    for table in _typed(document, "tables", list, source):
        for row in _table_rows(table, papers, protocols, source):
            key = (row.paper, row.table, row.method, row.protocol, row.backbone)
            if key in rows:
                _fail(f"{source}: {row.source}, row '{row.method}'", "method", "stands there twice")
            rows[key] = row
    return Published(
        # An own number comes before a later paper's quotation of it.
        rows=tuple(sorted(rows.values(), key=lambda row: years[row.paper])),
        citations={key: paper["citation"] for key, paper in papers.items()},
        protocols=protocols,
    )


def _table_rows(
    table: object, papers: Mapping[str, Any], protocols: Mapping[str, Any], source: str
) -> Iterator[PublishedRow]:
    table = _mapping(table, f"{source}: a table", ("paper", "table", "caption", "groups"), _INHERITED)
    number = _typed(table, "table", str, f"{source}: a table")
    label = number if number.startswith("in-text") else f"Table {number}"
    where = f"{source}: {table['paper']} {label}"
    _typed(table, "caption", str, where)
    title = f"{papers[_known(table['paper'], 'paper', papers, where)]['name']} {label}"
    for group in _typed(table, "groups", list, where):
        group = _mapping(group, f"{where}: a group", ("rows",), _INHERITED)
        for row in _typed(group, "rows", list, where):
            row = _mapping(row, f"{where}: a row", ("method", "values"), (*_INHERITED, "ours", "label"))
            place = f"{where}, row '{_typed(row, 'method', str, where)}'"
            yield _row(_inherit([_DEFAULTS, table, group, row], place), title, protocols, place)


def _inherit(levels: Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    """The inner levels over the outer ones, but with the notes of all."""
    notes = [_typed(level, "note", str, where) for level in levels if "note" in level]
    cells = {key: value for level in levels for key, value in level.items()}
    return cells | {"note": " ".join(note for note in notes if note)}


def _row(cells: Mapping[str, Any], title: str, protocols: Mapping[str, Any], where: str) -> PublishedRow:
    columns, values = _typed(cells, "columns", list, where), _typed(cells, "values", list, where)
    could_mean = _typed(cells, "could_mean", dict, where)
    for metric in (*columns, *could_mean):
        _known(metric, "columns" if metric in columns else "could_mean", METRICS, where)
    for column in could_mean.values():
        _known(column, "could_mean", columns, where)
    if len(values) != len(columns):
        _fail(where, "values", f"has {len(values)} entries for {len(columns)} columns; null stands for '-'")
    for number in values:
        if isinstance(number, bool) or not isinstance(number, int | float | None):
            _fail(where, "values", f"has {number!r}; it takes numbers, and null for '-'")
    protocol = _known(_typed(cells, "protocol", str, where), "protocol", protocols, where)
    backbone = _typed(cells, "backbone", (str, type(None)), where)
    comparable = _typed(cells, "comparable", bool, where)
    if not comparable and not cells["note"]:
        _fail(where, "note", "is missing; say why the row is not comparable")
    return PublishedRow(
        paper=cells["paper"],
        table=cells["table"],
        caption=cells["caption"],
        method=cells["method"],
        ours=None if cells["ours"] is None else _known(cells["ours"], "ours", METHODS, where),
        label=_typed(cells, "label", str, where),
        dataset=protocols[protocol]["dataset"],
        protocol=protocol,
        backbone=backbone,
        ensemble=_typed(cells, "ensemble", (bool, type(None)), where),
        comparable=comparable,
        note=cells["note"],
        source=f"{title}, {backbone}" if backbone else title,
        values={name: None if n is None else float(n) for name, n in zip(columns, values, strict=True)},
        could_mean=could_mean,
    )


def _fail(where: str, key: str, fault: str) -> NoReturn:
    raise BadInput(f"{where}: field '{key}' {fault}")


def _mapping(
    value: object, where: str, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{where}: expected the fields {', '.join(required)}, found {value!r}")
    for key in value:
        if key not in (*required, *optional):
            _fail(where, key, f"is unknown{nearest(str(key), (*required, *optional))}")
    for key in required:
        if key not in value:
            _fail(where, key, "is missing; add it")
    return value


def _typed(value: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str) -> Any:
    if key not in value:
        _fail(where, key, "is missing; add it to the row, its group or its table")
    if not isinstance(value[key], kind):
        kinds = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        _fail(where, key, f"is {value[key]!r}; it must be of type {kinds}")
    return value[key]


def _known(name: object, key: str, choices: Collection[str], where: str) -> str:
    if not isinstance(name, str) or name not in choices:
        _fail(where, key, f"has the unknown name '{name}'{nearest(str(name), choices)}")
    return name
