from __future__ import annotations

import io

import pytest

from crossmodal_bench.bench import progress
from crossmodal_bench.bench.progress import StatusLine, clock


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
