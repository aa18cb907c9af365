"""The interval of a number in a leaderboard, from single queries or from its records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import special

from crossmodal_bench.evaluation.statistics import intervals

Target = Literal["method", "model", "seeds"]
"""What an interval covers.

``method``: this method on other images and with other seeds. ``model``: one seed; this model on other images.
``seeds``: this method with other seeds on the same images, if nothing is known about other images.
"""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval with its parts, in the metric's unit; all None if nothing is known.

    Attributes:
        low: lower end.
        high: upper end.
        target: what it covers.
        items_error: standard error due to the choice of test images.
        seeds_error: standard error due to the choice of seeds.
    """

    low: float | None = None
    high: float | None = None
    target: Target | None = None
    items_error: float | None = None
    seeds_error: float | None = None


def from_queries(measured: intervals.Interval) -> Interval:
    """The interval from single queries; one seed says nothing about the choice of seeds."""
    return Interval(
        low=measured.low,
        high=measured.high,
        target=measured.target,
        items_error=measured.items_error,
        seeds_error=measured.seeds_error if measured.n > 1 else None,
    )


def from_records(values: Sequence[float], bounds: Sequence[tuple[float, float]]) -> Interval:
    """The interval from the records, if results on single queries are unavailable.

    The variance over images is that of a typical run, the mean over the seeds that state an interval; it is
    not divided by their number, as the seeds answer the same queries. The variance over seeds is divided by
    it, and the degrees of freedom are Satterthwaite's (1946), infinite for the images.

    Args:
        values: the metric of each seed.
        bounds: (low, high) of each seed's own 95 % interval over test images.
    """
    n = len(values)
    items = None
    if bounds:
        normal = float(special.ndtri(0.975))
        # A root mean square that does not overflow for the largest numbers a record may have.
        items = math.hypot(*((high - low) / 2 / normal / math.sqrt(len(bounds)) for low, high in bounds))
    if n == 1:
        if items is None:
            return Interval()
        (low, high), *_ = bounds
        return Interval(low, high, "model", items)
    seeds = statistics.stdev(values) / math.sqrt(n)
    error = math.hypot(items or 0.0, seeds)
    freedom = (n - 1) * (error / seeds) ** 4 if seeds else math.inf
    half_width = float(special.stdtrit(freedom, 0.975)) * error
    mean = statistics.fmean(values)
    target: Target = "seeds" if items is None else "method"
    return Interval(mean - half_width, mean + half_width, target, items, seeds)
