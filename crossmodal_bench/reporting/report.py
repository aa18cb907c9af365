"""Leaderboards as a terminal table, Markdown, a tidy CSV and one HTML page, all from the records alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from crossmodal_bench.core.errors import BadInput, nearest, printable
from crossmodal_bench.evaluation.metric_table import formatted
from crossmodal_bench.jobs.record import Record, read_records
from crossmodal_bench.reporting import figures, training_figures
from crossmodal_bench.reporting.html import Figure, Line, Section, Value, page
from crossmodal_bench.reporting.layout import (
    COST,
    interval,
    main_metrics,
    notes,
    quantity,
    row_name,
    title,
    warnings,
)
from crossmodal_bench.reporting.leaderboard import Cell, Row, Table, leaderboard, tables
from crossmodal_bench.reporting.parameter_sweeps import short, sweeps
from crossmodal_bench.reporting.qualitative import panels
from crossmodal_bench.reporting.terminal import print_tables

FORMATS = ("terminal", "markdown", "csv", "html")


@dataclass(frozen=True)
class Report:
    """What was built: the tables, and the files in the order of ``FORMATS``."""

    tables: list[Table]
    files: list[Path]


def build_report(runs: str | Path, formats: Sequence[str] = FORMATS) -> Report:
    """Print (``terminal``) or write (``runs/report/leaderboard.{md,csv,html}``) the leaderboards.

    Raises ``BadInput`` for an unknown format, a directory without a finished job, a damaged record and a
    report that cannot be written.
    """
    runs = Path(runs)
    for name in formats:
        if name not in FORMATS:
            raise BadInput(f"'{name}' is no report format{nearest(name, FORMATS)}")
    records = read_records(runs)
    if not records:
        raise BadInput(f"{runs} has no finished job: run `crossmodal-bench bench --runs {runs}` first")
    leaderboards = tables(leaderboard(records))
    if "terminal" in formats:
        print_tables(leaderboards)
    writers: dict[str, tuple[str, Callable[[list[Table]], str]]] = {
        "markdown": ("leaderboard.md", markdown),
        "csv": ("leaderboard.csv", csv),
        "html": ("leaderboard.html", html),
    }
    files = []
    for name, (file, write) in writers.items():
        if name in formats:
            files.append(runs / "report" / file)
            _write(files[-1], write(leaderboards))
    return Report(leaderboards, files)


def print_leaderboard(
    records: Iterable[Record], stream: TextIO | None = None, *, with_notes: bool = True
) -> None:
    """Print the leaderboards of the records so far; says so when there is none yet."""
    print_tables(tables(leaderboard(records)), stream, with_notes=with_notes)


def markdown(leaderboards: Sequence[Table]) -> str:
    """Every table as GitHub-flavoured Markdown, its warnings and notes beneath."""
    parts = ["# Leaderboard\n"]
    for table in leaderboards:
        headers, lines = _grid(table)
        parts.append(f"## {_cell_text(title(table))}\n")
        rows = [[_cell_text(header) for header in headers], ["---", *["---:"] * (len(headers) - 1)]]
        for line in lines:
            name = f"*{_cell_text(line.name)}*" if line.paper else _cell_text(line.name)
            rows.append([name, *(_markdown_value(value) for value in line.values)])
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n")
        parts.append("\n".join(f"- **Warning: {_cell_text(text)}**" for text in warnings(table)))
        parts.append("\n".join(f"- {_cell_text(text)}" for text in notes(table)) + "\n")
    return "\n".join(part for part in parts if part)


def frame(leaderboards: Sequence[Table]) -> pd.DataFrame:
    """Tidy: one line per row and metric (costs as ``cost/...``); empty where there is no number."""
    lines = []
    for table in leaderboards:
        for row in table.rows:
            head = {
                "dataset": row.dataset,
                "protocol": row.protocol,
                "protocol_version": row.version,
                "evaluated_on": row.evaluated_on,
                "preset": row.preset,
                "method": row.method,
                "label": row.label,
                "overrides": json.dumps(row.overrides, sort_keys=True) if row.overrides else "",
                "seeds": " ".join(map(str, row.seeds)),
            }
            for metric in table.metrics:
                if metric in row.cells:
                    best = row.best and metric == table.primary
                    lines.append({**head, "metric": metric, **_numbers(row.cells[metric]), "best": best})
            for name, value in row.cost.items():
                cost = {"mean": value, "n": len(row.seeds), "best": False}
                lines.append({**head, "metric": f"cost/{name}", **cost})
    return pd.DataFrame(lines)


def csv(leaderboards: Sequence[Table]) -> str:
    """``frame`` as a file, in which no text is a formula to a spreadsheet: an apostrophe goes before it."""
    return frame(leaderboards).map(_no_formula).to_csv(index=False)


def html(leaderboards: Sequence[Table]) -> str:
    """The self-contained page: tables, notes, every metric on demand, and the figures that records allow."""
    records = [record for table in leaderboards for record in table.records]
    last = max((record.finished_at for record in records), default="")
    summary = f"{len(records)} finished jobs, the last at {last}. Different protocols are never compared."
    return page("crossmodal-bench leaderboard", summary, [_section(table) for table in leaderboards])


def _grid(table: Table) -> tuple[list[str], list[Line]]:
    """Our rows, each followed by the published ones that may stand beside it."""
    metrics = main_metrics(table)
    headers = ["method", "preset", "n", *metrics, *COST.values()]
    lines = []
    for row in table.rows:
        cells = [_value(row, metric, table.primary) for metric in metrics]
        costs = [Value(quantity(row.cost.get(name))) for name in COST]
        lines.append(Line(row_name(row), [Value(row.preset), Value(str(len(row.seeds))), *cells, *costs]))
        published = {metric: row.cells[metric].published for metric in metrics if metric in row.cells}
        for source in dict.fromkeys(number.source for number in published.values() if number.source):
            theirs = {
                metric: formatted(metric, number.value)
                for metric, number in published.items()
                if number.source == source and number.value is not None
            }
            values = [Value(theirs.get(metric, "")) for metric in metrics]
            blank = Value("")
            lines.append(Line(source, [Value("paper"), blank, *values, *(blank for _ in COST)], paper=True))
    return headers, lines


def _value(row: Row, metric: str, primary: str) -> Value:
    cell = row.cells.get(metric)
    if cell is None:
        return Value("–")
    return Value(formatted(metric, cell.mean), interval(metric, cell), best=row.best and metric == primary)


def _markdown_value(value: Value) -> str:
    text = _cell_text(f"{value.text} {value.interval}")
    return f"**{text}**" if value.best else text


def _cell_text(text: str) -> str:
    """Plain text that Markdown leaves alone, in a table's cell and elsewhere."""
    return re.sub(r"([\\`*_|<>\[\]$&~])", r"\\\1", " ".join(printable(text).split()))


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value.lstrip().startswith(("=", "+", "-", "@")) else printable(value)


