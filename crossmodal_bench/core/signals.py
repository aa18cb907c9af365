"""Signals that ask a process to stop: it saves its state, and exits with "run me again".

A handler can raise, which interrupts whatever the process is doing; but a signal may arrive in a finaliser or
in a weak reference's callback, and Python prints and drops exceptions raised there. So a request also sets a
flag, which loops check, and it raises only in frames that let an exception propagate.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 75
"""Exit status of an interrupted process that resumes when run again (EX_TEMPFAIL)."""

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Termination, and the signals that clusters send shortly before they reclaim a machine."""

RETRY = 0.02
"""Seconds before retrying a request that arrived in a frame in which it must not raise."""

_FINALISERS = ("/weakref.py", "/_weakrefset.py", "/multiprocessing/util.py")
"""Modules of the standard library with functions called where nothing could catch their exceptions."""
_IMPORTING = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
"""Interrupting an import can have any effect, from a SystemError to a crash."""


class Interrupted(BaseException):
    """The process was asked to stop, and everything worth keeping is on disk.

    Not an Exception: code that guards against a library's failures must not swallow it.
    """


class StopRequest:
    """Whether this process has been asked to stop.

    If nothing would be lost, the signal raises ``Interrupted`` at once, or a moment later if it arrives in a
    frame that would swallow it. While ``deferred``, it is only noted: something must be saved first.

    Args:
        signals: the signals that request a stop.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = ASKING) -> None:
        self.signals = signals
        self.made = False
        self.deferred = False
        self.raised = False
        self._previous_alarm: signal._HANDLER = None

    def listen(self) -> None:
        """Handle the signals, replacing any previous handlers; in a process's main thread only."""
        global _listening
        if threading.current_thread() is threading.main_thread():
            _listening = self
            for number in self.signals:
                signal.signal(number, self._receive)

    def is_in_place(self, number: signal.Signals = signal.SIGTERM) -> bool:
        """Whether this is still the handler of the signal."""
        return signal.getsignal(number) == self._receive

    def answer(self) -> None:
        """Stop, once: a second signal must not interrupt the cleanup that the first one started."""
        self.made = self.raised = True
        raise Interrupted

    def check(self) -> None:
        """Stop if asked to, even if ``Interrupted`` was raised before and got lost."""
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
        # A second signal may arrive before the alarm of the first.
        if previous != self._asked_again:
            self._previous_alarm = previous
        signal.setitimer(signal.ITIMER_REAL, RETRY)

    def _asked_again(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, self._previous_alarm)
        self._receive(number, frame)


_listening: StopRequest | None = None


@contextmanager
def listening(signals: tuple[signal.Signals, ...] = (signal.SIGINT, *ASKING)) -> Iterator[StopRequest]:
    """Handle stop signals inside the block, and restore the previous handlers after it.

    If a caller is already listening, its request is returned, and nothing changes.
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
        # From here on, a signal finds nothing left to interrupt, and nothing that would catch it.
        request.deferred = True
        _listening = None
        if threading.current_thread() is threading.main_thread():
            for number, handler in previous.items():
                # A handler that replaced ours in the meantime, or one that ignores signals, is deliberate.
                if request.is_in_place(number):
                    signal.signal(number, handler)


def stop_if_asked() -> None:
    """For loops that wait or run for a long time: stop if this process was asked to.

    Raises:
        Interrupted: it was.
    """
    if _listening is not None:
        _listening.check()


@contextmanager
def finish_before_stopping() -> Iterator[None]:
    """A block that a stop request does not interrupt; one that arrives meanwhile takes effect after it.

    Raises:
        Interrupted: after the block.
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
    """The request of a process that is starting: it listens, deferred until the caller is ready.

    In a forked process, the request is already made if the parent, or this process since, was asked to stop.
    """
    inherited = _listening
    request = StopRequest()
    request.deferred = True
    request.listen()
    request.made = request.made or (inherited is not None and inherited.made)
    return request


def _is_unsafe(frame: FrameType | None) -> bool:
    """Whether an exception raised in this frame would be swallowed, or leave something broken."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or code.co_filename.endswith((*_FINALISERS, *_IMPORTING)):
            return True
        frame = frame.f_back
    return False
