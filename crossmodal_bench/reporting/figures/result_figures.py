"""The figures of ACMR's section 4 for any method, drawn from records; each function returns a PNG's bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.npy import load_npz
from crossmodal_bench.data.files.arrays import check_finite
from crossmodal_bench.evaluation.metric_table import SIDES, Metric, lookup, summary_of
from crossmodal_bench.evaluation.statistics.student_t import t_interval
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.comparison.parameter_sweeps import ParameterSweep, short
from crossmodal_bench.reporting.figures import drawing
from crossmodal_bench.reporting.rows.leaderboard import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_LABELS = 16
"""Labels with a colour of their own in a projection, most frequent first; more cannot be told apart."""


def precision_scope(rows: Sequence[Row]) -> bytes | None:
    """Precision against scope K for each row, its seeds averaged (ACMR, Figure 3); None without curves."""
    names = [f"{direction}/precision_scope" for direction in SIDES]
    drawn = [row for row in rows if any(name in record.curves for record in row.records for name in names)]
    if not drawn:
        return None
    figure, axes = drawing.figure(2, width=4.4, height=3.6, sharey=True)
    for axis, name, title in zip(axes, names, SIDES.values(), strict=True):
        for index, row in enumerate(drawn):
            scope, precision = _mean_curve([r.curves[name] for r in row.records if name in r.curves])
            axis.plot(scope, precision, label=f"{row.name}, {row.preset}", **drawing.line(index))
        axis.set_title(title)
        axis.set_xlabel("scope K (first items of the gallery)")
    axes[0].set_ylabel("precision (fraction)")
    drawing.legend(figure, axes[0])
    return drawing.png(figure)


def projection(record: Record) -> bytes | None:
    """The record's t-SNE coordinates by modality and by label (ACMR, Figure 4).

    Reads the coordinates beside the record: ``image`` and ``text`` (n, 2), ``image_labels`` and
    ``text_labels`` (n,); None when there is no such file. Left, circles are images and crosses texts: the
    better they mix, the smaller the gap between the modalities. Right, colour and marker are the label;
    without labels there is no right panel. Raises ``BadInput`` when the file is damaged.
    """
    path = record.files.projection
    if not path.is_file():
        return None
    points = _read_projection(path)
    labels = np.concatenate([points["image_labels"], points["text_labels"]])
    figure, axes = drawing.figure(2 if labels.size else 1, width=4.4, height=4.0)
    for axis in axes:
        axis.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", xticks=[], yticks=[])
    for name, colour, marker in (("image", drawing.PALETTE[1], "o"), ("text", drawing.PALETTE[0], "x")):
        x, y = points[name].T
        axes[0].scatter(x, y, s=11, c=colour, marker=marker, alpha=0.6, linewidths=0.8, label=name)
    axes[0].set_title("by modality")
    drawing.legend(figure, axes[0], below=False)
    if labels.size:
        _scatter_labels(axes[1], np.concatenate([points["image"], points["text"]]), labels)
    figure.suptitle(f"{record.job.method}, seed {record.job.seed}", fontsize=11)
    return drawing.png(figure)


def parameter_sweep(sweep: ParameterSweep) -> bytes:
    """Precision by label against the override that a sweep varies (ACMR, Figure 6).

    Where there is none, it is the table's primary metric. Error bars are 95 % t-intervals over seeds. One
    line per setting of the other overrides; where there is only one such setting, and the metric is the mean
    of both directions, one for each direction and one for the mean. The axis is logarithmic where the values
    span a factor of ten or more.
    """
    figure, axes = drawing.figure(1, width=5.2, height=3.6)
    axis = axes[0]
    metric = summary_of("label_precision")
    if not any(metric.key in row.cells for row in sweep.rows):
        metric = lookup(sweep.rows[0].primary)
    values = sweep.values
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    positions = {json.dumps(value): float(value) if numeric else index for index, value in enumerate(values)}
    for index, (label, key, rows) in enumerate(_sweep_lines(sweep, metric)):
        # Two labels of one setting are one point, their seeds pooled.
        pooled: dict[str, list[float]] = {}
        for row in rows:
            measured = [record.metrics[key] for record in row.records if key in record.metrics]
            pooled.setdefault(json.dumps(row.overrides[sweep.key]), []).extend(measured)
        points = []
        for value, measured in pooled.items():
            if measured:
                mean, half_width, _ = t_interval(measured)
                points.append((positions[value], mean, half_width))
        if points:
            x, y, half_widths = np.array(sorted(points)).T
            axis.errorbar(
                x, y, yerr=np.nan_to_num(half_widths), label=label, capsize=3, **drawing.line(index)
            )
    if numeric:
        _scale(axis, sorted(positions.values()))
    else:
        axis.set_xticks(range(len(values)), [str(value) for value in values])
    axis.set_xlabel(short(sweep.key))
    axis.set_ylabel(metric.axis_label)
    axis.set_title(f"{sweep.method}, {sweep.suite}, preset {sweep.preset}", fontsize=11)
    drawing.legend(figure, axis)
    return drawing.png(figure)


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


def _scale(axis: Axes, values: Sequence[float]) -> None:
    positive = [value for value in values if value > 0]
    if len(positive) < 2 or values[0] < 0 or positive[-1] < 10 * positive[0]:
        axis.set_xticks(values, [f"{value:g}" for value in values])
    elif values[0] == 0:
        axis.set_xscale("symlog", linthresh=positive[0])
    else:
        axis.set_xscale("log")


def _mean_curve(curves: Sequence[Mapping[str, Sequence[float]]]) -> tuple[list[float], list[float]]:
    """The mean precision at each scope that every curve has (seeds may differ in the gallery's length)."""
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
        raise BadInput(f"{error}; or delete it and run the bench again") from error
    shaped = all(points[name].shape[1:] == (2,) for name in names[:2])
    shaped &= all(points[name].ndim == 1 for name in names[2:])
    if not shaped or any(points[name].dtype.kind not in "fiu" for name in names):
        raise BadInput(
            f"{path}: 'image' and 'text' must be numbers of the shape (n, 2), and their labels (n,); "
            "delete it and run the bench again"
        )
    return points


def _scatter_labels(axis: Axes, points: np.ndarray, labels: np.ndarray) -> None:
    values, counts = np.unique(labels, return_counts=True)
    shown = values[np.argsort(-counts, kind="stable")][:SHOWN_LABELS]
    other = points[~np.isin(labels, shown)]
    if len(other):
        axis.scatter(other[:, 0], other[:, 1], s=6, c="0.75", marker=".", label="other")
    for index, value in enumerate(np.sort(shown)):
        x, y = points[labels == value].T
        colour = drawing.PALETTE[index % len(drawing.PALETTE)]
        marker = drawing.MARKERS[index // len(drawing.PALETTE) % len(drawing.MARKERS)]
        axis.scatter(x, y, s=13, c=colour, marker=marker, alpha=0.75, linewidths=0, label=str(value))
    axis.set_title("by label")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
