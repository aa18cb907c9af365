"""Leaderboards as GitHub-flavoured Markdown: whole, or as a block for a README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from crossmodal_bench.core.errors import printable
from crossmodal_bench.reporting.tables.shown import COSTS, ShownTable, Value


def markdown(tables: Iterable[ShownTable]) -> str:
    """Every table with costs, published lines, warnings and notes."""
    parts = ["# Leaderboard\n"]
    for table in tables:
        parts.append(f"## {escaped(table.title)}\n")
        parts.append(leaderboard_grid(table) + "\n")
        parts.append(_list([*_warnings(table), *map(escaped, (*table.meaning, *table.notes))]))
    return "\n".join(parts)


def leaderboard_grid(table: ShownTable, letters: Mapping[int, str] | None = None) -> str:
    """The rows of one table with costs and published lines.

    Args:
        table: the table.
        letters: by position, those of rows that cannot be told apart, see ``comparison.tie_groups``; None for
            a table without them.
    """
    rows = []
    blank = [""] * len(COSTS)
    for position, line in enumerate(table.lines):
        values = [_value(line.values[metric]) for metric in table.metrics]
        head = [escaped(text) for text in (line.marked_name, line.preset, str(line.n), line.over)]
        group = [] if letters is None else [letters.get(position, "")]
        rows.append([*head, *group, *values, *map(escaped, line.costs.values())])
        for published in line.published:
            theirs = [escaped(published.values.get(metric, "")) for metric in table.metrics]
            without = [] if letters is None else [""]
            source = f"*{escaped(published.source)}*"
            rows.append([source, "paper", "", "", *without, *theirs, *blank])
    groups = [] if letters is None else ["not told apart"]
    headers = ["method", "preset", "n", "± over", *groups, *table.metrics, *COSTS.values()]
    return _grid(headers, rows, names=1)


def readme(tables: Iterable[ShownTable]) -> str:
    """Every table as a block for a README: ± only for the metric that ranks, no costs, and only the notes
    needed to understand the numbers.
    """
    blocks = []
    for table in tables:
        rows = []
        for line in table.lines:
            values = []
            for metric in table.metrics:
                value = line.values[metric]
                values.append(_value(value if metric == table.primary else Value(value.text)))
            head = [escaped(text) for text in (line.marked_name, str(line.n), line.over)]
            rows.append([*head, *values])
            for published in line.published:
                theirs = [escaped(published.values.get(metric, "")) for metric in table.metrics]
                rows.append([f"*{escaped(published.source)}*", "", "", *theirs])
        presets = ", ".join(dict.fromkeys(line.preset for line in table.lines))
        sentences = [f"{table.title}. Preset {presets}.", *(f"{note}." for note in table.meaning)]
        grid = _grid(["method", "n", "± over", *table.metrics], rows, names=1)
        caution = "".join(f"- {warning}\n" for warning in _warnings(table))
        blocks.append(f"{escaped(' '.join(sentences))}\n\n{grid}\n" + (f"\n{caution}" if caution else ""))
    return "\n".join(blocks)


def _grid(headers: Sequence[str], rows: Iterable[Sequence[str]], names: int) -> str:
    """Escaped rows below their headers; the first ``names`` columns are left-aligned, the others right."""
    rules = ["---" if column < names else "---:" for column in range(len(headers))]
    lines = [[escaped(header) for header in headers], rules, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(items: Iterable[str]) -> str:
    return "".join(f"- {item}\n" for item in items)


def _warnings(table: ShownTable) -> list[str]:
    return [f"**Warning: {escaped(warning)}**" for warning in table.warnings]


def _value(value: Value) -> str:
    text = escaped(f"{value.text} {value.margin}")
    return f"**{text}**" if value.marked else text


def escaped(text: str) -> str:
    """Plain text escaped for Markdown, in table cells and elsewhere."""
    return re.sub(r"([\\`*_|<>\[\]$&~])", r"\\\1", " ".join(printable(text).split()))
