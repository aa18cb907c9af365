"""One self-contained page: no script, no font, no picture from elsewhere, so it can be mailed and kept."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape as escaped

from crossmodal_bench.core.errors import printable
from crossmodal_bench.evaluation.metric_table import formatted
from crossmodal_bench.reporting.rows.leaderboard import Row, Table
from crossmodal_bench.reporting.tables.layout import OVER
from crossmodal_bench.reporting.tables.shown import ABSENT, COSTS, ShownTable, Value

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1b1f24; --soft: #57606a; --line: #d0d7de;
  --page: #ffffff; --card: #f6f8fa; --mark: #0b5cad; --warn: #9a3412;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6edf3; --soft: #9da7b3; --line: #30363d;
    --page: #0d1117; --card: #161b22; --mark: #79b8ff; --warn: #ffab70;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 92rem; padding: 1rem;
  background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.5rem; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .25rem; overflow-wrap: anywhere; }
p { margin: .25rem 0; }
.soft, li, figcaption { color: var(--soft); font-size: .875rem; }
ul { padding-left: 1.2rem; }
li { overflow-wrap: anywhere; }
.warning { color: var(--warn); font-weight: 600; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; margin: .75rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .875rem; }
th, td { padding: .4rem .6rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--card); vertical-align: bottom; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); }
/* A name stands on one line. One that lists many overrides is cut, and whole on hover and in the details. */
th:first-child > span {
  display: block; max-width: min(36rem, 50vw); overflow: hidden; text-overflow: ellipsis;
}
@media (max-width: 40rem) {
  th:first-child { position: static; }
  th:first-child > span { max-width: 75vw; }
}
tbody th { font-weight: 600; }
small { color: var(--soft); }
td small { margin-left: .25rem; }
tr.paper th, tr.paper td { border-top: 0; padding-top: 0; color: var(--soft); font-style: italic; }
tr.paper th { font-weight: 400; padding-left: 1.4rem; }
.best { color: var(--mark); font-weight: 700; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: .5rem 0; max-width: 100%; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: .5rem; }
summary { cursor: pointer; color: var(--mark); margin: .5rem 0; }
"""


@dataclass(frozen=True)
class Figure:
    """A PNG and what it shows; the caption is also the text for those who cannot see it."""

    png: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """One leaderboard and its figures."""

    table: ShownTable
    figures: Sequence[Figure] = field(default=(), repr=False)


def page(title: str, summary: str, sections: Iterable[Section], warnings: Sequence[str] = ()) -> str:
    """The whole document; every text is escaped here, so callers pass plain text.

    Args:
        title: its heading.
        summary: what it is of.
        sections: one for each table.
        warnings: about the page as a whole, above everything else.
    """
    parts = [f'<p class="warning">Warning: {escape(warning)}</p>' for warning in warnings]
    body = "\n".join([*parts, *(_section(section) for section in sections)])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="soft">{escape(summary)}</p>\n{body}\n</body>\n</html>\n'
    )


def escape(text: str) -> str:
    """Plain text as HTML, without characters that HTML has no place for."""
    return escaped(printable(text))


def _section(section: Section) -> str:
    table = section.table
    parts = [f"<section>\n<h2>{escape(table.title)}</h2>"]
    parts += [f'<p class="warning">Warning: {escape(warning)}</p>' for warning in table.warnings]
    parts.append(_main_grid(table))
    notes = "".join(f"<li>{escape(note)}</li>" for note in (*table.meaning, *table.notes))
    parts.append(f"<ul>{notes}</ul>")
    parts.append(_collapsed("Every metric, with the parts of its interval", _details(table)))
    if table.source.pairs:
        summary = f"How sure the differences in {table.primary} are: p, adjusted to all pairs of the table"
        parts.append(_collapsed(summary, _matrix(table.source)))
    if section.figures:
        figures = "\n".join(_figure(figure) for figure in section.figures)
        parts.append(f'<div class="figures">\n{figures}\n</div>')
    return "\n".join([*parts, "</section>"])


def _collapsed(summary: str, content: str) -> str:
    return f"<details>\n<summary>{escape(summary)}</summary>\n{content}\n</details>"


def _main_grid(table: ShownTable) -> str:
    """Our rows, each followed by the published ones that may stand beside it, in a softer colour."""
    rows = []
    for line in table.lines:
        values = "".join(_value(line.values[metric]) for metric in table.metrics)
        head = _cells([line.preset, str(line.n), line.over])
        rows.append(f"<tr>{_name(line.marked_name)}{head}{values}{_cells(line.costs.values())}</tr>")
        for published in line.published:
            theirs = [published.values.get(metric, "") for metric in table.metrics]
            cells = _cells(["paper", "", "", *theirs, *("" for _ in COSTS)])
            rows.append(f'<tr class="paper">{_name(published.source)}{cells}</tr>')
    return _grid(["method", "preset", "n", "± over", *table.metrics, *COSTS.values()], rows)


def _details(table: ShownTable) -> str:
    headers = ["method", "preset", "n", "metric", "mean", "95 % interval", "over"]
    headers += ["error of images", "error of seeds", "published", "source or why not"]
    rows = []
    for row in table.source.rows:
        for metric in table.source.metrics:
            if metric in row.cells:
                rows.append(f"<tr>{_name(row.name)}{_cells(_detail(row, metric))}</tr>")
    return _grid(headers, rows)


def _matrix(table: Table) -> str:
    """The adjusted p of each pair of rows, the rows numbered to name the columns."""
    p = {(pair.first, pair.second): pair.adjusted_p for pair in table.pairs}
    numbers = {position: number for number, position in enumerate(table.tested, start=1)}
    rows = []
    for position, number in numbers.items():
        cells = [
            f"{p[min(position, other), max(position, other)]:.2g}" if other != position else ""
            for other in table.tested
        ]
        row = table.rows[position]
        rows.append(f"<tr>{_name(f'{number}. {row.name} ({row.preset})')}{_cells(cells)}</tr>")
    return _grid(["row", *map(str, numbers.values())], rows)


def _detail(row: Row, metric: str) -> list[str]:
    cell = row.cells[metric]
    interval = ABSENT
    if cell.low is not None and cell.high is not None:
        interval = f"{formatted(metric, cell.low)} to {formatted(metric, cell.high)}"
    errors = [
        ABSENT if number is None else formatted(metric, number)
        for number in (cell.items_error, cell.seeds_error, cell.published.value)
    ]
    return [
        row.preset,
        str(cell.n),
        metric,
        formatted(metric, cell.mean),
        interval,
        OVER[cell.target] if cell.target else ABSENT,
        *errors,
        cell.published.source or cell.published.apart_text or cell.published.reason or "",
    ]


def _grid(headers: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    body = "\n".join(rows)
    table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f'<div class="scroll">{table}</div>'


def _name(text: str) -> str:
    name = escape(text)
    return f'<th scope="row"><span title="{name}">{name}</span></th>'


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"<td>{escape(text)}</td>" for text in texts)


def _value(value: Value) -> str:
    kind = ' class="best"' if value.marked else ""
    margin = f"<small>{escape(value.margin)}</small>" if value.margin else ""
    return f"<td{kind}>{escape(value.text)}{margin}</td>"


def _figure(figure: Figure) -> str:
    source = base64.b64encode(figure.png).decode("ascii")
    caption = escape(figure.caption)
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
