"""One line that says where a bench is: rewritten on a terminal, printed now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

QUIET_SECONDS = 15.0


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


class StatusLine:
    """Shows the latest text."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self._shown = ""
        self._printed = time.monotonic()

    def show(self, text: str) -> None:
        """On a terminal: over the last one. Elsewhere: a line every 15 seconds, for logs."""
        if self.stream.isatty():
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"\r\x1b[K{text[:width]}")
            self._shown = text
        elif time.monotonic() - self._printed >= QUIET_SECONDS:
            self.stream.write(f"{text}\n")
            self._printed = time.monotonic()
        self.stream.flush()

    def clear(self) -> None:
        """Take it away."""
        if self._shown and self.stream.isatty():
            self.stream.write("\r\x1b[K")
            self.stream.flush()
        self._shown = ""
