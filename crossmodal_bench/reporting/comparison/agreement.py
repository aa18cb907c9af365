"""Whether a rerun agrees with the original run: to the digit, within chance, or not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from crossmodal_bench.core.npy import load_npz, names_in_npz
from crossmodal_bench.evaluation.metric_table import formatted
from crossmodal_bench.evaluation.statistics.comparisons import holm
from crossmodal_bench.jobs.query_ids import SHARED, load_query_ids
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.comparison.run_comparison import MetricDifference, compare_rows

Verdict = Literal["equal to the digit", "agrees", "differs"]

LEVEL = 0.95
_NO_CHANCE = "more than chance explains"
_FEWEST = 3
"""Minimum number of seeds to estimate a spread."""
_IDS = ("image_ids", "caption_ids", SHARED)


@dataclass(frozen=True)
class Agreement:
    """The comparison of a rerun with the original.

    Attributes:
        verdict: ``equal to the digit``: every metric and every rank. ``agrees``: no metric differs by more
            than other images would explain (the 95 % interval of the paired difference, adjusted by Holm for
            all metrics), or else by more than other seeds did. ``differs``: one does. A metric that is no
            mean over queries is judged by the seeds alone, and without them not at all.
        lines: each metric that differs, and by how much, as text.
        environment: differences in sources, versions, threads and device, as text.
    """

    verdict: Verdict
    lines: tuple[str, ...]
    environment: tuple[str, ...]


def agreement(reference: Record, again: Record, seeds: Sequence[Record] = ()) -> Agreement:
    """Compare ``again`` with ``reference``.

    Args:
        reference: the original record.
        again: the new record.
        seeds: the records of all seeds of the reference's row, including itself; their spread counts if there
            are at least three.

    Raises:
        BadInput: the two used different data, or a file of single queries is missing or damaged.
    """
    differing = environment_differences(reference, again)
    if _equal(reference, again):
        return Agreement("equal to the digit", (), differing)
    lines = []
    agrees = True
    for comparison in compare_rows([reference], [again], examples=0):
        changed = [metric for metric in comparison.metrics if metric.first != metric.second]
        tested = [metric.difference.p for metric in changed if metric.difference is not None]
        adjusted = iter(holm(tested))
        protocol = comparison.protocol.rpartition("@")[0]
        siblings = [
            part for record in seeds for part in record.by_protocol() if part.job.protocol == protocol
        ]
        for metric in changed:
            p = None if metric.difference is None else next(adjusted)
            spread = _spread(metric.metric, siblings)
            judged = p is not None or spread > 0
            within = (p is not None and p >= 1 - LEVEL) or abs(metric.second - metric.first) <= spread
            agrees = agrees and (within or not judged)
            lines.append(_line(metric, p, spread, _NO_CHANCE if judged and not within else ""))
    return Agreement("agrees" if agrees else "differs", tuple(lines), differing)


def environment_differences(reference: Record, again: Record) -> tuple[str, ...]:
    """Differences in the environments of the two, as text."""
    names = dict.fromkeys([*reference.environment, *again.environment])
    lines = [
        f"{name} {reference.environment.get(name, 'unknown')} → {again.environment.get(name, 'unknown')}"
        for name in names
        if reference.environment.get(name) != again.environment.get(name)
    ]
    if reference.source_fingerprint != again.source_fingerprint:
        lines.append(_sources(reference, again))
    lines += [f"the reference resumed from a checkpoint although {clause}" for clause in reference.taken_up]
    return tuple(lines)


def _sources(reference: Record, again: Record) -> str:
    """How their sources differ, as far as both records state them."""
    if again.made_from is not None and again.made_from.digest == again.source_fingerprint:
        return f"sources or settings: {reference.stale_because(again.made_from)}"
    return f"sources or settings {reference.source_fingerprint[:12]} → {again.source_fingerprint[:12]}"


def _equal(reference: Record, again: Record) -> bool:
    """Whether all metrics and all stored results of single queries are equal, under every protocol."""
    parts, parts_again = reference.by_protocol(), again.by_protocol()
    if [part.protocol_label for part in parts] != [part.protocol_label for part in parts_again]:
        return False
    return all(
        ours.metrics == theirs.metrics and _same_ranks(ours, theirs)
        for ours, theirs in zip(parts, parts_again, strict=True)
    )


def _same_ranks(reference: Record, again: Record) -> bool:
    if load_query_ids(reference.files, reference.ranks) != load_query_ids(again.files, again.ranks):
        return False
    names, names_again = (
        sorted(set(names_in_npz(record.ranks)).difference(_IDS)) for record in (reference, again)
    )
    if names != names_again:
        return False
    arrays, arrays_again = load_npz(reference.ranks, names), load_npz(again.ranks, names)
    return all(
        np.array_equal(arrays[name], arrays_again[name], equal_nan=arrays[name].dtype.kind == "f")
        for name in names
    )


def _spread(metric: str, seeds: Sequence[Record]) -> float:
    """How far two seeds of the row may be apart in 95 % of cases; 0 if unknown."""
    values = [record.metrics[metric] for record in seeds if metric in record.metrics]
    if len(values) < _FEWEST:
        return 0.0
    quantile = float(special.stdtrit(len(values) - 1, (1 + LEVEL) / 2))
    return quantile * math.sqrt(2) * statistics.stdev(values)


def _line(metric: MetricDifference, p: float | None, spread: float, verdict: str) -> str:
    key = metric.metric
    change = metric.second - metric.first
    text = f"{key} {formatted(key, metric.first)} → {formatted(key, metric.second)} ({change:+.3g})"
    if metric.difference is not None:
        # The comparison is first minus second; here it is new minus old.
        low, high = -metric.difference.high, -metric.difference.low
        text += f", other images would move the difference from {low:+.3g} to {high:+.3g}, p = {p:.2g}"
    if spread:
        text += f", seeds are up to {spread:.3g} apart"
    elif p is None:
        verdict = "not judged, because it is no mean over queries and no spread of three seeds is known"
    return f"{text}: {verdict}" if verdict else text
