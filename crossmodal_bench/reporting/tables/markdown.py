"""Leaderboards as GitHub-flavoured Markdown: whole, or as a block for a README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from crossmodal_bench.core.errors import printable
from crossmodal_bench.reporting.tables.shown import COSTS, ShownTable, Value


def markdown(tables: Iterable[ShownTable]) -> str:
    """Every table with costs, published lines, warnings and notes."""
    parts = ["# Leaderboard\n"]
    for table in tables:
        rows = []
        blank = [""] * len(COSTS)
        for line in table.lines:
            values = [_value(line.values[metric]) for metric in table.metrics]
            head = [_text(text) for text in (line.marked_name, line.preset, str(line.n), line.over)]
            rows.append([*head, *values, *map(_text, line.costs.values())])
            for published in line.published:
                theirs = [_text(published.values.get(metric, "")) for metric in table.metrics]
                rows.append([f"*{_text(published.source)}*", "paper", "", "", *theirs, *blank])
        headers = ["method", "preset", "n", "± over", *table.metrics, *COSTS.values()]
        parts.append(f"## {_text(table.title)}\n")
        parts.append(_grid(headers, rows, names=1) + "\n")
        parts.append(_list([*_warnings(table), *map(_text, (*table.meaning, *table.notes))]))
    return "\n".join(parts)


def readme(tables: Iterable[ShownTable]) -> str:
    """Every table as a block for a README: ± at the metric that ranks alone, no costs, and only those notes
    without which the numbers are not understood.
    """
    blocks = []
    for table in tables:
        rows = []
        for line in table.lines:
            values = []
            for metric in table.metrics:
                value = line.values[metric]
                values.append(_value(value if metric == table.primary else Value(value.text)))
            head = [_text(text) for text in (line.marked_name, str(line.n), line.over)]
            rows.append([*head, *values])
            for published in line.published:
                theirs = [_text(published.values.get(metric, "")) for metric in table.metrics]
                rows.append([f"*{_text(published.source)}*", "", "", *theirs])
        presets = ", ".join(dict.fromkeys(line.preset for line in table.lines))
        sentences = [f"{table.title}. Preset {presets}.", *(f"{note}." for note in table.meaning)]
        grid = _grid(["method", "n", "± over", *table.metrics], rows, names=1)
        caution = "".join(f"- {warning}\n" for warning in _warnings(table))
        blocks.append(f"{_text(' '.join(sentences))}\n\n{grid}\n" + (f"\n{caution}" if caution else ""))
    return "\n".join(blocks)


def _grid(headers: Sequence[str], rows: Iterable[Sequence[str]], names: int) -> str:
    """Escaped rows below their headers; the first ``names`` columns are set left, all others right."""
    rules = ["---" if column < names else "---:" for column in range(len(headers))]
    lines = [[_text(header) for header in headers], rules, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(items: Iterable[str]) -> str:
    return "".join(f"- {item}\n" for item in items)


def _warnings(table: ShownTable) -> list[str]:
    return [f"**Warning: {_text(warning)}**" for warning in table.warnings]


def _value(value: Value) -> str:
    text = _text(f"{value.text} {value.margin}")
    return f"**{text}**" if value.marked else text


def _text(text: str) -> str:
    """Plain text that Markdown leaves alone, in a table's cell and elsewhere."""
    return re.sub(r"([\\`*_|<>\[\]$&~])", r"\\\1", " ".join(printable(text).split()))
