"""Runs that are sent beside a bench: few at once, and not for ever."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from offline_runs import read_run

from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.wandb import run, sender
from crossmodal_bench.reporting.wandb.run import OutOfTime
from crossmodal_bench.reporting.wandb.sender import given_up_after, one_of_few, send
from crossmodal_bench.reporting.wandb.state import read_state

Maker = Callable[..., Record]
pytestmark = pytest.mark.usefixtures("no_account")


def test_few_send_at_once(make_record: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "TIME_TO_WAIT", 0.0)
    records = [make_record(id=f"{number}" * 16, seed=number) for number in range(3)]
    with one_of_few(records[0].files):
        with one_of_few(records[1].files), pytest.raises(OutOfTime, match="2 other runs"):
            one_of_few(records[2].files).__enter__()
        with one_of_few(records[2].files):
            pass


def test_where_nothing_can_be_locked_everybody_sends(make_record: Maker) -> None:
    record = make_record()
    for number in range(sender.AT_ONCE):
        (record.directory.parents[2] / f".wandb-sender-{number}.lock").mkdir()
    with one_of_few(record.files):
        pass


def test_who_waits_for_a_server_is_interrupted_and_nobody_behind_it() -> None:
    with pytest.raises(OutOfTime, match="did not accept the run"), given_up_after(0.05):
        time.sleep(30)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("why", ["hangs", "others"])
def test_a_run_that_is_not_taken_in_time_is_kept(
    make_record: Maker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    record = make_record()
    modes: list[str] = []

    def write(record: Record, directory: Path, mode: str) -> None:
        modes.append(mode)
        if mode == "online":
            time.sleep(30)
        (directory / "wandb" / f"offline-run-1-{record.job.id}").mkdir(parents=True)

    monkeypatch.setattr(run, "_write_run", write)
    monkeypatch.setattr(sender, "TIMEOUT", 0.05)
    if why == "others":
        monkeypatch.setattr(sender, "TIME_TO_WAIT", 0.0)
        monkeypatch.setattr(sender, "AT_ONCE", 0)
    assert send(record.directory) == 1
    assert modes == (["online", "offline"] if why == "hangs" else ["offline"])
    state = read_state(record.files)
    assert state is not None and state.name == "offline" and state.is_complete_locally(record)
    assert "crossmodal-bench sync" in capsys.readouterr().out
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.slow
def test_a_server_that_never_answers_is_given_up_and_the_run_is_kept_whole(make_record: Maker) -> None:
    record = make_record()
    script = (
        "import sys; from pathlib import Path; from crossmodal_bench.reporting.wandb import run, sender; "
        "run.INIT_TIMEOUT = 300; sender.TIMEOUT = 5; sys.exit(sender.send(Path(sys.argv[1])))"
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        answer = subprocess.run(
            [sys.executable, "-c", script, str(record.directory)],
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
            env={**os.environ, "WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40},
        )
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "did not accept the run within 5 s" in answer.stdout, answer.stdout + answer.stderr
    state = read_state(record.files)
    assert state is not None and state.is_complete_locally(record), answer.stdout + answer.stderr
    (log,) = record.files.offline_wandb_runs()
    held = read_run(log)
    assert held.exit_code == 0 and held.tables["leaderboard"]
