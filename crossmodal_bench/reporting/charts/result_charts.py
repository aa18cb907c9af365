"""Charts of results; a function returns None, or yields nothing, if the records have nothing to draw."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.npy import load_npz
from crossmodal_bench.data.files.arrays import check_finite
from crossmodal_bench.evaluation.metric_table import SIDES, Metric, lookup, summary_of
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks, Side
from crossmodal_bench.evaluation.ranking.ranks import stored_arrays
from crossmodal_bench.evaluation.statistics.student_t import t_interval
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.charts import templates
from crossmodal_bench.reporting.charts.chart import Chart, Entry, drawn_as, entries, filled
from crossmodal_bench.reporting.charts.looks import COLOURS, DASHES, SHAPES, Series
from crossmodal_bench.reporting.comparison.ablations import Effect
from crossmodal_bench.reporting.comparison.parameter_sweeps import ParameterSweep, short
from crossmodal_bench.reporting.rows.leaderboard import Row, Table

SHOWN_LABELS = 16
"""Number of labels with their own look in a projection, by frequency; more cannot be told apart."""
MOST_POINTS = 400
"""Maximum number of points of a projection, over both modalities."""
CUTOFFS = (1, 2, 3, 5, 10, 20, 50, 100)
"""Values of K at which recall is drawn."""
SUMMED = (1, 5, 10)
"""Values of K whose recalls are added."""
COST_PANELS: Mapping[str, str] = {
    "train_seconds": "training (s)",
    "evaluation_seconds": "evaluation (s)",
    "parameters": "parameters",
}


def forest(measured: Sequence[Effect], series: Sequence[Series], table: str) -> Chart | None:
    """What each adversary adds over its ablation without one, with its 95 % interval.

    Args:
        measured: the effects of a table.
        series: the table's rows.
        table: the table's name within the page.
    """
    if not measured:
        return None
    metric = measured[0].metric
    values = []
    for effect in measured:
        look = _series_of(effect.row, series)
        several = sum(other.row.name == effect.row.name for other in measured) > 1
        preset = f" ({effect.row.preset})" if several else ""
        values.append(
            {
                **drawn_as(look),
                "label": f"{effect.row.name} − {effect.ablation.name}{preset}",
                "x": effect.difference,
                "low": effect.difference if effect.low is None else effect.low,
                "high": effect.difference if effect.high is None else effect.high,
                "p": "unknown" if effect.p is None else f"{effect.p:.2g}",
            }
        )
    return Chart(
        id=f"{table}-forest",
        title="What each adversary adds",
        caption=f"Each method minus its ablation without an adversary, in {metric}, with separate 95 % "
        "intervals. Among several tests, an interval that excludes 0 may be chance: see the adjusted p.",
        specification=filled(
            templates.forest(f"difference in {lookup(metric).axis_label}", len(values)), values
        ),
    )


def against_the_first(table: Table, series: Sequence[Series], name: str) -> Chart | None:
    """Each tested row minus the table's first, for tables without an adversary and its ablation."""
    if table.first is None or table.first not in table.tested or len(table.tested) < 2:
        return None
    values = []
    for position in table.tested:
        difference = table.difference(position, table.first)
        if difference is None:
            continue
        pair = {position, table.first}
        p = next(each.adjusted_p for each in table.pairs if {each.first, each.second} == pair)
        values.append(
            {
                **drawn_as(series[position]),
                "label": series[position].label,
                "x": difference.value,
                "low": difference.low,
                "high": difference.high,
                "p": f"{p:.2g}",
            }
        )
    return Chart(
        id=f"{name}-forest",
        title=f"How far behind {series[table.first].label}",
        caption=f"Each row minus the first in {table.primary}, with the 95 % interval of this pair alone: "
        "if it crosses 0, the two cannot be told apart. This table has no adversary with its ablation.",
        specification=filled(
            templates.forest(f"difference in {lookup(table.primary).axis_label}", len(values)), values
        ),
    )


