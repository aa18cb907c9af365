from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import time
from dataclasses import replace

import pytest
import torch
from threadpoolctl import threadpool_info

from crossmodal_bench.bench import processes
from crossmodal_bench.bench.plan import BenchOptions, PlannedJob, make_plan
from crossmodal_bench.bench.processes import TAKEN, Worker, can_fork, follow, from_json, guarded, to_json
from crossmodal_bench.bench.state import ERROR, LOG, State, is_locked, locked, read_json
from crossmodal_bench.errors import BadInput


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
    monkeypatch.setattr(processes, "has_accelerator", lambda: False)
    assert [can_fork(word) for word in ("auto", "cpu", "1", "2")] == [True, True, True, False]
    monkeypatch.setattr(processes, "has_accelerator", lambda: True)
    assert [can_fork(word) for word in ("auto", "cpu", "1", "2")] == [False, True, False, False]


@pytest.mark.parametrize(
    ("error", "status", "kind", "message"),
    [
        (BadInput("x is missing; make it"), 2, "bad input", "x is missing; make it"),
        (ValueError("first\nsecond"), 1, "error", "ValueError: first"),
        (RuntimeError(), 1, "error", "RuntimeError: no message"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "bad input", "No space left on device"),
        (OSError(errno.ENOENT, "No such file"), 1, "error", "FileNotFoundError"),
    ],
)
def test_what_goes_wrong_is_noted(
    one: PlannedJob, error: Exception, status: int, kind: str, message: str
) -> None:
    def fail(planned: PlannedJob, devices: str) -> None:
        assert is_locked(planned.directory) and devices == "cpu"
        raise error

    assert guarded(one, "cpu", fail) == status
    noted = read_json(one.directory / ERROR)
    assert noted["kind"] == kind and message in noted["message"]
    assert not is_locked(one.directory)


def test_only_the_first_process_of_several_holds_the_lock(
    one: PlannedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    locks = []
    assert guarded(one, "2", lambda planned, devices: locks.append(is_locked(planned.directory))) == 0
    assert locks == [False]


def test_a_worker_starts_clean_and_writes_its_log(one: PlannedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    (one.directory / ERROR).write_text("{}")
    (one.directory / "progress.json").write_text("{}")

    def speak(planned: PlannedJob, devices: str) -> int:
        os.write(1, f"hello from {devices}\n".encode())
        return 3

    monkeypatch.setattr(processes, "guarded", speak)
    worker = Worker(one, "cpu")
    assert worker.wait(20)
    assert worker.exit_code == 3
    assert (one.directory / LOG).read_text().endswith("hello from cpu\n")
    assert not (one.directory / ERROR).exists() and not (one.directory / "progress.json").exists()


def test_a_worker_has_the_environment_and_the_threads_that_it_is_given(
    one: PlannedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(planned: PlannedJob, devices: str) -> int:
        limits = [pool["num_threads"] for pool in threadpool_info()]
        os.write(1, f"{os.environ['GIVEN']} with {torch.get_num_threads()} {set(limits)} threads\n".encode())
        return 0

    monkeypatch.setattr(processes, "guarded", look)
    worker = Worker(one, "cpu", {"GIVEN": "gpu 3", processes.THREADS: "2"})
    assert worker.wait(20) and worker.exit_code == 0
    assert (one.directory / LOG).read_text().endswith("gpu 3 with 2 {2} threads\n")
    assert "GIVEN" not in os.environ


def test_a_job_that_another_process_has_or_has_had_is_left_alone(
    one: PlannedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(planned: PlannedJob, devices: str) -> None:
        raise AssertionError("it was run")

    with locked(one.directory):
        assert guarded(one, "cpu", fail) == TAKEN
    monkeypatch.setattr(processes, "state_of", lambda planned: State("done"))
    assert guarded(one, "cpu", fail) == TAKEN
    assert not (one.directory / ERROR).exists()


def test_a_worker_ignores_ctrl_c_and_can_be_stopped(one: PlannedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = one.directory / "ready"

    def sleep(planned: PlannedJob, devices: str) -> int:
        ready.write_text(str(os.getpid()))
        time.sleep(60)
        return 0

    monkeypatch.setattr(processes, "guarded", sleep)
    worker = Worker(one, "cpu")
    while not (ready.is_file() and ready.read_text()):
        time.sleep(0.01)
    os.kill(int(ready.read_text()), signal.SIGINT)
    assert not worker.wait(0.2)
    worker.stop()
    assert worker.exit_code == -signal.SIGTERM


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


def test_a_job_process_needs_no_bench(one: PlannedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEVICES=2 starts `python -m crossmodal_bench.bench.job`, told whom it must not outlive."""
    started: dict[str, object] = {}

    class Fake(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, command: list[str], **named: object) -> None:
            started.update(command=command, **named)
            self.returncode = 0

        def __del__(self) -> None:
            started.clear()

        def wait(self, timeout: float | None = None) -> int:
            return 0

    monkeypatch.setattr(processes.subprocess, "Popen", Fake)
    worker = Worker(one, "2", {"CUDA_VISIBLE_DEVICES": "4,5"})
    assert worker.wait(1) and worker.exit_code == 0
    assert started["command"][1:] == ["-m", "crossmodal_bench.bench.job", str(one.directory), "2"]  # type: ignore[index]
    assert started["env"]["CUDA_VISIBLE_DEVICES"] == "4,5"  # type: ignore[index]
    assert started["env"][processes.PARENT] == str(os.getpid())  # type: ignore[index]
    assert from_json(read_json(one.directory / processes.PLANNED)) == replace(one, corpus=None)
