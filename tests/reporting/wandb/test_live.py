"""What is logged while a job runs, when it is stopped, and when it has finished."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.wandb import live
from crossmodal_bench.reporting.wandb.live import (
    Assignment,
    Follower,
    is_followed,
    let_finish,
    start_following,
    switch,
)
from crossmodal_bench.reporting.wandb.state import RunState, read_state, sending, write_state

Maker = Callable[..., Record]
Step = Callable[[], None]
pytestmark = pytest.mark.usefixtures("no_account")


class Run:
    """A run as W&B's, which notes what it is given."""

    def __init__(self, words: dict[str, Any], step: int = 0) -> None:
        self.words = words
        self.step = step
        self.logged: dict[int, dict[str, Any]] = {}
        self.ended: int | None = None
        self.preempted = False
        self.completed_from: int | None = None

    def log(self, entry: dict[str, Any], step: int, commit: bool) -> None:
        assert commit and step not in self.logged
        self.logged[step] = entry

    def mark_preempting(self) -> None:
        self.preempted = True

    def finish(self, exit_code: int = 0) -> None:
        self.ended = exit_code


class Bench:
    """A follower of a job that does what a test says, one step between each two looks."""

    def __init__(self, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
        self.record = record
        self.files = record.files
        self.content = self.files.record.read_bytes()
        self.files.record.unlink()
        self.runs: list[Run] = []
        self.refuses: list[str] = []
        self.written: list[str] = []
        self.server_step = 0
        self.steps: Iterator[Step] = iter(())
        monkeypatch.setattr(live, "begin", self.begin)
        monkeypatch.setattr(live, "complete", self.complete)
        monkeypatch.setattr(live, "log_record", self.log_record)
        monkeypatch.setattr(live, "keep_for_later", lambda record, why: self.written.append(why))
        monkeypatch.setattr(live, "given_up_after", lambda seconds: contextlib.nullcontext())
        monkeypatch.setattr(live, "teardown", lambda: None)
        monkeypatch.setattr(signal, "alarm", lambda seconds: 0)
        monkeypatch.setattr(live, "time", types.SimpleNamespace(sleep=lambda seconds: None))
        monkeypatch.setattr(os, "getppid", self.parent)

    def parent(self) -> int:
        step = next(self.steps, None)
        if step is None:
            return 1
        step()
        return 7

    def begin(self, job: Any, directory: Path, mode: str, config: dict[str, Any], **words: Any) -> Run:
        if mode in self.refuses:
            raise RuntimeError("refused")
        step = self.server_step if words["resume"] else 0
        self.runs.append(Run({"mode": mode, "config": config, **words}, step))
        return self.runs[-1]

    def complete(self, run: Run, record: Record, first_step: int) -> None:
        run.completed_from = first_step

    def log_record(self, record: Record, directory: Path, mode: str) -> None:
        self.written.append(mode)

    def follow(
        self,
        *steps: Step,
        mode: Literal["online", "offline"] = "online",
        earlier: str = "",
        resumes: bool = False,
    ) -> int:
        self.steps = iter(steps)
        assignment = Assignment(job=self.record.job, mode=mode, worker=7, earlier=earlier, resumes=resumes)
        return Follower(assignment, self.files).follow()

    def epochs(self, count: int, restored: int = 0) -> Step:
        return lambda: self.files.write_epochs(
            [{"epoch": n, "train/loss": 1.0 / (n + 1)} for n in range(count)], restored
        )

    def finished(self) -> None:
        self.files.record.write_bytes(self.content)


@pytest.fixture
def bench(make_record: Maker, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(make_record(), monkeypatch)


def idle() -> None:
    """A moment in which nothing happens."""


def test_epochs_are_logged_as_they_come_and_the_record_finishes_the_run(bench: Bench) -> None:
    bench.files.config.write_text("model: {init_args: {dim: 8}}")
    assert bench.follow(idle, bench.epochs(0), bench.epochs(1), idle, bench.epochs(3), bench.finished) == 0
    (run,) = bench.runs
    assert run.words["resume"] is None and run.words["watched"] == 7
    assert run.words["config"]["settings"] == {"model": {"init_args": {"dim": 8}}}
    assert list(run.logged) == [0, 1, 2] and run.logged[2]["train/loss"] == pytest.approx(1 / 3)
    assert (run.completed_from, run.ended, run.preempted) == (3, 0, False)
    assert read_state(bench.files) == RunState("sent", bench.record.finished_at, mode="online")


def test_a_stopped_job_goes_on_in_the_same_run(bench: Bench) -> None:
    assert bench.follow(bench.epochs(0), bench.epochs(2)) == 75
    (stopped,) = bench.runs
    assert stopped.preempted and stopped.ended == 75
    # By this the next attempt knows that the server has the beginning of this very training.
    assert read_state(bench.files) == RunState("live", mode="online")
    bench.server_step = 2
    # The checkpoint is an epoch behind what was logged: that is trained again, and comes out the same.
    assert bench.follow(bench.epochs(2, 1), bench.epochs(4, 1), bench.finished, resumes=True) == 0
    run = bench.runs[-1]
    assert run.words["resume"] == "allow" and list(run.logged) == [2, 3]
    assert run.completed_from == 4 and run.ended == 0


def test_a_job_that_starts_anew_replaces_its_run_however_late_it_is_looked_at(bench: Bench) -> None:
    bench.server_step = 40
    assert bench.follow(bench.epochs(3), bench.finished, resumes=True) == 0
    assert bench.runs[0].words["resume"] is None and list(bench.runs[0].logged) == [0, 1, 2]


def test_a_training_that_the_server_does_not_have_replaces_the_run_that_it_has(bench: Bench) -> None:
    bench.server_step = 41
    assert bench.follow(bench.epochs(4, 3), bench.epochs(5, 3), bench.finished) == 0
    assert bench.runs[0].words["resume"] is None and list(bench.runs[0].logged) == [0, 1, 2, 3, 4]


def test_a_failed_job_has_a_failed_run(bench: Bench) -> None:
    assert bench.follow(bench.epochs(1), lambda: bench.files.write_error("error", "no memory")) == 1
    assert bench.runs[0].ended == 1 and not bench.runs[0].preempted


def test_where_the_server_refuses_the_curves_are_kept_here(bench: Bench) -> None:
    bench.refuses = ["online"]
    assert bench.follow(bench.epochs(1), bench.epochs(2), bench.finished) == 1
    (run,) = bench.runs
    assert run.words["mode"] == "offline" and run.words["resume"] is None
    assert list(run.logged) == [0, 1] and run.ended == 0
    state = read_state(bench.files)
    assert state is not None and state.name == "offline" and "RuntimeError: refused" in state.why


def test_where_nothing_can_be_begun_the_record_is_kept_for_later(bench: Bench) -> None:
    bench.refuses = ["online", "offline"]
    assert bench.follow(bench.epochs(1), bench.finished) == 1
    assert bench.runs == [] and len(bench.written) == 1 and "refused" in bench.written[0]


def test_a_method_without_epochs_is_written_from_its_record(bench: Bench) -> None:
    assert bench.follow(idle, bench.finished) == 0
    assert bench.written == ["online"] and bench.runs == []
    assert read_state(bench.files) == RunState("sent", bench.record.finished_at, mode="online")


def test_the_record_of_an_earlier_run_finishes_nothing(bench: Bench) -> None:
    bench.finished()
    assert bench.follow(bench.epochs(1), earlier=bench.record.finished_at) == 75
    assert bench.runs[0].completed_from is None


def test_a_job_that_has_finished_before_it_is_looked_at_has_a_run(bench: Bench) -> None:
    bench.finished()
    assert bench.follow() == 0
    assert bench.written == ["online"]
    assert read_state(bench.files) == RunState("sent", bench.record.finished_at, mode="online")


class Started:
    """Processes that only keep what they inherit, and print what they are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        monkeypatch.setattr(live, "start_beside", self.start)

    def start(
        self, files: JobDirectory, module: str, words: list[str], inherits: tuple[int, ...]
    ) -> subprocess.Popen[bytes]:
        assert (module, words) == (live.MODULE, [str(files.path.resolve())])
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=inherits)
        self.processes.append(process)
        return process

    def assignments(self) -> list[Assignment]:
        lines = []
        for process in self.processes:
            assert process.stdout is not None
            lines.append(process.stdout.readline())
        return [Assignment.model_validate_json(line) for line in lines]

    def end(self) -> None:
        let_finish(60)
        for process in self.processes:
            with process:
                process.kill()


def test_only_what_this_very_training_has_begun_on_the_server_is_gone_on_with(
    make_record: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Started(monkeypatch)
    record = make_record()
    earlier = [
        RunState("live", mode="online"),
        RunState("live", mode="offline"),
        RunState("sent", "earlier", mode="online"),
    ]
    for state in earlier:
        monkeypatch.setenv(live.SWITCH, "online")
        write_state(record.files, state)
        assert start_following(record.job, record.files)
        let_finish(60)
    # An attempt that nobody follows leaves what the server has behind.
    write_state(record.files, earlier[0])
    switch("off")
    assert not start_following(record.job, record.files)
    switch("online")
    assert start_following(record.job, record.files)
    assert [assignment.resumes for assignment in started.assignments()] == [True, False, False, False]
    started.end()


def test_a_process_that_must_not_end_first_lets_its_follower_finish(
    make_record: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = (
        "import pathlib, select, sys, time; sys.stdin.readline(); select.select([sys.stdin], [], []); "
        f"time.sleep(0.2); pathlib.Path({str(tmp_path / 'finished')!r}).touch()"
    )

    def start(*_: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-S", "-c", script], stdin=subprocess.PIPE)

    monkeypatch.setattr(live, "start_beside", start)
    monkeypatch.setenv(live.SWITCH, "online")
    record = make_record()
    assert start_following(record.job, record.files)
    let_finish(60)
    assert (tmp_path / "finished").exists()


def test_jobs_are_followed_only_where_that_is_wanted(
    make_record: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Started(monkeypatch)
    monkeypatch.setenv(live.SWITCH, "online")
    record = make_record()
    switch("off")
    assert not start_following(record.job, record.files) and not is_followed(record)
    switch("offline")
    assert start_following(record.job, record.files)
    (assignment,) = started.assignments()
    assert (assignment.mode, assignment.worker) == ("offline", os.getpid())
    assert assignment.earlier == record.finished_at and not assignment.resumes
    # It holds the run from before it has begun; once it is gone, its note is believed no more.
    assert is_followed(record)
    started.end()
    assert not is_followed(record)
    with sending(record.files) as held:
        assert held and is_followed(record)
    write_state(record.files, RunState("offline", record.finished_at))
    assert is_followed(record)
    write_state(record.files, RunState("sent", "of an earlier record"))
    assert not is_followed(record)


def test_a_follower_that_cannot_start_stops_nothing(
    make_record: Maker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(live, "start_beside", refused)
    monkeypatch.setenv(live.SWITCH, "offline")
    record = make_record()
    assert not start_following(record.job, record.files) and not is_followed(record)
    assert "no more processes" in capsys.readouterr().err
