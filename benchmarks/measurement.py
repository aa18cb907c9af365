"""What a benchmark measures, how two ways are measured beside each other, and how the results are printed.

A benchmark module offers ``measure() -> list[Measurement]`` and prints it when it is run as a script. Sizes
are arguments of it; those in the module's ``TINY`` show within a moment that it works, and that values are
equal.
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
        name: of the work and its shape.
        plain_seconds: processor seconds of the plain way.
        seconds: processor seconds of our way.
        flops: floating-point operations that the work needs at least, where they can be counted.
        peak_bytes: the most memory that our way held, where it was measured.
        note: what else a reader must know, such as how far the two results differ.
    """

    name: str
    plain_seconds: float
    seconds: float
    flops: float | None = None
    peak_bytes: int | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times as fast as the plain way our way is."""
        return self.plain_seconds / self.seconds


def alternate(
    plain: Callable[[], Any], ours: Callable[[], Any], repeats: int = 5, *, warm_up: bool = True
) -> tuple[float, float]:
    """Median processor seconds of both ways.

    The two take turns, so that what else a shared machine does slows both alike. Processor seconds are this
    process's, of all its threads; work that other processes do is not in them.

    Args:
        plain: the plain way.
        ours: our way.
        repeats: measured calls of each.
        warm_up: whether each is called once before; not where that has been done, to compare their results.

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
    """A line for each measurement: both ways' milliseconds, their ratio, and what is known beside it."""
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