def recall_at_k(series: Sequence[Series], table: str) -> Iterator[Chart]:
    """How often a correct item is among the first K, over K, one chart per direction; averaged over seeds."""
    recalls = [(each, _recalls(each.row)) for each in series]
    for side, title in SIDES.items():
        values = [
            {**drawn_as(each), "x": k, "y": value}
            for each, by_side in recalls
            for k, value in by_side.get(side, {}).items()
        ]
        if values:
            template = templates.lines("K (first items of the gallery)", "recall at K (%)", logarithmic=True)
            yield Chart(
                id=f"{table}-recall-{side}",
                title=f"Recall at K, {title}",
                caption="Queries with a correct item among the first K, mean over seeds; ties in "
                "random order, as in the table.",
                specification=filled(template, values),
                entries=entries([each for each, by_side in recalls if side in by_side]),
            )


def recall_sums(series: Sequence[Series], table: str) -> Chart | None:
    """The recall sum of each direction, averaged over seeds (ADDR, Figure 3(a)); None without ranks."""
    sums = {}
    for each in series:
        by_side = _recalls(each.row)
        if by_side and all(k in by_side[side] for side in SIDES for k in SUMMED):
            sums[each.id] = {side: sum(by_side[side][k] for k in SUMMED) for side in SIDES}
    drawn = [each for each in series if each.id in sums]
    values = [
        {**drawn_as(each), "x": title, "y": round(sums[each.id][side], 2)}
        for each in drawn
        for side, title in SIDES.items()
    ]
    if not values:
        return None
    return Chart(
        id=f"{table}-sums",
        title="Sums of recalls by direction",
        caption="The sum of the recalls at 1, 5 and 10 in each direction, mean over seeds (as in ADDR, "
        "Figure 3(a)).",
        specification=filled(templates.lines("direction", "sum of three recalls (%)", discrete=True), values),
        entries=entries(drawn),
    )


def precision_scope(series: Sequence[Series], table: str) -> Iterator[Chart]:
    """Precision against scope K, one chart per direction; averaged over seeds (ACMR, Figure 3)."""
    for side, title in SIDES.items():
        name = f"{side}/precision_scope"
        drawn = [each for each in series if any(name in record.curves for record in each.row.records)]
        values = []
        for each in drawn:
            curves = [record.curves[name] for record in each.row.records if name in record.curves]
            scope, precision = _mean_curve(curves)
            values += [
                {**drawn_as(each), "x": x, "y": round(y, 5)} for x, y in zip(scope, precision, strict=True)
            ]
        if values:
            template = templates.lines("scope K (first items of the gallery)", "precision (fraction)")
            yield Chart(
                id=f"{table}-precision-{side}",
                title=f"Precision against scope, {title}",
                caption="Fraction of correct items in the first K, mean over seeds (as in ACMR, Figure 3).",
                specification=filled(template, values),
                entries=entries(drawn),
            )


def cost_and_quality(series: Sequence[Series], primary: str, table: str) -> Chart | None:
    """The table's primary metric against each row's cost."""
    values = []
    for order, (name, title) in enumerate(COST_PANELS.items()):
        for each in series:
            cell = each.row.cells.get(primary)
            cost = each.row.cost.get(name, 0.0)
            if cell is not None and cost > 0:
                low = cell.mean if cell.low is None else cell.low
                high = cell.mean if cell.high is None else cell.high
                place = {"panel": title, "order": order, "x": cost, "y": cell.mean, "low": low, "high": high}
                values.append({**drawn_as(each), **place})
    if not values:
        return None
    drawn = {value["row"] for value in values}
    return Chart(
        id=f"{table}-cost",
        title=f"{primary} against cost",
        caption="Means over seeds, on the machine of each record; bars are 95 % intervals.",
        specification=filled(templates.points(lookup(primary).axis_label), values),
        entries=entries([each for each in series if each.id in drawn], points=True),
    )


