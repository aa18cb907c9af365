"""Leaderboards in a terminal, or as plain text where there is none."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from crossmodal_bench.core.errors import printable
from crossmodal_bench.evaluation.metric_table import formatted
from crossmodal_bench.reporting.layout import (
    interval,
    main_metrics,
    notes,
    quantity,
    row_name,
    title,
    warnings,
)
from crossmodal_bench.reporting.leaderboard import Row, Table

PLAIN_WIDTH = 100


def print_tables(
    leaderboards: Sequence[Table], stream: TextIO | None = None, *, with_notes: bool = True
) -> None:
    """Print tables with rich; without a terminal as plain text of at most ``PLAIN_WIDTH`` columns.

    Warnings are always printed; ``with_notes=False`` leaves out the notes, for the tables between two jobs.
    """
    stream = stream or sys.stdout
    terminal = bool(getattr(stream, "isatty", bool)())
    console = Console(
        file=stream, width=None if terminal else PLAIN_WIDTH, markup=False, highlight=False, emoji=False
    )
    with console.capture() as capture:
        for table in leaderboards:
            console.print(_terminal_table(table))
            for warning in warnings(table):
                console.print(_wrapped(f"WARNING: {warning}", console.width), style="bold red")
            for note in notes(table) if with_notes else ():
                console.print(_wrapped(f"- {note}", console.width), style="dim")
            console.print()
        if not leaderboards:
            console.print("no finished job yet")
    encoding = getattr(stream, "encoding", None) or "utf-8"
    # A table must never be the reason why a bench stops: what the terminal cannot show becomes '?'.
    stream.write(capture.get().encode(encoding, "replace").decode(encoding))
    stream.flush()


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(printable(text), width, subsequent_indent="  ", break_on_hyphens=False)


def _terminal_table(table: Table) -> RichTable:
    metrics = main_metrics(table)
    shown = RichTable(
        title=printable(title(table)), box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0)
    )
    shown.add_column("method\npreset, seeds", overflow="fold", min_width=14)
    for metric in (*metrics, f"paper/{table.primary.rpartition('/')[2]}", "params/train"):
        first, _, second = metric.rpartition("/")
        shown.add_column(f"{printable(first)}\n{printable(second)}", justify="right", no_wrap=True)
    for row in table.rows:
        cells = [_stacked(row, metric) for metric in metrics]
        published = row.published.value
        paper = "–" if published is None else formatted(table.primary, published)
        cost = "\n".join(quantity(row.cost.get(name)) for name in ("parameters", "train_samples_per_second"))
        name = f"{printable(row_name(row))}\n  {printable(row.preset)}, n={len(row.seeds)}"
        shown.add_row(name, *cells, paper, cost, style="bold" if row.best else None)
    return shown


def _stacked(row: Row, metric: str) -> str:
    cell = row.cells.get(metric)
    return "–" if cell is None else f"{formatted(metric, cell.mean)}\n{interval(metric, cell)}"
