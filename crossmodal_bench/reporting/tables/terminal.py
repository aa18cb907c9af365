"""Leaderboards in a terminal, or as plain text elsewhere."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from crossmodal_bench.core.errors import printable
from crossmodal_bench.reporting.tables.shown import Line, ShownTable, Value

PLAIN_WIDTH = 100


def print_tables(
    tables: Sequence[ShownTable], stream: TextIO | None = None, *, with_notes: bool = True
) -> None:
    """Print tables with rich; without a terminal, as plain text of at most ``PLAIN_WIDTH`` columns.

    Warnings are always printed; ``with_notes=False`` leaves out the notes, for the tables between two jobs.
    """
    stream = stream or sys.stdout
    terminal = bool(getattr(stream, "isatty", bool)())
    console = Console(
        file=stream, width=None if terminal else PLAIN_WIDTH, markup=False, highlight=False, emoji=False
    )
    with console.capture() as capture:
        for table in tables:
            shown = _terminal_table(table, stacked=False)
            unlimited = console.options.update(width=10 * PLAIN_WIDTH)
            if console.measure(shown, options=unlimited).maximum > console.width:
                shown = _terminal_table(table, stacked=True)
            console.print(shown)
            for warning in table.warnings:
                console.print(_wrapped(f"WARNING: {warning}", console.width), style="bold red")
            for note in (*table.meaning, *table.notes) if with_notes else ():
                console.print(_wrapped(f"- {note}", console.width), style="dim")
            console.print()
        if not tables:
            console.print("no finished job yet")
    encoding = getattr(stream, "encoding", None) or "utf-8"
    # A table must never stop a bench: characters that the terminal cannot show become '?'.
    stream.write(capture.get().encode(encoding, "replace").decode(encoding))
    stream.flush()


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(printable(text), width, subsequent_indent="  ", break_on_hyphens=False)


def _terminal_table(table: ShownTable, *, stacked: bool) -> RichTable:
    """The table; ``stacked``: what ± covers is on a separate line, which is narrower."""
    shown = RichTable(
        title=printable(table.title), box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0)
    )
    shown.add_column("method\npreset, n (± over)", overflow="fold", min_width=14)
    for metric in (*table.metrics, f"paper/{table.primary.rpartition('/')[2]}", "params/train"):
        first, _, second = metric.rpartition("/")
        shown.add_column(f"{printable(first)}\n{printable(second)}", justify="right", no_wrap=True)
    for line in table.lines:
        values = [_stacked(line.values[metric]) for metric in table.metrics]
        cost = "\n".join(line.costs[name] for name in ("parameters", "train_samples_per_second"))
        shown.add_row(
            _name(line, stacked=stacked), *values, line.paper, cost, style="bold" if line.marked else None
        )
    return shown


def _name(line: Line, *, stacked: bool) -> str:
    """The row's name, above its preset, number of seeds and what its ± covers."""
    name = f"{printable(line.marked_name)}\n  {printable(line.preset)}, n={line.n}"
    if not line.over:
        return name
    return f"{name}\n  (± {line.over})" if stacked else f"{name} (± {line.over})"


def _stacked(value: Value) -> str:
    return f"{value.text}\n{value.margin}" if value.margin else value.text
