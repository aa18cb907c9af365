"""What a chart is, how all charts look, and how one becomes a picture without a browser.

Each kind of chart is created once by Vega-Altair as a template; a chart is a template with data. Colours,
dashes and shapes are part of the data, so templates are independent of methods.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossmodal_bench.core.errors import printable
from crossmodal_bench.reporting.charts.looks import Series

Specification = dict[str, Any]
"""A chart as Vega-Lite JSON."""
Values = Sequence[Mapping[str, Any]]
"""A chart's data, one mapping per mark."""

WIDTH = 340
HEIGHT = 220
LONGEST_TEXT = 120
"""Maximum number of characters of a text in a chart."""

_INK = "currentColor"  # the colour of the surrounding page, dark or light; black in a separate file
_FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"
CONFIG: Specification = {
    "background": "transparent",
    # A chart has a caption and its numbers; screen readers would read labelled marks out one by one.
    "aria": False,
    "font": _FONT,
    "view": {"stroke": None},
    "axis": {
        "domainColor": _INK,
        "domainOpacity": 0.35,
        "gridColor": _INK,
        "gridOpacity": 0.1,
        "labelColor": _INK,
        "labelFontSize": 11,
        "labelLimit": 0,
        "labelPadding": 6,
        "tickColor": _INK,
        "tickOpacity": 0.35,
        "tickSize": 4,
        "titleColor": _INK,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titleLimit": 0,
        "titlePadding": 8,
    },
    "header": {
        "labelColor": _INK,
        "labelFontSize": 11,
        "labelFontWeight": 600,
        "labelLimit": 0,
        "titleColor": _INK,
    },
    "title": {"anchor": "start", "color": _INK, "fontSize": 12, "fontWeight": 600, "limit": 0},
    "legend": {"labelColor": _INK, "labelLimit": 0, "titleColor": _INK},
}


@dataclass(frozen=True)
class Entry:
    """One entry of a legend.

    Attributes:
        label: the name.
        colour: as ``#rrggbb``.
        dash: of the line.
        shape: of the point; empty if there is only a line.
    """

    label: str
    colour: str
    dash: tuple[int, ...] = (1, 0)
    shape: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart with its texts.

    Attributes:
        id: its name within the page, and in the file of all charts.
        title: what it shows, in a few words.
        caption: what one needs to know to read it.
        specification: the specification with its data.
        entries: the legend.
    """

    id: str
    title: str
    caption: str
    specification: Specification = field(repr=False)
    entries: tuple[Entry, ...] = ()

    @property
    def is_wide(self) -> bool:
        """Whether it has several panels."""
        return not {"facet", "hconcat"}.isdisjoint(self.specification)


def filled(template: Mapping[str, Any], values: Values) -> Specification:
    """A template with data, in which all texts are made printable and shortened."""
    return {**template, "data": {"values": [_plain(value) for value in values]}}


def entries(series: Sequence[Series], *, points: bool = False) -> tuple[Entry, ...]:
    """A legend of rows; ``points``: drawn as points rather than lines."""
    return tuple(
        Entry(
            each.label,
            each.look.colour,
            dash=() if points else each.look.dash,
            shape=each.look.shape if points else "",
        )
        for each in series
    )


def drawn_as(series: Series) -> dict[str, Any]:
    """The data of a row's mark besides its position."""
    return {
        "row": series.id,
        "series": series.label,
        "colour": series.look.colour,
        "dash": list(series.look.dash),
        "shape": series.look.shape,
    }


def svg(chart: Chart) -> str:
    """The chart as an SVG element for use in a page; needs neither a browser nor a network."""
    import vl_convert

    drawn = vl_convert.vegalite_to_svg(chart.specification)
    # Several of them in one page must not share ids.
    drawn = re.sub(r'(\bid="|url\(#)', rf"\1{chart.id}-", drawn)
    drawn = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", drawn, count=3)
    # The whole is one picture with its own text; unlabelled parts would be read out as "graphics".
    return re.sub(r'(<[^>]*?) role="graphics-[a-z]+"( aria-roledescription="[^"]*")?', r"\1", drawn)


def png(chart: Chart, scale: float = 2.0) -> bytes:
    """The chart as a PNG on white, with a legend if it shows several rows."""
    import vl_convert

    specification = {**chart.specification, "background": "white", "title": printable(chart.title)}
    if len(chart.entries) > 1:
        specification = {
            "config": specification.pop("config"),
            "vconcat": [specification, _legend(chart.entries)],
            "background": "white",
        }
    return vl_convert.vegalite_to_png(specification, scale=scale)


def _legend(shown: Sequence[Entry]) -> Specification:
    """The legend as rows of text; in a page, HTML replaces it."""
    values = [
        {"label": entry.label, "colour": entry.colour, "line": number}
        for number, entry in enumerate(shown[:60])
    ]
    y = {"field": "line", "type": "ordinal", "axis": None}
    colour = {"field": "colour", "type": "nominal", "scale": None}
    return {
        "data": {"values": values},
        "width": WIDTH,
        "height": {"step": 16},
        "layer": [
            {
                "mark": {"type": "tick", "thickness": 3, "orient": "vertical"},
                "encoding": {"y": y, "x": {"value": 8}, "color": colour},
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 18},
                "encoding": {"y": y, "x": {"value": 0}, "text": {"field": "label", "type": "nominal"}},
            },
        ],
    }


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: printable(part[:LONGEST_TEXT]) if isinstance(part, str) else part for key, part in value.items()
    }
