"""Signals that ask a process to stop: it saves what it has, and ends with "run me again".

A handler can raise, which breaks off whatever the process is doing; but a signal may meet a finaliser or the
callback of a weak reference, and what is raised there Python prints and drops. So a request is also a flag,
which loops look at, and it raises only in frames that let an exception through.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 75
"""Exit status of what was interrupted and goes on when it is run again (EX_TEMPFAIL)."""

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""A termination, and what clusters send some time before they take a machine away."""

RETRY = 0.02
"""Seconds until a request that met a frame in which it must not raise is made again."""

_FINALISERS = ("/weakref.py", "/_weakrefset.py", "/multiprocessing/util.py")
"""Modules of the standard library whose functions are called where nobody could catch what they raise."""
_IMPORTING = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
"""A library that is imported halfway can do anything, from raising SystemError to crashing."""


class Interrupted(BaseException):
    """A process was asked to stop, and everything worth keeping is on the disk.

    Not an Exception: who guards against a library's failure must not swallow it.
    """


class StopRequest:
    """Whether this process has been asked to stop.

    Where nothing would be lost, the signal raises ``Interrupted`` at once, or a moment later if it meets a
    frame that would swallow it. While ``deferred``, it is only noted, for whoever must save something first.

    Args:
        signals: that ask for it.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = ASKING) -> None:
        self.signals = signals
        self.made = False
        self.deferred = False
        self.raised = False
        self._previous_alarm: signal._HANDLER = None

    def listen(self) -> None:
        """Handle the signals, in place of whoever did so far; in a process's main thread only."""
        global _listening
        if threading.current_thread() is threading.main_thread():
            _listening = self
            for number in self.signals:
                signal.signal(number, self._receive)

    def is_in_place(self, number: signal.Signals = signal.SIGTERM) -> bool:
        """Whether it is still the one that a signal reaches."""
        return signal.getsignal(number) == self._receive

    def answer(self) -> None:
        """Stop, once: a second signal must not break off what the first one has put in order."""
        self.made = self.raised = True
        raise Interrupted

    def check(self) -> None:
        """Stop if asked to, also where that was raised before and got lost."""
        if self.made and not self.deferred:
            self.answer()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.made = True
        if self.deferred or self.raised:
            return
        if _is_unsafe(frame):
            self._ask_again()
            return
        self.answer()

    def _ask_again(self) -> None:
        previous = signal.signal(signal.SIGALRM, self._asked_again)
        # A second signal may come before the first one's alarm.
        if previous != self._asked_again:
            self._previous_alarm = previous
        signal.setitimer(signal.ITIMER_REAL, RETRY)

    def _asked_again(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, self._previous_alarm)
        self._receive(number, frame)


_listening: StopRequest | None = None


@contextmanager
def listening(signals: tuple[signal.Signals, ...] = (signal.SIGINT, *ASKING)) -> Iterator[StopRequest]:
    """Handle signals that ask to stop inside the block; as before behind it.

    Where a caller listens already, its request is given, and nothing changes.
    """
    global _listening
    if _listening is not None and _listening.is_in_place():
        yield _listening
        return
    request = StopRequest(signals)
    previous = {number: signal.getsignal(number) for number in signals}
    request.listen()
    try:
        yield request
    finally:
        # What comes from now on finds nothing left to break off, and nobody who would catch it.
        request.deferred = True
        _listening = None
        if threading.current_thread() is threading.main_thread():
            for number, handler in previous.items():
                # Whoever has its own handler in place by now, or ignores what comes, means it.
                if request.is_in_place(number):
                    signal.signal(number, handler)


def stop_if_asked() -> None:
    """For loops that wait or run for long: stop if this process was asked to.

    Raises:
        Interrupted: it was.
    """
    if _listening is not None:
        _listening.check()


@contextmanager
def finish_first() -> Iterator[None]:
    """A block that no request to stop breaks off; one that came meanwhile is answered behind it.

    Raises:
        Interrupted: behind the block.
    """
    request = _listening
    if request is None or request.deferred:
        yield
        return
    request.deferred = True
    try:
        yield
    finally:
        request.deferred = False
    if request.made and not request.raised:
        request.answer()


def listen_deferred() -> StopRequest:
    """The request of a process that only starts: it listens, and is deferred until the caller is ready.

    In a forked process it is made already where the parent, or this process since, was asked to stop.
    """
    inherited = _listening
    request = StopRequest()
    request.deferred = True
    request.listen()
    request.made = request.made or (inherited is not None and inherited.made)
    return request


def _is_unsafe(frame: FrameType | None) -> bool:
    """Whether an exception that is raised in this frame would be swallowed, or leave something broken."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or code.co_filename.endswith((*_FINALISERS, *_IMPORTING)):
            return True
        frame = frame.f_back
    return False
