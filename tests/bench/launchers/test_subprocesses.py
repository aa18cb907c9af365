from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info

from crossmodal_bench.bench.launchers import subprocesses as processes
from crossmodal_bench.bench.launchers.subprocesses import (
    TAKEN,
    Worker,
    follow,
    guarded,
)
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.signals import AGAIN, Interrupted, StopRequest
from crossmodal_bench.jobs.directory import read_json
from crossmodal_bench.jobs.locks import is_locked, locked
from crossmodal_bench.jobs.planned import PlannedJob, from_json, to_json
from crossmodal_bench.jobs.query_ids import load_query_ids
from crossmodal_bench.jobs.record import read_record
from crossmodal_bench.jobs.state import State
from crossmodal_bench.reporting.page.gallery import load_gallery
from crossmodal_bench.reporting.page.queries import queries_context
from crossmodal_bench.reporting.rows.leaderboard import leaderboard, tables
from crossmodal_bench.training import devices
from crossmodal_bench.training.devices import can_fork


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> PlannedJob:
    runs = tmp_path_factory.mktemp("processes") / "runs"
    (planned,) = make_plan(BenchOptions("synthetic-20", methods="cca", runs=runs), gpu=False)
    planned.directory.mkdir(parents=True)
    return planned


def test_a_job_survives_the_way_to_another_process(one: PlannedJob) -> None:
    content = json.loads(json.dumps(to_json(one)))
    assert "corpus" not in content
    assert from_json(content) == replace(one, corpus=None)
    several = replace(one, protocols=[replace(one.protocols[0], captions=(20, 25))])
    assert from_json(json.loads(json.dumps(to_json(several)))) == replace(several, corpus=None)


def test_who_may_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_accelerator", lambda: False)
    assert [can_fork(word) for word in ("auto", "cpu", "1", "2")] == [True, True, True, False]
    monkeypatch.setattr(devices, "has_accelerator", lambda: True)
    assert [can_fork(word) for word in ("auto", "cpu", "1", "2")] == [False, True, False, False]


@pytest.mark.parametrize(
    ("error", "status", "kind", "message"),
    [
        (BadInput("x is missing; make it"), 2, "bad input", "x is missing; make it"),
        (ValueError("first\nsecond"), 1, "error", "ValueError: first"),
        (RuntimeError(), 1, "error", "RuntimeError: no message"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "bad input", "No space left on device"),
        (OSError(errno.ENOENT, "No such file"), 1, "error", "FileNotFoundError"),
        (MemoryError(), 1, "error", "memory ran out (MemoryError); allow the process more"),
    ],
)
def test_what_goes_wrong_is_noted(
    one: PlannedJob, error: Exception, status: int, kind: str, message: str
) -> None:
    def fail(planned: PlannedJob, devices: str, request: StopRequest) -> None:
        assert is_locked(planned.directory) and devices == "cpu"
        raise error

    one.files.error.unlink(missing_ok=True)
    assert guarded(one, "cpu", fail) == status
    noted = read_json(one.files.error)
    assert noted["kind"] == kind and message in noted["message"]
    assert not is_locked(one.directory)


