"""The status line of a bench: rewritten in place on a terminal, printed now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from crossmodal_bench.core.errors import printable

QUIET_SECONDS = 15.0


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


def doing(progress: Mapping[str, Any]) -> str:
    """What a job is doing, from its progress file."""
    text = str(progress.get("phase", "starting"))
    if "epoch" in progress:
        return f"{text}, epoch {progress['epoch'] + 1}/{progress['epochs']}"
    return f"{text} {progress['done']}/{progress['total']}" if "done" in progress else text


def seconds_left(progress: Mapping[str, Any], elapsed: float) -> float | None:
    """Seconds left in a job's current phase, ``elapsed`` seconds after its start; None if unknown."""
    if "epoch" in progress:
        epochs = progress["epochs"]
        fraction = (progress["epoch"] + progress["batch"] / max(1, progress["batches"])) / max(1, epochs)
        known = float(progress["seconds_per_epoch"] * epochs * (1 - fraction))
        return known or elapsed / max(fraction, 1e-3) - elapsed
    return float(progress["seconds_left"]) if "done" in progress else None


class StatusLine:
    """Shows the latest text."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self._shown = ""
        self._printed = time.monotonic()

    def show(self, text: str) -> None:
        """On a terminal, replace the previous text; elsewhere, print a line every 15 seconds for logs."""
        text = printable(text)
        if self.stream.isatty():
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"\r\x1b[K{text[:width]}")
            self._shown = text
        elif time.monotonic() - self._printed >= QUIET_SECONDS:
            self.stream.write(f"{text}\n")
            self._printed = time.monotonic()
        self.stream.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self._shown and self.stream.isatty():
            self.stream.write("\r\x1b[K")
            self.stream.flush()
        self._shown = ""
