"""The papers' numbers in the notes of a leaderboard: those in the table, and those only listed here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from crossmodal_bench.evaluation.metric_table import formatted
from crossmodal_bench.jobs.published import Comparison
from crossmodal_bench.reporting.rows.leaderboard import Table

NotesOfRows = dict[tuple[str, str], list[str]]
"""The names of the rows that a note applies to, by heading and text."""


def published_notes(table: Table, metrics: Sequence[str]) -> NotesOfRows:
    """What the papers report for each row's method, and why it is not shown next to ours if it is not.

    Args:
        table: the table, whose rows have their published numbers.
        metrics: the metrics that the table shows.
    """
    rows: NotesOfRows = defaultdict(list)
    for row in table.own:
        published = {metric: row.cells[metric].published for metric in metrics if metric in row.cells}
        for note in [*_beside(published), *_apart(published)] or [("paper", "no published number")]:
            rows[note].append(row.name)
    return rows


def _beside(published: dict[str, Comparison]) -> list[tuple[str, str]]:
    """The numbers in the table, by source, or why there are none."""
    own: dict[tuple[str, str], list[str]] = defaultdict(list)
    others: dict[str, list[str]] = defaultdict(list)
    reasons: dict[str, None] = {}
    for metric, comparison in published.items():
        if comparison.value is not None:
            own[str(comparison.source), comparison.note].append(_number(metric, comparison.value))
        elif comparison.reason is not None and comparison.reason.startswith("not comparable"):
            told = any(comparison.reason.endswith(number.differs) for number in comparison.apart)
            reasons |= {} if told else {comparison.reason: None}
        for value, source in comparison.also:
            others[source].append(_number(metric, value))
    lines = [
        ("paper", f"{', '.join(numbers)} ({source}). {note}".rstrip(" ."))
        for (source, note), numbers in own.items()
    ]
    lines += [("also published", f"{', '.join(numbers)} ({source})") for source, numbers in others.items()]
    return lines or [("paper", reason) for reason in reasons]


def _apart(published: dict[str, Comparison]) -> list[tuple[str, str]]:
    """The numbers that are not in the table, by source, with what differs."""
    lines: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for metric, comparison in published.items():
        for number in comparison.apart:
            lines[number.heading, number.source, number.differs].append(_number(metric, number.value))
    return [
        (heading, f"{', '.join(numbers)} ({source}). {differs[:1].upper()}{differs[1:]}")
        for (heading, source, differs), numbers in lines.items()
    ]


def _number(metric: str, value: float) -> str:
    return f"{metric} {formatted(metric, value)}"
