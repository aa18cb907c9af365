"""One self-contained page: no script, no font, no picture from elsewhere, so it can be mailed and kept."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape as escaped

from crossmodal_bench.core.errors import printable

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
class Value:
    """A cell: a number, the interval printed small behind it, and whether it is the table's best."""

    text: str
    interval: str = ""
    best: bool = False


@dataclass(frozen=True)
class Line:
    """A table row: ours, or a paper's (set beneath ours in a softer colour)."""

    name: str
    values: Sequence[Value]
    paper: bool = False


@dataclass(frozen=True)
class Figure:
    """A PNG and what it shows; the caption is also the text for those who cannot see it."""

    png: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """One leaderboard: its table, its footnotes, the same in full detail, and its figures."""

    title: str
    headers: Sequence[str]
    lines: Sequence[Line]
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    detail_headers: Sequence[str] = ()
    details: Sequence[Line] = ()
    figures: Sequence[Figure] = field(default=(), repr=False)


def page(title: str, summary: str, sections: Iterable[Section]) -> str:
    """The whole document; every text is escaped here, so callers pass plain text."""
    body = "\n".join(_section(section) for section in sections)
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
    parts = [f"<section>\n<h2>{escape(section.title)}</h2>"]
    parts += [f'<p class="warning">Warning: {escape(warning)}</p>' for warning in section.warnings]
    parts.append(_table(section.headers, section.lines))
    if section.notes:
        parts.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in section.notes) + "</ul>")
    if section.details:
        detail = _table(section.detail_headers, section.details)
        parts.append(f"<details>\n<summary>Every metric, with both intervals</summary>\n{detail}\n</details>")
    if section.figures:
        figures = "\n".join(_figure(figure) for figure in section.figures)
        parts.append(f'<div class="figures">\n{figures}\n</div>')
    return "\n".join([*parts, "</section>"])


def _table(headers: Sequence[str], lines: Iterable[Line]) -> str:
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    rows = "\n".join(_line(line) for line in lines)
    table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
    return f'<div class="scroll">{table}</div>'


def _line(line: Line) -> str:
    kind = ' class="paper"' if line.paper else ""
    name = escape(line.name)
    values = "".join(_value(value) for value in line.values)
    return f'<tr{kind}><th scope="row"><span title="{name}">{name}</span></th>{values}</tr>'


def _value(value: Value) -> str:
    kind = ' class="best"' if value.best else ""
    interval = f"<small>{escape(value.interval)}</small>" if value.interval else ""
    return f"<td{kind}>{escape(value.text)}{interval}</td>"


def _figure(figure: Figure) -> str:
    source = base64.b64encode(figure.png).decode("ascii")
    caption = escape(figure.caption)
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
