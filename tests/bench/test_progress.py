from __future__ import annotations

import io

import pytest

from crossmodal_bench.bench import progress
from crossmodal_bench.bench.progress import StatusLine, clock, doing, seconds_left


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0:00"), (0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (3661, "1:01:01")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_terminal_line_is_written_over_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "11")
    stream = Terminal()
    line = StatusLine(stream)
    line.show("a line that is too wide")
    line.show("short")
    line.clear()
    line.clear()
    assert stream.getvalue() == "\r\x1b[Ka line tha\r\x1b[Kshort\r\x1b[K"


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    stream = io.StringIO()
    line = StatusLine(stream)
    for second in range(40):
        now = 100.0 + second
        line.show(f"second {second}")
    line.clear()
    assert stream.getvalue() == "second 15\nsecond 30\n"


def test_what_a_job_does_and_how_long_it_will() -> None:
    training = {
        "phase": "training",
        "epoch": 4,
        "epochs": 10,
        "batch": 1,
        "batches": 2,
        "seconds_per_epoch": 2,
    }
    assert doing({}) == "starting" and doing({"phase": "testing"}) == "testing"
    assert doing(training) == "training, epoch 5/10"
    assert seconds_left(training, 100) == pytest.approx(2 * 10 * 0.55)
    # In the first epoch nothing else is known than how long the job has taken so far.
    assert seconds_left({**training, "seconds_per_epoch": 0.0}, 9) == pytest.approx(9 / 0.45 - 9)
    extraction = {"phase": "extracting features", "done": 3, "total": 8, "seconds_left": 5}
    assert doing(extraction) == "extracting features 3/8" and seconds_left(extraction, 1) == 5
    assert seconds_left({"phase": "testing"}, 1) is None


def test_what_a_terminal_would_obey_is_shown_as_its_escape() -> None:
    stream = Terminal()
    StatusLine(stream).show(doing({"phase": "training\x1b]0;owned\x07"}))
    assert stream.getvalue().removeprefix("\r\x1b[K") == r"training\x1b]0;owned\x07"
