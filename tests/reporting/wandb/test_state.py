"""What the last lines of a bench say of W&B."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.wandb import state
from crossmodal_bench.reporting.wandb.state import RunState, conclusion, read_state, sending, write_state

Maker = Callable[..., Record]


def test_what_is_noted_is_read_and_what_is_damaged_is_nothing(tmp_path: Path) -> None:
    files = JobDirectory(tmp_path)
    assert read_state(files) is None
    write_state(files, RunState("offline", "2026-01-01", "no network"))
    assert read_state(files) == RunState("offline", "2026-01-01", "no network")
    files.wandb_state.write_text('{"name": "elsewhere"}')
    assert read_state(files) is None


def test_what_cannot_be_noted_is_no_reason_to_stop(tmp_path: Path) -> None:
    write_state(JobDirectory(tmp_path / "gone"), RunState("sent"))
    assert not (tmp_path / "gone").exists()


def test_only_one_process_sends_a_run(tmp_path: Path) -> None:
    files = JobDirectory(tmp_path)
    with sending(files) as first, sending(files) as second:
        assert first and not second
    with sending(files) as again:
        assert again
    files.wandb_lock.unlink()
    files.wandb_lock.symlink_to(tmp_path / "somebodys")
    with sending(files) as led_away:
        assert not led_away
    assert not (tmp_path / "somebodys").exists()


def test_the_end_of_a_bench_says_what_is_sent_and_what_is_to_be(make_record: Maker) -> None:
    records = [make_record(id=f"{number}" * 16, seed=number) for number in range(3)]
    runs = records[0].directory.parents[2]
    assert conclusion([], runs, time.time()) == []
    # Of runs that nobody has ever tried to send, too.
    (line,) = conclusion(records, runs, time.time())
    assert line == f"W&B: 3 runs not sent; crossmodal-bench sync --runs {runs} sends what is missing"
    for record in records[:2]:
        write_state(record.files, RunState("sent", record.finished_at))
    write_state(records[2].files, RunState("offline", records[2].finished_at, "W&B has no run (refused)"))
    lines = conclusion(records, runs, time.time())
    assert lines[0].startswith("W&B: 1 of 3 runs not sent;") and lines[1] == "  W&B has no run (refused)"
    write_state(records[2].files, RunState("sent", "before it ran again"))
    assert conclusion(records, runs, time.time())[0].startswith("W&B: 1 of 3 runs not sent;")
    write_state(records[2].files, RunState("sent", records[2].finished_at))
    assert conclusion(records, runs, time.time()) == ["W&B: 3 runs sent"]


def test_runs_on_their_way_are_waited_for_but_not_for_long(
    make_record: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record()
    runs = record.directory.parents[2]
    began = time.time()
    write_state(record.files, RunState("sending", record.finished_at))
    timer = threading.Timer(0.3, write_state, (record.files, RunState("sent", record.finished_at)))
    timer.start()
    assert conclusion([record], runs, began) == ["W&B: 1 run sent"]
    timer.join()
    monkeypatch.setattr(state, "PATIENCE", 0.2)
    write_state(record.files, RunState("live"))
    with sending(record.files) as held:
        assert held
        lines = conclusion([record], runs, began)
        assert lines[0].startswith("W&B: 1 run not sent;") and "1 run still being sent" in lines[1]
        # Whoever has pressed Ctrl-C does not wait at all.
        monkeypatch.setattr(state, "PATIENCE", 60.0)
        assert "still being sent" in conclusion([record], runs, began, patience=0)[1]
    # A follower that was killed holds nothing any more, and nobody waits for it.
    (line,) = conclusion([record], runs, began)
    assert line.startswith("W&B: 1 run not sent;")
    # What a bench that was killed has left is waited for by nobody.
    os.utime(record.files.wandb_state, (began - 3600, began - 3600))
    assert conclusion([record], runs, began)[0].startswith("W&B: 1 run not sent;")
