"""The contents of the page for its templates: tables with rows, cells, seeds, differences and charts."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossmodal_bench.core.errors import warn_once
from crossmodal_bench.evaluation.metric_table import SIDES, formatted, lookup
from crossmodal_bench.evaluation.statistics.comparisons import SIGNIFICANT
from crossmodal_bench.jobs.directory import read_own
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.charts.chart import Chart
from crossmodal_bench.reporting.charts.collection import TableCharts
from crossmodal_bench.reporting.charts.looks import Look
from crossmodal_bench.reporting.comparison.findings import findings
from crossmodal_bench.reporting.comparison.tie_groups import tie_groups
from crossmodal_bench.reporting.figures.qualitative import panels
from crossmodal_bench.reporting.page.row_details import RowDetails, row_details
from crossmodal_bench.reporting.rows.leaderboard import Cell, Row, Table, features_text
from crossmodal_bench.reporting.tables.layout import OVER
from crossmodal_bench.reporting.tables.shown import ABSENT, Line, ShownTable

LARGEST_PICTURE = 16 * 2**20
"""Maximum size of a picture in the page, in bytes."""
PNG = b"\x89PNG\r\n\x1a\n"
"""The signature of a PNG file."""
STRIP = (104, 18)
"""Width and height of the drawing of a row's seeds, in pixels."""


@dataclass(frozen=True)
class Strip:
    """The seeds of a row as dots on its interval, in pixels of ``STRIP``; one scale per table.

    Attributes:
        low: start of the interval; None without one.
        high: end of the interval.
        mean: position of the row's number.
        seeds: positions of the seeds' numbers.
        text: the same in words.
    """

    low: float | None
    high: float | None
    mean: float
    seeds: tuple[float, ...]
    text: str


@dataclass(frozen=True)
class Column:
    """A metric's column: its key, its direction in words, its name without the direction, and its unit."""

    key: str
    side: str
    name: str
    unit: str


@dataclass(frozen=True)
class Paper:
    """What is published for a row's primary metric.

    Attributes:
        value: the printed number; empty if no published number is comparable.
        difference: ours minus the published number, with its sign.
        within: whether the published number is within our interval.
        source: the paper's row.
        reason: why there is no comparable number.
        apart: what is published in other settings.
    """

    value: str = ""
    difference: str = ""
    within: bool = False
    source: str = ""
    reason: str = ""
    apart: str = ""


@dataclass(frozen=True)
class MetricLine:
    """Every number of one metric of a row."""

    key: str
    mean: str
    interval: str
    over: str
    n: int
    items_error: str
    seeds_error: str
    paper: str
    note: str


@dataclass(frozen=True)
class Picture:
    """A PNG as a ``data:`` URL and what it shows; the caption is also the alternative text."""

    source: str
    caption: str


@dataclass(frozen=True)
class PageRow:
    """One row of a leaderboard.

    Attributes:
        id: its id within the page.
        line: its cells.
        look: the look of its method.
        letters: rows that share one cannot be told apart; empty if not tested.
        strip: its seeds; None if it lacks the primary metric.
        paper: what is published for the primary metric.
        numbers: sort key of each metric's column.
        costs: sort key of each cost's column.
        kind: single model or ensemble.
        features: the source of the image features.
        reference: whether it was made by others.
        metrics: every number.
        details: how to reproduce the row.
        charts: the charts of this row alone.
        pictures: what it retrieves and generates.
    """

    id: str
    line: Line
    look: Look
    letters: str
    strip: Strip | None
    paper: Paper
    numbers: Mapping[str, float]
    costs: Mapping[str, float]
    kind: str
    features: str
    reference: bool
    metrics: tuple[MetricLine, ...]
    details: RowDetails
    charts: tuple[Chart, ...]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class MatrixCell:
    """The difference between two rows: row minus column; empty on the diagonal.

    ``kind`` is ``ahead``, ``behind`` or ``tied``, by the adjusted p at 5 %.
    """

    difference: str = ""
    p: str = ""
    kind: str = ""


@dataclass(frozen=True)
class PageTable:
    """One leaderboard with everything that belongs to it."""

    id: str
    shown: ShownTable
    dataset: str
    findings: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[PageRow, ...]
    has_letters: bool
    matrix: tuple[tuple[PageRow, tuple[MatrixCell, ...]], ...]
    forest: Chart | None
    comparisons: tuple[Chart, ...]


def page_tables(
    tables: Sequence[ShownTable], collections: Sequence[TableCharts], runs: str | Path
) -> list[PageTable]:
    """The page's contents for each leaderboard.

    Args:
        tables: the leaderboards.
        collections: the charts of each.
        runs: the folder of runs, as the user names it.
    """
    return [_page_table(shown, charts, runs) for shown, charts in zip(tables, collections, strict=True)]


def _page_table(shown: ShownTable, charts: TableCharts, runs: str | Path) -> PageTable:
    table = shown.source
    letters = tie_groups(table)
    scale = _scale(table)
    rows = tuple(
        PageRow(
            id=series.id,
            line=line,
            look=series.look,
            letters=letters.get(position, ""),
            strip=_strip(row, scale),
            paper=_paper(row),
            numbers={metric: cell.mean for metric, cell in row.cells.items()},
            costs=row.cost,
            kind="ensemble" if row.ensemble else "single model",
            features=features_text(row.records[0]),
            reference=row.reference,
            metrics=tuple(
                _metric_line(metric, row.cells[metric]) for metric in table.metrics if metric in row.cells
            ),
            details=row_details(row, line, shown.metrics, runs),
            charts=own_charts,
            pictures=tuple(_pictures(row)),
        )
        for position, (row, line, series, own_charts) in enumerate(
            zip(table.rows, shown.lines, charts.series, charts.by_row, strict=True)
        )
    )
    return PageTable(
        id=charts.table,
        shown=shown,
        dataset=table.dataset,
        findings=tuple(findings(table)),
        # The metric that ranks the rows stays next to their names, even on a narrow screen.
        columns=tuple(
            _column(metric) for metric in sorted(shown.metrics, key=lambda metric: metric != shown.primary)
        ),
        rows=rows,
        has_letters=bool(letters),
        matrix=tuple(_matrix(table, rows)),
        forest=charts.forest,
        comparisons=charts.comparisons,
    )


