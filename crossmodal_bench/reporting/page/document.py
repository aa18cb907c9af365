"""The page's HTML from its contents, with templates that escape everything.

The page itself ensures that nothing is fetched: its content security policy only allows its own scripts and
styles, by their hashes, and embedded pictures. Vega's expressions are interpreted, not compiled.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from crossmodal_bench.core.errors import printable
from crossmodal_bench.reporting.charts.chart import CONFIG, Chart, Specification, svg
from crossmodal_bench.reporting.charts.looks import COLOURS
from crossmodal_bench.reporting.page.contents import STRIP, PageTable
from crossmodal_bench.reporting.tables.shown import COSTS

STYLES = ("page.css",)
"""Files of ``assets/``, in the order of the cascade."""
SCRIPTS = ("state.js", "page.js", "vega.min.js", "charts.js")
"""Files of ``assets/``, in the order in which they run."""
MOST_DRAWINGS = 24
"""Number of charts also embedded as drawings, for print and for readers without scripts."""


QUERIES_STYLES = ("queries.css",)
"""In addition to ``STYLES``, if the page has queries to browse."""
QUERIES_SCRIPTS = ("queries.js", "queries_mount.js")
"""Likewise, in addition to ``SCRIPTS``."""
_MARK = '\nperformance.mark("interactive");\n'
"""Set once the last script has run: from then on everything responds."""


def document(
    title: str,
    summary: str,
    tables: Sequence[PageTable],
    options: str,
    warnings: Sequence[str] = (),
    queries: Any = None,
    *,
    most_drawings: int = MOST_DRAWINGS,
) -> str:
    """The whole page.

    Args:
        title: its heading.
        summary: what it covers.
        tables: its leaderboards.
        options: of ``report``, which make the same page again.
        warnings: about the page as a whole, above everything else.
        queries: what single queries retrieved, as ``page.queries`` returns it for ``queries.html``; None
            omits that part.
        most_drawings: how many charts are also embedded as drawings.
    """
    more_styles, more_scripts = (QUERIES_STYLES, QUERIES_SCRIPTS) if queries else ((), ())
    style = "\n".join([*(_asset(name) for name in (*STYLES, *more_styles)), *_colour_rules()])
    scripts = [_asset(name) for name in (*SCRIPTS, *more_scripts)]
    scripts[-1] += _MARK
    drawings = _drawings(tables, most_drawings)
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            summary=summary,
            tables=tables,
            options=options,
            warnings=warnings,
            queries=queries,
            costs=COSTS,
            strip_size=STRIP,
            filters=_filters(tables),
            drawings=drawings,
            chart_config=CONFIG,
            style=Markup(style),
            scripts=[Markup(script) for script in scripts],
            policy=_policy([style], scripts),
        )
    )


def json_text(content: Any) -> Markup:
    """JSON that is safe in a ``script`` element: contains neither ``<`` nor ``&``."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def lines(text: str) -> Markup:
    """A text of several lines, escaped, with its line breaks."""
    return Markup("\n".join(escape(printable(line)) for line in text.split("\n")))


def specification(chart: Chart) -> Specification:
    """A chart's specification without the configuration shared by all charts."""
    return {key: value for key, value in chart.specification.items() if key != "config"}


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Text from files becomes one line, without control characters.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {"json_text": json_text, "lines": lines, "specification": specification}
    return environment


@functools.cache
def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _colour_rules() -> list[str]:
    return [f".colour-{number} {{ --colour: {colour}; }}" for number, colour in enumerate(COLOURS)]


def _policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(_hash, scripts))}",
            f"style-src {' '.join(map(_hash, styles))}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _drawings(tables: Sequence[PageTable], most: int) -> dict[str, Markup]:
    """Drawings of charts, first those of several rows, then those of single rows."""
    shared = [chart for table in tables for chart in (table.forest, *table.comparisons) if chart is not None]
    single = [chart for table in tables for row in table.rows for chart in row.charts]
    # vl-convert's drawings are escaped by Vega, and contain neither scripts nor styles.
    return {chart.id: Markup(svg(chart)) for chart in [*shared, *single][:most]}


def _filters(tables: Sequence[PageTable]) -> dict[str, list[str]]:
    """The values rows can be filtered by, by name; only those that distinguish rows."""
    rows = [(table, row) for table in tables for row in table.rows]
    values = {
        "dataset": [table.dataset for table, _ in rows],
        "preset": [row.line.preset for _, row in rows],
        "kind": [row.kind for _, row in rows],
        "features": [row.features for _, row in rows],
    }
    distinct = {name: list(dict.fromkeys(texts)) for name, texts in values.items()}
    return {name: texts for name, texts in distinct.items() if len(texts) > 1}
