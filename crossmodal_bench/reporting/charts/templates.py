"""One Vega-Altair template for each kind of chart; ``chart.filled`` adds the data."""

from __future__ import annotations

import functools
from typing import Any

import altair as alt

from crossmodal_bench.reporting.charts.chart import CONFIG, HEIGHT, WIDTH, Specification

ROW_HEIGHT = 26
"""Pixels per line in a chart with one line per row."""

_COLOUR = alt.Color("colour:N", scale=None)
_DASH = alt.StrokeDash("dash:N", scale=None)
_SHAPE = alt.Shape("shape:N", scale=None)
_PANEL_ORDER = alt.EncodingSortField(field="order", op="min")
_PLACEHOLDER = {"name": "empty"}
_LEADING_DIGIT = "round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-9)))"
_SHORT_NUMBER = (
    f"indexof([1, 2, 5], {_LEADING_DIGIT}) < 0 ? '' : "
    "datum.value < 1 ? format(datum.value, '~g') : format(datum.value, '~s')"
)
"""Label expression of a logarithmic axis: all of its labels would overlap."""


@functools.cache
def lines(
    x: str,
    y: str,
    *,
    logarithmic: bool = False,
    epochs: bool = False,
    reference: float | None = None,
    fraction: bool = False,
    discrete: bool = False,
    errors: bool = False,
) -> Specification:
    """A line for each ``series`` over ``x`` and ``y``.

    Args:
        x, y: titles of the axes, with units.
        logarithmic: whether the horizontal axis is logarithmic.
        epochs: whether ``x`` counts epochs, so that ticks are whole numbers.
        reference: a level to mark, e.g. chance.
        fraction: whether ``y`` ranges from 0 to 1.
        discrete: whether ``x`` consists of names, in data order.
        errors: whether the data have ``low`` and ``high``.
    """
    axis = (
        alt.Axis(tickMinStep=1, format="d")
        if epochs
        else alt.Axis(format="~s")
        if logarithmic
        else alt.Axis()
    )
    scale = alt.Scale(type="log", nice=False) if logarithmic else alt.Scale(zero=False, nice=not epochs)
    across = (
        alt.X("x:N", title=x, sort=None, axis=alt.Axis(labelAngle=0))
        if discrete
        else alt.X("x:Q", title=x, axis=axis, scale=scale)
    )
    up = alt.Y(
        "y:Q",
        title=y,
        axis=alt.Axis(tickCount=5),
        scale=alt.Scale(domain=[0, 1]) if fraction else alt.Scale(zero=False),
    )
    shown = [
        alt.Tooltip("series:N", title="row"),
        alt.Tooltip("x:N" if discrete else "x:Q", title=x),
        alt.Tooltip("y:Q", title=y, format=".4~g"),
    ]
    base = alt.Chart()
    drawn = base.encode(x=across, y=up, detail="series:N", color=_COLOUR)
    layers: list[Any] = []
    if reference is not None:
        layers.append(
            alt.Chart(alt.Data(values=[{"y": reference}]))
            .mark_rule(strokeDash=[2, 3], color="currentColor", opacity=0.45)
            .encode(y="y:Q")
        )
    layers.append(drawn.mark_line(strokeWidth=1.8, strokeJoin="round").encode(strokeDash=_DASH))
    if errors:
        layers.append(drawn.mark_rule().encode(y=alt.Y("low:Q", title=y), y2="high:Q"))
    layers.append(
        drawn.mark_point(filled=True, size=6 if epochs else 22, opacity=1).encode(shape=_SHAPE, tooltip=shown)
    )
    return _finished(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT))


@functools.cache
def small_multiples(x: str) -> Specification:
    """A panel for each ``panel``, each with its own vertical axis; a line for each ``series``."""
    drawn = (
        alt.Chart(alt.Data(values=[]))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X(
                "x:Q",
                title=x,
                axis=alt.Axis(tickMinStep=1, format="d", tickCount=4),
                scale=alt.Scale(nice=False),
            ),
            y=alt.Y("y:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
            detail="series:N",
            color=_COLOUR,
            strokeDash=_DASH,
            tooltip=[
                alt.Tooltip("series:N", title="seed"),
                alt.Tooltip("x:Q", title=x),
                alt.Tooltip("y:Q", title="value", format=".4~g"),
            ],
        )
        .properties(width=200, height=120)
        .facet(alt.Facet("panel:N", title=None, sort=_PANEL_ORDER), columns=4)
        .resolve_scale(y="independent")
    )
    return _finished(drawn)


