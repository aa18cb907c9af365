from __future__ import annotations

import os
import signal

import pytest

from crossmodal_bench.core.signals import ASKING, Interrupted, StopRequest


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
