"""What a benchmark measures, how two ways are compared, and how the results are printed.

A benchmark module defines ``measure() -> list[Measurement]``, and prints the result when run as a script. Its
arguments are sizes; with those in the module's ``TINY`` it only checks that everything runs and agrees.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One piece of work, done the plain way and done our way, with equal results.

    Attributes:
        name: the work and its shape.
        plain_seconds: CPU seconds of the plain way.
        seconds: CPU seconds of our way.
        flops: minimum floating-point operations of the work, if they can be counted.
        peak_bytes: peak memory of our way, if measured.
        note: anything else a reader should know, e.g. how far the two results differ.
    """

    name: str
    plain_seconds: float
    seconds: float
    flops: float | None = None
    peak_bytes: int | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """Speed-up of our way over the plain way."""
        return self.plain_seconds / self.seconds


def alternate(
    plain: Callable[[], Any], ours: Callable[[], Any], repeats: int = 5, *, warm_up: bool = True
) -> tuple[float, float]:
    """Median CPU seconds of both ways.

    The two alternate, so that other load on a shared machine slows both alike. CPU seconds are those of this
    process with all its threads; work of other processes is not included.

    Args:
        plain: the plain way.
        ours: our way.
        repeats: measured calls of each.
        warm_up: whether to call each once before; not needed if they were called to compare results.

    Returns:
        The plain way's seconds, and ours.
    """
    if warm_up:
        plain()
        ours()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for way, taken in zip((plain, ours), seconds, strict=True):
            start = time.process_time()
            way()
            taken.append(time.process_time() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def print_table(measurements: Sequence[Measurement]) -> None:
    """A line per measurement: milliseconds of both ways, their ratio, and what else is known."""
    width = max((len(measurement.name) for measurement in measurements), default=0)
    print(f"{'':{width}}  {'plain ms':>10}  {'ours ms':>10}  {'ratio':>7}  {'GFLOP/s':>8}  {'MiB':>7}")
    for measurement in measurements:
        rate = "" if measurement.flops is None else f"{measurement.flops / measurement.seconds / 1e9:.1f}"
        memory = "" if measurement.peak_bytes is None else f"{measurement.peak_bytes / 2**20:.0f}"
        line = (
            f"{measurement.name:{width}}  {1000 * measurement.plain_seconds:10.2f}  "
            f"{1000 * measurement.seconds:10.2f}  {measurement.ratio:7.2f}  {rate:>8}  {memory:>7}"
        )
        print(f"{line}  {measurement.note}".rstrip())
