"""What every form of a leaderboard shows: which metrics, how printed, what must stand beside them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.metric_table import formatted
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.ablations import effects
from crossmodal_bench.reporting.leaderboard import Cell, Row, Table, differences, features_text, labels_text
from crossmodal_bench.reporting.published_notes import published_notes

COST = {
    "parameters": "parameters",
    "train_samples_per_second": "training samples/s",
    "train_seconds": "training s",
    "evaluation_seconds": "evaluation s",
    "peak_memory_mb": "peak memory MB",
}
"""The costs that are columns, with their units."""

PRESET_NOTES = {
    "paper": "preset paper: the paper's own settings",
    "controlled": "preset controlled: one encoder, one set of features and one budget for every objective, "
    "not the paper's setting",
    "small": "preset small: small networks and frozen features, NOT the paper's setting",
    "smoke": "preset smoke: minutes of training to show that everything runs, NOT a result",
    "given": "preset given: a model from elsewhere, evaluated by its vectors or scores; how it was trained "
    "is its author's to say",
}


def notes(table: Table) -> list[str]:
    """What a reader must know: intervals, presets, data, features, labels, queries that do not count,
    selection, which weights training started from, the papers' numbers; and what each adversary adds.
    """
    presets = dict.fromkeys(row.preset for row in table.rows)
    lines = [_interval_note(), *(PRESET_NOTES.get(preset, f"preset {preset}") for preset in presets)]
    lines += _distinct(table, "data", _data_text)
    lines += _distinct(table, "features", features_text)
    lines += _distinct(table, "labels", labels_text)
    lines += _distinct(table, "no label", _dropped_text)
    lines += _distinct(table, "checkpoint", lambda record: record.selection.rule)
    started = defaultdict(list)
    for row in table.rows:
        parents = dict.fromkeys(name for record in row.records for name in record.parents)
        if parents:
            started[", ".join(parents)].append(row.name)
    lines += [
        f"start ({_names(names)}): from the trained weights of {parents}, whose training comes on top"
        for parents, names in started.items()
    ]
    lines += [
        f"{heading} ({_names(names)}): {text}"
        for (heading, text), names in published_notes(table, main_metrics(table)).items()
    ]
    return lines + [f"adversary: {effect}" for effect in effects(table)]


def warnings(table: Table) -> list[str]:
    """Where seeds of one row, or rows of the table, rest on different measurements."""
    lines = [
        f"{row.name} ({row.preset}) averages seeds of {text}"
        for row in table.rows
        for text in differences(row.records)
    ]
    across = differences(table.records, ("data fingerprints", "split hashes"))
    return lines + [f"the rows do not rest on the same data, {text}" for text in across]


def main_metrics(table: Table) -> list[str]:
    """The metrics that a table shows, as far as any row has them."""
    measured = set(table.metrics)
    return [metric for metric in metric_table.main_columns(table.primary) if metric in measured]


def interval(metric: str, cell: Cell) -> str:
    """± with the t-interval over seeds or, marked with *, the bootstrap interval of one seed; or nothing."""
    if not math.isnan(cell.half_width):
        return f"±{formatted(metric, cell.half_width)}"
    if cell.low is not None and cell.high is not None:
        return f"±{formatted(metric, (cell.high - cell.low) / 2)}*"
    return ""


def title(table: Table) -> str:
    """The table's heading: data set, protocol with its version, split and the metric that ranks it."""
    protocol = f"{table.protocol}@{table.version}{' (split unverified)' if table.unverified else ''}"
    return f"{table.dataset} · {protocol} · {table.evaluated_on} · ranked by {table.primary}"


def row_name(row: Row) -> str:
    """The row's name, with a star on the table's best."""
    return f"★ {row.name}" if row.best else row.name


def quantity(value: float | None, suffix: str = "") -> str:
    """A cost with three digits and k, M or G; a dash where it was not measured."""
    if value is None:
        return "–"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}{suffix}"
    return f"{value:.3g}{suffix}"


def _interval_note() -> str:
    """What ± means; which queries the bootstrap draws depends on the metric."""
    over_classes = [metric.name for metric in metric_table.ENTRIES if metric.queries == "classes"]
    return (
        "± is the 95 % t-interval of the mean over n seeds; with *, one seed only: half of the 95 % "
        "bootstrap interval over test images (clustered by image, or by identity where positives go by it; "
        f"{', '.join(over_classes)}: over classes), blind to other seeds; ★ is the table's best"
    )


def _distinct(table: Table, what: str, read: Callable[[Record], str]) -> list[str]:
    """One line for what all rows share, else one for each variant with the methods that have it.

    Nothing is said of records for which ``read`` gives no text.
    """
    variants = defaultdict(list)
    for row in table.rows:
        for record in row.records:
            variants[read(record)].append(row.name)
    if len(variants) == 1:
        return [f"{what}: {text}" for text in variants if text]
    return [f"{what} ({_names(names)}): {text}" for text, names in variants.items() if text]


def _dropped_text(record: Record) -> str:
    """How many queries no metric by label counts; nothing where all count."""
    counts = record.data.counts.get(record.evaluated_on, {})
    parts = [
        f"{record.dropped[side]} of {counts.get(items, 'all')} {kind} queries"
        for side, kind, items in (("i2t", "image", "images"), ("t2i", "text", "captions"))
        if record.dropped.get(side)
    ]
    return f"{' and '.join(parts)}, which do not count for mAP" if parts else ""


def _names(names: Iterable[str]) -> str:
    """Up to four names, and how many more there are."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - 4} more" if len(distinct) > 4 else ""
    return ", ".join(distinct[:4]) + more


def _data_text(record: Record) -> str:
    counts = (
        f"{split} {numbers.get('images')} images / {numbers.get('captions')} captions"
        for split, numbers in record.data.counts.items()
    )
    return f"{', '.join(counts)} (fingerprint {record.data.fingerprint[:12]}, split {record.data.split_hash})"