@functools.cache
def forest(x: str, rows: int) -> Specification:
    """An estimate and its interval on each line of ``label``, against 0.

    Args:
        x: title of the axis.
        rows: the number of lines.
    """
    label = alt.Y("label:N", title=None, sort=None, axis=alt.Axis(domain=False, ticks=False, grid=False))
    zero = (
        alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(color="currentColor", opacity=0.45).encode(x="x:Q")
    )
    shown = [
        alt.Tooltip("label:N", title="difference"),
        alt.Tooltip("x:Q", title=x, format="+.4~g"),
        alt.Tooltip("low:Q", title="from", format="+.4~g"),
        alt.Tooltip("high:Q", title="to", format="+.4~g"),
        alt.Tooltip("p:N", title="adjusted p"),
    ]
    interval = (
        alt.Chart()
        .mark_rule(strokeWidth=2.5, strokeCap="round")
        .encode(y=label, x=alt.X("low:Q", title=x, axis=alt.Axis(tickCount=6)), x2="high:Q", color=_COLOUR)
    )
    point = (
        alt.Chart()
        .mark_point(filled=True, size=70, opacity=1)
        .encode(y=label, x=alt.X("x:Q", title=x), color=_COLOUR, shape=_SHAPE, tooltip=shown)
    )
    return _finished(
        alt.layer(zero, interval, point).properties(width=WIDTH, height=ROW_HEIGHT * max(1, rows))
    )


@functools.cache
def points(y: str) -> Specification:
    """A point for each row over each ``panel``'s own cost, on a logarithmic axis; ``y`` with its interval."""
    shown = [
        alt.Tooltip("series:N", title="row"),
        alt.Tooltip("x:Q", title="cost", format=".3~s"),
        alt.Tooltip("y:Q", title=y, format=".4~g"),
    ]
    up = alt.Y("y:Q", title=y, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    across = alt.X(
        "x:Q", title=None, scale=alt.Scale(type="log"), axis=alt.Axis(labelExpr=_SHORT_NUMBER, grid=False)
    )
    base = alt.Chart().encode(x=across, color=_COLOUR)
    drawn = alt.layer(
        base.mark_rule(opacity=0.5).encode(y=alt.Y("low:Q", title=y), y2="high:Q"),
        base.mark_point(filled=True, size=80, opacity=1).encode(y=up, shape=_SHAPE, tooltip=shown),
        data=alt.Data(values=[]),
    ).properties(width=230, height=180)
    faceted = drawn.facet(
        alt.Facet("panel:N", title=None, sort=_PANEL_ORDER, header=alt.Header(labelOrient="bottom")),
        columns=3,
    )
    return _finished(faceted.resolve_scale(x="independent"))


@functools.cache
def projection(*, labelled: bool) -> Specification:
    """Points of images and texts by modality and, if they are ``labelled``, once more by label."""
    across = alt.X("x:Q", title="t-SNE 1 (no unit)", axis=alt.Axis(labels=False, ticks=False))
    up = alt.Y("y:Q", title="t-SNE 2 (no unit)", axis=alt.Axis(labels=False, ticks=False))
    base = alt.Chart().mark_point(filled=True, size=14, opacity=0.75)
    by_modality = base.encode(x=across, y=up, color=_COLOUR, shape=_SHAPE, tooltip="modality:N")
    by_label = base.encode(
        x=across,
        y=up,
        color=alt.Color("label_colour:N", scale=None),
        shape=alt.Shape("label_shape:N", scale=None),
        tooltip=[alt.Tooltip("label:N"), alt.Tooltip("modality:N")],
    )
    panels = [by_modality.properties(title="by modality", width=300, height=260)]
    if labelled:
        panels.append(by_label.properties(title="by label", width=300, height=260))
    return _finished(alt.hconcat(*panels, data=alt.Data(values=[])))


def _finished(chart: Any) -> Specification:
    """The chart's JSON with our configuration, without the data placeholders."""
    specification: Specification = chart.to_dict(context={"consolidate_datasets": False})
    for key in ("$schema", "datasets", "data"):
        specification.pop(key, None)
    return {**_without_placeholders(specification), "config": CONFIG}


def _without_placeholders(node: Any) -> Any:
    """Remove the data names that Altair gives to charts without data of their own."""
    if isinstance(node, list):
        return [_without_placeholders(part) for part in node]
    if not isinstance(node, dict):
        return node
    return {key: _without_placeholders(part) for key, part in node.items() if part != _PLACEHOLDER}