def _numbers(cell: Cell) -> dict[str, float | int | str | None]:
    return {
        "mean": cell.mean,
        "sd": cell.sd,
        "half_width": cell.half_width,
        "n": cell.n,
        "bootstrap_low": cell.low,
        "bootstrap_high": cell.high,
        "published": cell.published.value,
        "published_source": cell.published.source,
        "not_comparable": cell.published.reason,
        "published_apart": cell.published.apart_text or None,
    }


DETAIL = (
    "preset",
    "metric",
    "mean",
    "sd",
    "±",
    "n",
    "bootstrap over images",
    "published",
    "source or why not",
)


def _section(table: Table) -> Section:
    headers, lines = _grid(table)
    details = [
        Line(row.name, _detail(row.preset, metric, row.cells[metric]))
        for row in table.rows
        for metric in table.metrics
        if metric in row.cells
    ]
    return Section(
        title=title(table),
        headers=headers,
        lines=lines,
        warnings=warnings(table),
        notes=notes(table),
        detail_headers=["method", *DETAIL],
        details=details,
        figures=_figures(table),
    )


def _detail(preset: str, metric: str, cell: Cell) -> list[Value]:
    spread = ["–" if cell.n < 2 else formatted(metric, value) for value in (cell.sd, cell.half_width)]
    bounds = "–"
    if cell.low is not None and cell.high is not None:
        bounds = f"{formatted(metric, cell.low)} to {formatted(metric, cell.high)}"
    published = cell.published
    theirs = "–" if published.value is None else formatted(metric, published.value)
    texts = [preset, metric, formatted(metric, cell.mean), *spread, str(cell.n), bounds, theirs]
    why = published.source or published.apart_text or published.reason or ""
    return [Value(text) for text in (*texts, why)]


def _figures(table: Table) -> list[Figure]:
    # A sweep has a figure of its own; its many settings would bury the methods in the others.
    methods = [row for row in table.rows if not row.overrides] or table.rows
    drawn: list[tuple[bytes | None, str]] = [
        (figures.precision_scope(methods), "Precision against scope, mean over seeds (as ACMR, Figure 3)")
    ]
    # What does not depend on the protocol is shown once, with the protocol that the job is named by.
    mains = [row for row in methods if row.records[0].is_main]
    drawn += [
        (
            training_figures.discriminator_accuracy(mains),
            "Discriminator accuracy over the epochs, mean over seeds",
        ),
        (
            training_figures.validation_curves(mains),
            "Validation over the epochs, mean over seeds: how often the best-scored caption is right "
            "(as ADDR, Figure 3(b))",
        ),
        (
            training_figures.pair_risks(mains),
            "How far a pair's own discriminator and another pair's are from accepting the pair, mean over "
            "seeds: where the lines part, each pair's domain is its own (ADDR, Eq. 4-7)",
        ),
    ]
    for row in mains:
        label = f"{row.name}, preset {row.preset}"
        curves = "losses and discriminator accuracy over the epochs (as ACMR, Figure 5)"
        drawn.append((training_figures.training_curves(row), f"{label}: {curves}"))
        # One seed's map is enough: t-SNE coordinates of different runs cannot be compared or averaged.
        maps = (figures.projection(record) for record in row.records)
        scatter = "t-SNE of image and text representations (as ACMR, Figure 4)"
        drawn.append((next(filter(None, maps), None), f"{label}: {scatter}"))
        # The first seed's, likewise.
        for path, what in panels(row.records[0].files).items():
            drawn.append((path.read_bytes() if path.is_file() else None, f"{label}: {what}"))
    for sweep in sweeps(table.rows):
        caption = f"{sweep.method}: sweep of {short(sweep.key)} (as ACMR, Figure 6)"
        drawn.append((figures.parameter_sweep(sweep), caption))
    return [Figure(png, caption) for png, caption in drawn if png is not None]


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"{path} cannot be written ({error.strerror or error}): free some space or make it writable"
        ) from error