def projection(record: Record, name: str) -> Chart | None:
    """The record's t-SNE coordinates by modality and by label (ACMR, Figure 4).

    Reads the coordinates stored with the record: ``image`` and ``text`` (n, 2), ``image_labels`` and
    ``text_labels`` (n,); None if there is no such file.

    Args:
        record: the record.
        name: the name of its row within the page.

    Raises:
        BadInput: the file is damaged.
    """
    path = record.files.projection
    if not path.is_file():
        return None
    arrays = _read_projection(path)
    looks = _label_looks(np.concatenate([arrays["image_labels"], arrays["text_labels"]]))
    values: list[dict[str, Any]] = []
    count = sum(len(arrays[modality]) for modality in ("image", "text"))
    step = max(1, -(-count // MOST_POINTS))
    for modality, colour, shape in (("image", COLOURS[1], "circle"), ("text", COLOURS[0], "cross")):
        labels = arrays[f"{modality}_labels"]
        # Many points are thinned out evenly, so that every call draws the same points.
        for position in range(0, len(arrays[modality]), step):
            x, y = arrays[modality][position]
            value = {"x": round(float(x), 2), "y": round(float(y), 2), "modality": modality}
            value |= {"colour": colour, "shape": shape}
            if position < len(labels):
                look = looks.get(str(labels[position]), Entry("other", "#888888", shape="circle"))
                value |= {"label": look.label, "label_colour": look.colour, "label_shape": look.shape}
            values.append(value)
    shown = f"; {len(values)} of {count} points" if len(values) < count else ""
    modalities = (Entry("image", COLOURS[1], (), "circle"), Entry("text", COLOURS[0], (), "cross"))
    return Chart(
        id=f"{name}-projection",
        title="t-SNE of image and text representations",
        caption=f"Seed {record.job.seed} (as in ACMR, Figure 4): the better images and texts mix, the "
        f"smaller the gap between the modalities{shown}.",
        specification=filled(templates.projection(labelled=bool(looks)), values),
        entries=modalities,
    )


def parameter_sweep(sweep: ParameterSweep, name: str) -> Chart:
    """Precision by label against the override that a sweep varies (ACMR, Figure 6).

    Without precision by label, it is the table's primary metric. Bars are 95 % t-intervals over seeds. One
    line per setting of the other overrides; if there is only one such setting, and the metric is the mean of
    both directions, one line per direction and one for the mean. The axis is logarithmic if the values span a
    factor of ten or more.
    """
    metric = summary_of("label_precision")
    if not any(metric.key in row.cells for row in sweep.rows):
        metric = lookup(sweep.rows[0].primary)
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in sweep.values)
    values: list[dict[str, Any]] = []
    legend = []
    for index, (label, key, rows) in enumerate(_sweep_lines(sweep, metric)):
        entry = Entry(label, COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)])
        legend.append(entry)
        drawn = {"series": label, "colour": entry.colour, "dash": list(entry.dash)}
        drawn["shape"] = SHAPES[index % len(SHAPES)]
        values += [
            {**drawn, "x": x if numeric else str(x), "y": mean, "low": mean - half, "high": mean + half}
            for x, mean, half in _sweep_points(sweep, key, rows)
        ]
    template = templates.lines(
        short(sweep.key),
        metric.axis_label,
        logarithmic=numeric and _spans_decades(sweep.values),
        discrete=not numeric,
        errors=True,
    )
    return Chart(
        id=name,
        title=f"{sweep.method}: sweep of {short(sweep.key)}",
        caption=f"{sweep.suite}, preset {sweep.preset}; bars are 95 % t-intervals over seeds (as in ACMR, "
        "Figure 6).",
        specification=filled(template, values),
        entries=tuple(legend),
    )


def _series_of(row: Row, series: Sequence[Series]) -> Series:
    return next(each for each in series if each.row is row)


def _recalls(row: Row) -> dict[Side, dict[int, float]]:
    """R@K of each direction in percent, mean over seeds, up to the gallery size; empty if the ranks are not
    those of the records.
    """
    if not row.results.runs or not all("ranks" in run.families for run in row.results.runs):
        return {}
    kinds = ("", "_tied", "_tied_positives")
    names = [f"{side}{kind}" for side in SIDES for kind in kinds]
    try:
        seeds = [stored_arrays(record.ranks, names) for record in row.records]
        ranks = {
            side: [QueryRanks(*(arrays[side + kind] for kind in kinds)) for arrays in seeds] for side in SIDES
        }
    except (BadInput, KeyError, ValueError):
        return {}
    curves: dict[Side, dict[int, float]] = {}
    for side in SIDES:
        # The queries of one direction are the gallery of the other.
        gallery = min(len(each) for each in ranks["t2i" if side == "i2t" else "i2t"])
        curves[side] = {
            k: round(float(np.mean([100 * _hit_rate(each, k) for each in ranks[side]])), 3)
            for k in CUTOFFS
            if k <= gallery
        }
    return curves