def _column(key: str) -> Column:
    metric = lookup(key)
    side = SIDES[metric.side] if metric.side else ""
    return Column(key, side, key.removeprefix(f"{metric.side}/"), metric.unit.text)


def _scale(table: Table) -> tuple[float, float]:
    """The smallest and the largest number shown in the table's strips."""
    shown = []
    for row in table.rows:
        cell = row.cells.get(table.primary)
        if cell is not None:
            ends = [end for end in (cell.low, cell.high) if end is not None]
            shown += [*ends, *(record.metrics[table.primary] for record in _measured(row, table.primary))]
    return (min(shown), max(shown)) if shown else (0.0, 1.0)


def _measured(row: Row, metric: str) -> list[Record]:
    return [record for record in row.records if metric in record.metrics]


def _strip(row: Row, scale: tuple[float, float]) -> Strip | None:
    cell = row.cells.get(row.primary)
    if cell is None:
        return None
    width = STRIP[0]
    low, high = scale
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(4 + (width - 8) * (value - low) / span, 1)

    seeds = [(record.job.seed, record.metrics[row.primary]) for record in _measured(row, row.primary)]
    named = ", ".join(f"seed {seed}: {formatted(row.primary, value)}" for seed, value in seeds)
    interval = ""
    if cell.low is not None and cell.high is not None:
        ends = f"{formatted(row.primary, cell.low)} to {formatted(row.primary, cell.high)}"
        interval = f"; 95 % interval {ends}"
    return Strip(
        low=None if cell.low is None else place(cell.low),
        high=None if cell.high is None else place(cell.high),
        mean=place(cell.mean),
        seeds=tuple(place(value) for _, value in seeds),
        text=f"{named}{interval}",
    )


def _paper(row: Row) -> Paper:
    published = row.published
    if published.value is None:
        return Paper(reason=published.reason or "not published", apart=published.apart_text)
    cell = row.cells[row.primary]
    within = cell.low is not None and cell.high is not None and cell.low <= published.value <= cell.high
    return Paper(
        value=formatted(row.primary, published.value),
        difference=_signed(row.primary, cell.mean - published.value),
        within=within,
        source=published.source or "",
        apart=published.apart_text,
    )


def _signed(metric: str, value: float) -> str:
    text = formatted(metric, abs(value))
    return f"{'−' if value < 0 else '+'}{text}"


def _metric_line(metric: str, cell: Cell) -> MetricLine:
    interval = ABSENT
    if cell.low is not None and cell.high is not None:
        interval = f"{formatted(metric, cell.low)} to {formatted(metric, cell.high)}"
    published = cell.published
    paper = ABSENT
    if published.value is not None:
        difference = _signed(metric, cell.mean - published.value)
        paper = f"{formatted(metric, published.value)} ({difference})"
    return MetricLine(
        key=metric,
        mean=formatted(metric, cell.mean),
        interval=interval,
        over=OVER[cell.target] if cell.target else ABSENT,
        n=cell.n,
        items_error=ABSENT if cell.items_error is None else formatted(metric, cell.items_error),
        seeds_error=ABSENT if cell.seeds_error is None else formatted(metric, cell.seeds_error),
        paper=paper,
        note=published.source or published.apart_text or published.reason or "",
    )


def _matrix(table: Table, rows: Sequence[PageRow]) -> Iterable[tuple[PageRow, tuple[MatrixCell, ...]]]:
    """Each tested row compared with each other tested row."""
    pairs = {(pair.first, pair.second): pair for pair in table.pairs}
    lower_is_better = lookup(table.primary).lower_is_better
    for position in table.tested if table.pairs else ():
        cells = []
        for other in table.tested:
            pair = pairs.get((position, other)) or pairs.get((other, position))
            if pair is None:
                cells.append(MatrixCell())
                continue
            value = pair.difference.value * (1 if pair.first == position else -1)
            kind = "tied"
            if pair.adjusted_p < SIGNIFICANT:
                kind = "ahead" if (value > 0) is not lower_is_better else "behind"
            cells.append(MatrixCell(_signed(table.primary, value), f"{pair.adjusted_p:.2g}", kind))
        yield rows[position], tuple(cells)


def _pictures(row: Row) -> Iterable[Picture]:
    """What the first seed retrieves and generates, as pictures from its directory."""
    if not row.records[0].is_main:
        return
    for path, caption in panels(row.records[0].files).items():
        content = _picture(path)
        if content is not None:
            yield Picture(f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}", caption)


def _picture(path: Path) -> bytes | None:
    """A picture from a job's directory; None if there is none, or if it is not a PNG."""
    if not os.path.lexists(path):
        return None
    try:
        content = read_own(path, LARGEST_PICTURE)
    except OSError as error:
        reason = error.strerror
    else:
        if content.startswith(PNG):
            return content
        reason = "it is not a PNG"
    warn_once(f"{path} is left out of the page ({reason}); delete it, or copy it again")
    return None
