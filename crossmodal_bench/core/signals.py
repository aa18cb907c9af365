"""Signals that ask a process to stop: it saves what it has, and ends with "run me again"."""

from __future__ import annotations

import signal
import threading
from types import FrameType

AGAIN = 75
"""Exit status of what was interrupted and goes on when it is run again (EX_TEMPFAIL)."""

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""A termination, and what clusters send some time before they take a machine away."""


class Interrupted(BaseException):
    """A process was asked to stop, and everything worth keeping is on the disk.

    Not an Exception: who guards against a library's failure must not swallow it.
    """


class StopRequest:
    """Whether this process has been asked to stop.

    Where nothing would be lost, the signal raises ``Interrupted`` on the spot. While ``deferred``, it is only
    noted, for whoever must save something first.

    Args:
        signals: that ask for it.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = ASKING) -> None:
        self.signals = signals
        self.made = False
        self.deferred = False
        self._raised = False

    def listen(self) -> None:
        """Handle the signals, in place of whoever did so far; in a process's main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                signal.signal(number, self._receive)

    def answer(self) -> None:
        """Stop, once: a second signal must not break off what the first one has put in order."""
        self.made = self._raised = True
        raise Interrupted

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.made = True
        if not self.deferred and not self._raised:
            self.answer()
