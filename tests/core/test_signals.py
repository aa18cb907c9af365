from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable
from multiprocessing.util import Finalize
from pathlib import Path

import pytest

from crossmodal_bench.core.signals import (
    ASKING,
    Interrupted,
    StopRequest,
    finish_before_stopping,
    listen_deferred,
    listening,
    stop_if_asked,
)


@pytest.mark.parametrize("number", ASKING)
def test_a_signal_stops_on_the_spot(number: signal.Signals) -> None:
    request = StopRequest()
    request.listen()
    with pytest.raises(Interrupted):
        os.kill(os.getpid(), number)
    assert request.made


def test_a_deferred_one_is_answered_when_it_suits_and_once() -> None:
    request = StopRequest()
    request.listen()
    request.deferred = True
    os.kill(os.getpid(), signal.SIGTERM)
    assert request.made
    with pytest.raises(Interrupted):
        request.answer()
    request.deferred = False
    # A second one while the first is being answered.
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_librarys_guard_does_not_swallow_it() -> None:
    assert not issubclass(Interrupted, Exception)


class Loud:
    """An object whose finaliser meets a signal."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        # The handler runs between two instructions, not before the system call returns.
        for _ in range(100):
            pass


def signal_oneself(*rest: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Weak:
    """An object that can be referred to weakly."""


def by_a_finaliser() -> None:
    item = Loud()
    del item


def by_a_weak_references_callback() -> None:
    item = Weak()
    weakref.finalize(item, signal_oneself)
    del item


def by_a_finaliser_of_multiprocessing() -> None:
    item = Weak()
    Finalize(item, signal_oneself, exitpriority=0)
    del item


def by_an_import() -> None:
    # What a module raises here is what `import` raises; half a library is what must not stay behind.
    importlib.import_module("asks_to_stop")


SWALLOWED = [by_a_finaliser, by_a_weak_references_callback, by_a_finaliser_of_multiprocessing, by_an_import]


@pytest.mark.parametrize("meet", SWALLOWED)
def test_one_that_meets_a_frame_which_would_swallow_it_is_raised_a_moment_later(
    meet: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "asks_to_stop.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nwhole = list(range(1000))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    alarm = signal.getsignal(signal.SIGALRM)
    request = StopRequest()
    request.listen()
    passed = False
    with pytest.raises(Interrupted):
        meet()
        passed = True
        time.sleep(10)
    assert passed and request.made
    assert signal.getsignal(signal.SIGALRM) == alarm
    assert capfd.readouterr().err == ""
    if meet is by_an_import:
        assert len(sys.modules.pop("asks_to_stop").whole) == 1000


def test_one_that_a_library_has_swallowed_is_met_at_the_next_look() -> None:
    with listening():
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            stop_if_asked()


def test_a_block_is_finished_first() -> None:
    done = []
    with listening(), pytest.raises(Interrupted):
        with finish_before_stopping():
            with finish_before_stopping():
                os.kill(os.getpid(), signal.SIGINT)
                done.append("inner")
            done.append("outer")
        done.append("behind")
    assert done == ["inner", "outer"]


def test_cleaning_up_is_not_asked_again() -> None:
    done = []
    with listening(), pytest.raises(Interrupted):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            with finish_before_stopping():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("cleaned")
            done.append("up")
    assert done == ["cleaned", "up"]


def test_an_error_in_the_block_is_what_is_raised() -> None:
    with listening(), pytest.raises(KeyError), finish_before_stopping():
        os.kill(os.getpid(), signal.SIGTERM)
        raise KeyError


def test_who_listens_already_is_asked_and_handlers_are_put_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ASKING)}
    with listening() as outer:
        with listening() as inner:
            assert inner is outer
        assert outer.is_in_place()
    assert {number: signal.getsignal(number) for number in before} == before
    with listening() as later:
        assert later is not outer


def test_one_that_listens_no_more_is_not_taken_for_the_process_s() -> None:
    StopRequest().listen()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with listening() as request:
        assert request.is_in_place()


def test_where_nobody_listens_nothing_is_deferred_or_looked_at() -> None:
    with finish_before_stopping():
        stop_if_asked()


@pytest.mark.parametrize("asked", ["before the fork", "by its parent's handler", "not"])
def test_a_forked_process_knows_what_it_was_asked_before_it_listened(asked: str) -> None:
    with listening() as request:
        request.deferred = True
        if asked == "before the fork":
            os.kill(os.getpid(), signal.SIGTERM)
        child = os.fork()
        if child == 0:
            if asked == "by its parent's handler":
                os.kill(os.getpid(), signal.SIGTERM)
            own = listen_deferred()
            os._exit(own.made)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (asked != "not")
        request.made = False


def test_one_that_comes_when_nothing_is_left_to_break_off_raises_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    restore = signal.signal

    def late(number: signal.Signals, handler: Callable[..., None]) -> object:
        if signal.getsignal(signal.SIGTERM) == request._receive:
            os.kill(os.getpid(), signal.SIGTERM)
        return restore(number, handler)

    with listening() as request:
        monkeypatch.setattr(signal, "signal", late)
    monkeypatch.undo()
    assert request.made and not request.raised
    assert not request.is_in_place()