def _hit_rate(ranks: QueryRanks, k: int) -> float:
    if ranks.tied.any():
        return float(np.nanmean(ranks.hit_probability(k)))
    # Without ties this is the same number, many times faster.
    return float(np.mean(ranks.strict[ranks.has_positive] <= k))


def _sweep_lines(sweep: ParameterSweep, metric: Metric) -> Iterator[tuple[str, str, Sequence[Row]]]:
    """(label, metric key, rows) of each line."""
    if len(sweep.lines) > 1:
        for rest, rows in sweep.lines.items():
            yield rest or "nothing else changed", metric.key, rows
    elif metric.terms and metric.combination == "mean":
        for term in map(lookup, metric.terms):
            yield term.name if term.side is None else SIDES[term.side], term.key, sweep.rows
        yield "average", metric.key, sweep.rows
    else:
        yield metric.key, metric.key, sweep.rows


def _sweep_points(sweep: ParameterSweep, key: str, rows: Sequence[Row]) -> Iterator[tuple[Any, float, float]]:
    """(value, mean, half width) in the order of the values; two labels of the same setting are one point,
    with their seeds pooled.
    """
    pooled: dict[str, list[float]] = {json.dumps(value): [] for value in sweep.values}
    for row in rows:
        measured = [record.metrics[key] for record in row.records if key in record.metrics]
        pooled[json.dumps(row.overrides[sweep.key])].extend(measured)
    for value in sweep.values:
        if measured := pooled[json.dumps(value)]:
            mean, half_width, _ = t_interval(measured)
            yield value, mean, float(np.nan_to_num(half_width))


def _spans_decades(values: Sequence[float]) -> bool:
    return len(values) > 1 and min(values) > 0 and max(values) >= 10 * min(values)


def _mean_curve(curves: Sequence[Mapping[str, Sequence[float]]]) -> tuple[list[float], list[float]]:
    """The mean precision at each scope that every curve has (seeds may differ in gallery size)."""
    by_scope = [dict(zip(curve["scope"], curve["precision"], strict=True)) for curve in curves]
    shared = sorted(set.intersection(*(set(curve) for curve in by_scope))) if by_scope else []
    return shared, [float(np.mean([curve[scope] for curve in by_scope])) for scope in shared]


def _read_projection(path: Path) -> dict[str, np.ndarray]:
    names = ["image", "text", "image_labels", "text_labels"]
    try:
        points = load_npz(path, names)
        for name in names:
            check_finite(points[name], f"{path}:{name}")
    except BadInput as error:
        raise BadInput(f"{error}; or delete it, and run the bench again") from error
    shaped = all(points[name].shape[1:] == (2,) for name in names[:2])
    shaped &= all(points[name].ndim == 1 for name in names[2:])
    if not shaped or any(points[name].dtype.kind not in "fiu" for name in names):
        raise BadInput(
            f"{path}: 'image' and 'text' must be numbers of shape (n, 2), and their labels of shape (n,); "
            "delete it, and run the bench again"
        )
    return points


def _label_looks(labels: np.ndarray) -> dict[str, Entry]:
    """The looks of the most frequent labels, by the label as text."""
    values, counts = np.unique(labels, return_counts=True)
    shown = np.sort(values[np.argsort(-counts, kind="stable")][:SHOWN_LABELS])
    return {
        str(value): Entry(
            str(value),
            COLOURS[index % len(COLOURS)],
            shape=SHAPES[index // len(COLOURS) % len(SHAPES)],
        )
        for index, value in enumerate(shown)
    }