def test_only_the_first_process_of_several_holds_the_lock(
    one: PlannedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    locks = []
    assert guarded(one, "2", lambda planned, *rest: locks.append(is_locked(planned.directory))) == 0
    assert locks == [False]


def test_asked_to_stop_is_no_error(one: PlannedJob) -> None:
    one.files.error.unlink(missing_ok=True)
    handler = signal.getsignal(signal.SIGUSR1)
    status = guarded(one, "cpu", lambda *rest: os.kill(os.getpid(), signal.SIGUSR1))
    assert signal.getsignal(signal.SIGUSR1) != handler
    assert status == AGAIN and not one.files.error.exists()


def test_a_job_leaves_what_its_queries_look_like(tmp_path: Path) -> None:
    (planned,) = make_plan(BenchOptions("synthetic-20", methods="cca", runs=tmp_path), gpu=False)
    planned.directory.mkdir(parents=True)
    assert guarded(planned, "cpu") == 0
    record = read_record(planned.directory)
    gallery = load_gallery(planned.files.shown_gallery(record.data.fingerprint, "test"))
    assert (list(gallery.image_ids), list(gallery.caption_ids)) == load_query_ids(record.files, record.ranks)
    assert all(gallery.thumbnails) and all(gallery.captions)
    queries = queries_context(tables(leaderboard([record])), tmp_path)
    assert queries is not None
    (items,) = json.loads(queries["json"])["items"]
    assert all(items["pictures"]) and items["captions"] == list(gallery.captions)


def test_of_several_errors_the_first_stays(one: PlannedJob) -> None:
    def fail(planned: PlannedJob, devices: str, request: StopRequest) -> None:
        raise RuntimeError("connection closed by peer")

    one.files.error.write_text('{"kind": "error", "message": "the cause"}')
    assert guarded(one, "2", fail) == 1
    assert read_json(one.files.error)["message"] == "the cause"


def test_a_worker_starts_clean_and_writes_its_log(one: PlannedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    one.files.error.write_text("{}")
    (one.directory / "progress.json").write_text("{}")

    def speak(planned: PlannedJob, devices: str, request: StopRequest) -> int:
        os.write(1, f"hello from {devices}\n".encode())
        return 3

    monkeypatch.setattr(processes, "guarded", speak)
    worker = Worker(one, "cpu")
    assert worker.wait(20)
    assert worker.exit_code == 3
    assert one.files.log.read_text().endswith("hello from cpu\n")
    assert not one.files.error.exists() and not (one.directory / "progress.json").exists()


def test_a_worker_has_the_environment_and_the_threads_that_it_is_given(
    one: PlannedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(planned: PlannedJob, devices: str, request: StopRequest) -> int:
        limits = [pool["num_threads"] for pool in threadpool_info()]
        os.write(1, f"{os.environ['GIVEN']} with {torch.get_num_threads()} {set(limits)} threads\n".encode())
        return 0

    monkeypatch.setattr(processes, "guarded", look)
    worker = Worker(one, "cpu", {"GIVEN": "gpu 3", processes.THREADS: "2"})
    assert worker.wait(20) and worker.exit_code == 0
    assert one.files.log.read_text().endswith("gpu 3 with 2 {2} threads\n")
    assert "GIVEN" not in os.environ


def test_a_job_that_another_process_has_or_has_had_is_left_alone(
    one: PlannedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(planned: PlannedJob, devices: str, request: StopRequest) -> None:
        raise AssertionError("it was run")

    with locked(one.directory):
        assert guarded(one, "cpu", fail) == TAKEN
    monkeypatch.setattr(processes, "state_of", lambda planned: State("done"))
    assert guarded(one, "cpu", fail) == TAKEN
    assert not one.files.error.exists()


def test_a_worker_ignores_ctrl_c_and_can_be_stopped(one: PlannedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = one.directory / "ready"

    def sleep(planned: PlannedJob, devices: str, request: StopRequest) -> int:
        try:
            request.deferred = False
            ready.write_text(str(os.getpid()))
            time.sleep(60)
        except Interrupted:
            return AGAIN
        return 0

    monkeypatch.setattr(processes, "guarded", sleep)
    worker = Worker(one, "cpu")
    while not (ready.is_file() and ready.read_text()):
        time.sleep(0.01)
    os.kill(int(ready.read_text()), signal.SIGINT)
    assert not worker.wait(0.2)
    worker.stop()
    assert worker.exit_code == AGAIN


def lead(pipe: int) -> None:
    parent = os.getpid()
    if os.fork() == 0:
        follow(parent)
        os.write(pipe, b"x")
        time.sleep(60)
        os._exit(0)
    time.sleep(60)


def test_a_worker_dies_with_its_parent() -> None:
    reading, writing = os.pipe()
    parent = multiprocessing.get_context("fork").Process(target=lead, args=(writing,))
    parent.start()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read(1) == b"x"
        parent.kill()
        parent.join()
        # The child holds the other end of the pipe, which closes when the child ends.
        start = time.monotonic()
        assert pipe.read() == b""
    assert time.monotonic() - start < 10


RANKS = """
import json, os, signal, sys, time
rank = int(os.environ["LOCAL_RANK"])
assert os.environ["MASTER_PORT"] and os.environ["NODE_RANK"] == "0"
parent, gpus = os.environ["CROSSMODAL_BENCH_PARENT"], os.environ["CUDA_VISIBLE_DEVICES"]
# One write, or lines of processes that run at once are mixed.
os.write(1, f"process {rank} of parent {parent} on {gpus} in {sys.argv[1]}\\n".encode())
what = json.loads(os.environ["STATUSES"])[rank]
if what == "wait":
    time.sleep(60)
elif what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(what)
"""


@pytest.fixture
def ranks(one: PlannedJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Worker]:
    """A worker of one small process for each status."""

    def start(*statuses: int | str) -> Worker:
        script = tmp_path / "job.py"
        script.write_text(RANKS)
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {script} "$@"\n')
        python.chmod(0o755)
        monkeypatch.setattr(processes.sys, "executable", str(python))
        monkeypatch.setenv("STATUSES", json.dumps(statuses))
        monkeypatch.setattr(processes, "PATIENCE", 0.3)
        one.files.log.unlink(missing_ok=True)
        return Worker(one, str(len(statuses)), {"CUDA_VISIBLE_DEVICES": "4,5"})

    return start


def test_several_devices_are_several_processes(one: PlannedJob, ranks: Callable[..., Worker]) -> None:
    worker = ranks(0, 0, 0)
    assert worker.wait(20) and worker.exit_code == 0
    said = sorted(one.files.log.read_text().splitlines())
    expected = [f"process {rank} of parent {os.getpid()} on 4,5 in {one.directory}" for rank in range(3)]
    assert said == expected
    assert from_json(read_json(one.files.planned)) == replace(one, corpus=None)


def test_when_one_of_several_dies_the_others_are_ended_and_it_is_named(
    one: PlannedJob, ranks: Callable[..., Worker]
) -> None:
    worker = ranks("wait", "killed", "wait")
    assert worker.wait(20) and worker.exit_code == -signal.SIGKILL
    message = read_json(one.files.error)["message"]
    assert message.startswith("process 2 of 3 was killed by SIGKILL")


def test_when_one_of_several_is_told_to_stop_the_job_goes_on_another_time(
    one: PlannedJob, ranks: Callable[..., Worker]
) -> None:
    worker = ranks(AGAIN, "wait")
    one.files.error.write_text('{"message": "connection closed by peer"}')
    assert worker.wait(20) and worker.exit_code == AGAIN
    assert not one.files.error.exists()


def test_how_a_process_ended() -> None:
    assert processes.how_it_ended(-9) == "killed by SIGKILL; the system may have run out of memory"
    assert processes.how_it_ended(-15) == "killed by SIGTERM"
    assert processes.how_it_ended(3) == "ended with status 3"
