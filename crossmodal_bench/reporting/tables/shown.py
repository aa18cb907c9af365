"""A leaderboard as displayed: the single place where columns, cells, marks and published lines are decided.

Terminal, Markdown, README block, LaTeX and page only render a ``ShownTable``; the data frame of
``reporting.table`` and the CSV are its ``cells``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from crossmodal_bench.evaluation.metric_table import formatted
from crossmodal_bench.reporting.rows.leaderboard import Cell, Row, Table
from crossmodal_bench.reporting.tables import layout

COSTS: Mapping[str, str] = {
    "parameters": "parameters",
    "train_samples_per_second": "training samples/s",
    "train_seconds": "training s",
    "evaluation_seconds": "evaluation s",
    "peak_memory_mb": "peak memory MB",
}
"""The costs shown as columns, with their units."""

DIFFERENCE_COLUMNS = (
    "dataset",
    "protocol",
    "protocol_version",
    "evaluated_on",
    "metric",
    "row",
    "preset",
    "n",
    "other_row",
    "other_preset",
    "other_n",
    "difference",
    "low",
    "high",
    "items_error",
    "seeds_error",
    "p",
    "adjusted_p",
)
"""The keys of ``ShownTable.differences``."""

ABSENT = "–"


@dataclass(frozen=True)
class Value:
    """A printed number.

    Attributes:
        text: the number.
        margin: its interval, with ±; empty if there is none.
        marked: whether it is the primary metric of a row that is not significantly behind the first.
    """

    text: str
    margin: str = ""
    marked: bool = False


@dataclass(frozen=True)
class PublishedLine:
    """Numbers of one row of a paper that are comparable with ours.

    Attributes:
        source: the name of the paper's row.
        values: the printed numbers by metric; metrics that the paper lacks are absent.
    """

    source: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Line:
    """One row of the leaderboard.

    Attributes:
        name: the method, plus what distinguishes this row from the method's others.
        preset: the row's preset.
        n: number of seeds.
        over: what ± covers, see ``layout.OVER``; empty if no number of the row has one.
        marked: whether the row is not significantly behind the first.
        values: by metric, for ``ShownTable.metrics``.
        costs: printed costs, by the keys of ``COSTS``.
        paper: the published number of the primary metric, or a dash.
        published: the comparable lines of papers.
    """

    name: str
    preset: str
    n: int
    over: str
    marked: bool
    values: Mapping[str, Value]
    costs: Mapping[str, str]
    paper: str
    published: tuple[PublishedLine, ...]

    @property
    def marked_name(self) -> str:
        """The name, preceded by the mark if the row has it."""
        return f"{layout.MARK} {self.name}" if self.marked else self.name


@dataclass(frozen=True)
class ShownTable:
    """Everything shown of one leaderboard, as plain text that is not yet escaped.

    Attributes:
        title: data set, protocol, split and the metric that ranks.
        primary: that metric.
        metrics: the columns; other metrics are only in ``cells``.
        lines: the rows, best first.
        meaning: the notes needed to read any number: what ± and the mark mean.
        notes: all other notes.
        warnings: where numbers come from different measurements.
        cells: every number of every row, costs included, as lines of the data frame.
        differences: the differences between rows in the primary metric, as lines of another data frame.
        source: what it was made from, for figures.
    """

    title: str
    primary: str
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]
    meaning: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    cells: tuple[Mapping[str, Any], ...] = field(repr=False)
    differences: tuple[Mapping[str, Any], ...] = field(repr=False)
    source: Table = field(repr=False)


def show(table: Table) -> ShownTable:
    """The table as displayed."""
    metrics = tuple(layout.main_metrics(table))
    return ShownTable(
        title=layout.title(table),
        primary=table.primary,
        metrics=metrics,
        lines=tuple(
            _line(row, table.primary, metrics, marked=position in table.best_set)
            for position, row in enumerate(table.rows)
        ),
        meaning=tuple(layout.meaning(table)),
        notes=tuple(layout.notes(table)),
        warnings=tuple(layout.warnings(table)),
        cells=tuple(cell for position in range(len(table.rows)) for cell in _cells(table, position)),
        differences=tuple(_differences(table)),
        source=table,
    )


def quantity(value: float | None) -> str:
    """A cost with three digits and k, M or G; a dash if it was not measured."""
    if value is None:
        return ABSENT
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def _line(row: Row, primary: str, metrics: Iterable[str], *, marked: bool) -> Line:
    published = row.published.value
    return Line(
        name=row.name,
        preset=row.preset,
        n=len(row.seeds),
        over=layout.OVER[row.target] if row.target else "",
        marked=marked,
        values={metric: _value(row, metric, marked=marked and metric == primary) for metric in metrics},
        costs={name: quantity(row.cost.get(name)) for name in COSTS},
        paper=ABSENT if published is None else formatted(primary, published),
        published=tuple(_published_lines(row, metrics)),
    )


def _value(row: Row, metric: str, *, marked: bool) -> Value:
    cell = row.cells.get(metric)
    if cell is None:
        return Value(ABSENT)
    margin = ""
    if cell.half_width is not None:
        margin = f"±{formatted(metric, cell.half_width)}"
    if cell.n != len(row.seeds):
        margin = f"{margin} (n={cell.n})".strip()
    return Value(formatted(metric, cell.mean), margin, marked)


def _published_lines(row: Row, metrics: Iterable[str]) -> Iterable[PublishedLine]:
    published = {metric: row.cells[metric].published for metric in metrics if metric in row.cells}
    for source in dict.fromkeys(number.source for number in published.values() if number.source):
        values = {
            metric: formatted(metric, number.value)
            for metric, number in published.items()
            if number.source == source and number.value is not None
        }
        yield PublishedLine(source, values)


def _cells(table: Table, position: int) -> Iterable[dict[str, Any]]:
    row = table.rows[position]
    head = {
        **_table_columns(table),
        "preset": row.preset,
        "method": row.method,
        "label": row.label,
        "overrides": json.dumps(row.overrides, sort_keys=True) if row.overrides else "",
        "seeds": " ".join(map(str, row.seeds)),
        "reference": row.reference,
    }
    for metric in table.metrics:
        if metric in row.cells:
            comparison = _against_the_first(table, position) if metric == table.primary else {}
            yield {**head, "metric": metric, **_numbers(row.cells[metric]), **comparison}
    for name, value in row.cost.items():
        yield {**head, "metric": f"cost/{name}", "mean": value, "n": len(row.seeds)}


def _table_columns(table: Table) -> dict[str, Any]:
    return {
        "dataset": table.dataset,
        "protocol": table.protocol,
        "protocol_version": table.version,
        "evaluated_on": table.evaluated_on,
    }


def _against_the_first(table: Table, position: int) -> dict[str, Any]:
    """Whether the row is in the best set, None if it was not tested; and its adjusted p."""
    tested = position in table.tested and table.first in table.tested
    p = next(
        (pair.adjusted_p for pair in table.pairs if {pair.first, pair.second} == {table.first, position}),
        None,
    )
    return {"in_best_set": position in table.best_set if tested else None, "p_against_first": p}


def _differences(table: Table) -> Iterable[dict[str, Any]]:
    for pair in table.pairs:
        row, other = table.rows[pair.first], table.rows[pair.second]
        yield {
            **_table_columns(table),
            "metric": table.primary,
            "row": row.name,
            "preset": row.preset,
            "n": len(row.seeds),
            "other_row": other.name,
            "other_preset": other.preset,
            "other_n": len(other.seeds),
            "difference": pair.difference.value,
            "low": pair.difference.low,
            "high": pair.difference.high,
            "items_error": pair.difference.items_error,
            "seeds_error": pair.difference.seeds_error,
            "p": pair.difference.p,
            "adjusted_p": pair.adjusted_p,
        }


def _numbers(cell: Cell) -> dict[str, float | int | str | None]:
    return {
        "mean": cell.mean,
        "low": cell.low,
        "high": cell.high,
        "half_width": cell.half_width,
        "target": cell.target,
        "items_error": cell.items_error,
        "seeds_error": cell.seeds_error,
        "n": cell.n,
        "published": cell.published.value,
        "published_source": cell.published.source,
        "not_comparable": cell.published.reason,
        "published_apart": cell.published.apart_text or None,
    }
