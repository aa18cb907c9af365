from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from users import as_its_owner

from crossmodal_bench.bench.plan import PlannedJob
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation import PROTOCOLS
from crossmodal_bench.jobs import state
from crossmodal_bench.jobs.directory import JobDirectory, write_json
from crossmodal_bench.jobs.fingerprints.sources import fingerprint_of
from crossmodal_bench.jobs.locks import is_locked, locked
from crossmodal_bench.jobs.record import Job, Record, read_record
from crossmodal_bench.jobs.state import State, state_of

CONFIG = {"data": {"batch_size": 4}}


def planned(directory: Path, missing: str = "", fingerprint: str = "data") -> PlannedJob:
    job = Job(
        id="0" * 16,
        method="acmr",
        dataset="wikipedia",
        protocol="wikipedia-2173-map",
        preset="small",
        seed=0,
        suite=None,
        label="",
        overrides={},
    )
    return PlannedJob(job, CONFIG, [], "test", directory, "split", fingerprint, {}, missing)


@pytest.fixture
def finished(make_record: Callable[..., Record], make_content: Callable[..., dict[str, Any]]) -> Path:
    data = {**make_content()["data"], "fingerprint": "data"}
    fingerprint = fingerprint_of(CONFIG)
    made_from = fingerprint.model_dump()
    return make_record(data=data, source_fingerprint=fingerprint.digest, made_from=made_from).directory


def hold(directory: Path, ready: Any) -> None:
    with locked(directory):
        ready.set()
        signal.pause()


def test_nothing_there_is_not_started_or_skipped(tmp_path: Path) -> None:
    assert state_of(planned(tmp_path / "none")).name == "not started"
    skipped = state_of(planned(tmp_path / "none", missing="data/x is missing; put it there"))
    assert (skipped.name, skipped.why) == ("skipped", "data/x is missing; put it there")


def test_a_failed_job_says_why(tmp_path: Path) -> None:
    write_json(JobDirectory(tmp_path).error, {"kind": "error", "message": "ValueError: no"})
    assert state_of(planned(tmp_path)) == state.State("failed", "ValueError: no")
    (JobDirectory(tmp_path).error).write_text('{"kind": "er')
    assert state_of(planned(tmp_path)) == state.State("failed", "")


def test_done_and_stale(finished: Path) -> None:
    assert state_of(planned(finished)).name == "done"
    assert state_of(planned(finished, missing="gone", fingerprint="")).name == "done"
    data = state_of(planned(finished, fingerprint="others"))
    assert data.name == "stale" and "data differ" in data.why
    one = planned(finished)
    one.config["data"]["batch_size"] = 5
    assert state_of(one) == State("stale", "settings differ: data.batch_size")
    one.config["data"]["batch_size"] = 4


def test_a_protocol_that_came_later_makes_nothing_stale(finished: Path) -> None:
    record = read_record(finished)
    own = replace(PROTOCOLS["coco-5k"], name=record.job.protocol)
    assert state_of(replace(planned(finished), protocols=[own])) == State("done")
    more = replace(planned(finished), protocols=[own, PROTOCOLS["coco-1k-5fold"]])
    assert record.source_fingerprint != more.fingerprint().digest
    sentence = "coco-1k-5fold is not measured"
    assert state_of(more) == State("done", f"{sentence}; RERUN=stale runs it again")
    assert state_of(replace(more, measure_missing=True)) == State("stale", sentence)
    assert state_of(replace(planned(finished), protocols=[own], measure_missing=True)).name == "done"


def test_a_damaged_record_is_named_not_guessed_at(finished: Path) -> None:
    path = finished / "record.json"
    path.write_text(path.read_text()[:100])
    damaged = state_of(planned(finished))
    assert damaged.name == "unreadable"
    assert re.search(r"record\.json is damaged .*delete it", damaged.why)
    path.unlink()
    os.mkfifo(path)
    pipe = state_of(planned(finished))
    assert pipe.name == "unreadable" and "not a regular file" in pipe.why


def test_a_folder_that_is_closed_to_the_user_is_said(anothers_runs: Path) -> None:
    with as_its_owner():
        (anothers_runs / "job").mkdir()
        (anothers_runs / "job").chmod(0o700)
    state = state_of(planned(anothers_runs / "job"))
    assert state.name == "unreadable" and "Permission denied" in state.why


def test_a_lock_lives_as_long_as_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(10)
    state_now = state_of(planned(tmp_path))
    assert state_now.name == "running"
    assert state_now.why.startswith(f"process {holder.pid} on {socket.gethostname()} since 2")
    with (
        pytest.raises(
            BadInput, match=rf"another process \(process {holder.pid} on .*; wait for it or stop it"
        ),
        locked(tmp_path),
    ):
        raise AssertionError("two processes hold the lock")
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert (JobDirectory(tmp_path).lock).is_file()
    assert not is_locked(tmp_path)
    assert state_of(planned(tmp_path)).name == "not started"
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
