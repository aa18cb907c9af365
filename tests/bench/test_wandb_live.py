"""Jobs that W&B follows: killed and gone on, and beside servers that are of no use."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from offline_runs import read_run
from PIL import Image

from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record, read_records
from crossmodal_bench.reporting.wandb import live
from crossmodal_bench.reporting.wandb.state import read_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TINY = ("bench", "--dataset", "synthetic-20", "--reference", "off", "--devices", "cpu")
EPOCHS = 400
"""Of ACMR: longer than W&B's interval between two samples of the machine, 15 s, after a kill in the tenth."""


def bench(folder: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """A bench in a process of its own, without anybody's account."""
    command = [sys.executable, "-m", "crossmodal_bench", *TINY, *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=900, env=environment(folder), **more
    )


def environment(folder: Path, **more: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**ours, "NETRC": str(folder / "netrc"), "WANDB_CONFIG_DIR": str(folder / "config"), **more}


def wait_until(folder: Path, epoch: int) -> Path:
    """The directory of the job that has come so far and whose run has begun."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for path in folder.glob("runs/*/*/*/epochs.json"):
            files = JobDirectory(path.parent)
            if len(files.read_epochs()) >= epoch and files.offline_wandb_runs():
                return path.parent
        time.sleep(0.1)
    raise AssertionError(f"no job has come to epoch {epoch}")


def wait_for_run(record: Record) -> None:
    """Until the run is whole: on a busy machine its sender, of low priority, outlives the bench."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        state = read_state(record.files)
        if state is not None and state.name not in ("live", "sending"):
            return
        time.sleep(0.2)
    raise AssertionError(f"the run of {record.directory} is still being sent")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_and_resumed_job_is_one_run_with_a_whole_history(tmp_path: Path, number: int) -> None:
    words = ("--methods", "acmr", "--set", f"trainer.max_epochs={EPOCHS}")
    words += ("--wandb", "offline", "--wandb-live")
    command = [sys.executable, "-m", "crossmodal_bench", *TINY, *words]
    with (tmp_path / "first.txt").open("w") as out:
        first = subprocess.Popen(
            command, cwd=tmp_path, stdout=out, stderr=out, env=environment(tmp_path), start_new_session=True
        )
        directory = wait_until(tmp_path, 10)
        if number == signal.SIGKILL:
            os.killpg(first.pid, number)
        else:
            first.send_signal(number)
        first.wait(120)
    finished = bench(tmp_path, *words)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "crossmodal-bench sync --runs runs" in finished.stdout
    (record,) = read_records(tmp_path / "runs")
    assert record.directory == directory
    wait_for_run(record)
    (log,) = record.files.offline_wandb_runs()
    run = read_run(log)
    assert run.id == record.job.id and run.exit_code == 0
    epochs = {entry["epoch"]: entry for entry in run.history if "train/loss_embedding" in entry}
    assert list(epochs) == list(range(EPOCHS))
    for epoch in record.history:
        assert epochs[epoch["epoch"]]["val/primary"] == pytest.approx(epoch["val/primary"])
    assert run.config["settings"]["trainer"]["max_epochs"] == EPOCHS
    assert run.summary["primary"] == record.metrics[run.summary["primary_metric"]]
    assert run.tables["leaderboard"] and run.system > 0


def test_a_bench_leaves_runs_with_configuration_curves_tables_and_pictures(tmp_path: Path) -> None:
    words = ("--methods", "acmr,gxn_i2t_xe", "--set", "trainer.max_epochs=2", "--wandb", "offline")
    command = [sys.executable, "-m", "crossmodal_bench", *TINY, *words]
    command[command.index("synthetic-20")] = "synthetic-tiny"
    finished = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=900, env=environment(tmp_path)
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    records = {record.job.method: record for record in read_records(tmp_path / "runs")}
    assert {"acmr", "gxn_i2t_xe"} <= records.keys()
    for method, record in records.items():
        wait_for_run(record)
        (log,) = record.files.offline_wandb_runs()
        run = read_run(log)
        assert run.config["settings"]["trainer"]["max_epochs"] == 2 and run.config["command"], method
        assert run.config["finished_at"] == record.finished_at and run.config["environment"]["device"]
        epochs = [entry for entry in run.history if "val/primary" in entry]
        assert [entry["epoch"] for entry in epochs] == [0, 1], method
        assert run.summary["primary"] == record.metrics[run.summary["primary_metric"]]
        assert f"intervals/{run.summary['primary_metric']}/low" in run.summary
        assert run.tables["leaderboard"][0]["method"] == f"{method} (max_epochs=2)"
        queries = run.tables["queries"]
        assert {line["direction"] for line in queries} == {"i2t", "t2i"} and queries[-1]["text"]
    writes, retrieves = (
        read_run(records[method].files.offline_wandb_runs()[0]) for method in ("gxn_i2t_xe", "acmr")
    )
    assert {"panels/retrieved_captions", "panels/retrieved_pictures"} <= set(retrieves.pictures)
    assert "panels/captions" in writes.pictures and writes.tables["written_captions"][0]["caption"]
    for path in (*writes.pictures.values(), *retrieves.pictures.values()):
        with Image.open(path) as picture:
            picture.load()


def followers(directory: Path) -> list[int]:
    """The processes that follow the job of a directory."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if live.MODULE.encode() in words and str(directory.resolve()).encode() in words:
                pids.append(int(path.parent.name))
    return pids


def test_a_job_whose_follower_is_killed_has_a_whole_run(tmp_path: Path) -> None:
    words = ("--methods", "acmr", "--set", "trainer.max_epochs=200", "--wandb", "offline", "--wandb-live")
    command = [sys.executable, "-m", "crossmodal_bench", *TINY, *words]
    with (tmp_path / "out.txt").open("w") as out:
        running = subprocess.Popen(
            command, cwd=tmp_path, stdout=out, stderr=out, env=environment(tmp_path), start_new_session=True
        )
        directory = wait_until(tmp_path, 5)
        (follower,) = followers(directory)
        os.kill(follower, signal.SIGKILL)
        assert not JobDirectory(directory).is_done(), "the job was over before: give it more epochs"
        assert running.wait(600) == 0, (tmp_path / "out.txt").read_text()
    (record,) = read_records(tmp_path / "runs")
    wait_for_run(record)
    (log,) = record.files.offline_wandb_runs()
    run = read_run(log)
    assert run.exit_code == 0 and run.config["finished_at"] == record.finished_at
    epochs = [entry["epoch"] for entry in run.history if "train/loss_embedding" in entry]
    assert epochs == list(range(200)) and run.tables["leaderboard"]
    state = read_state(record.files)
    assert state is not None and state.is_complete_locally(record)


class Broken(BaseHTTPRequestHandler):
    """Answers 500 to whatever it is asked."""

    def do_POST(self) -> None:
        self.send_error(500)

    do_GET = do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def server(kind: str) -> Iterator[str]:
    """The address of a server that refuses, never answers, or fails."""
    if kind == "fails":
        with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as failing:
            threading.Thread(target=failing.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{failing.server_port}"
            failing.shutdown()
        return
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if kind == "never answers":
            listening.listen(100)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["refuses", "never answers", "fails"])
@pytest.mark.parametrize("live", [False, True])
def test_a_server_of_no_use_costs_no_record_and_half_a_minute_at_most(
    tmp_path: Path, kind: str, live: bool
) -> None:
    words = ("--methods", "cca,acmr,timam", "--set", "trainer.max_epochs=3")
    began = time.monotonic()
    assert bench(tmp_path, *words, "--wandb", "off", "--runs", "off").returncode == 0
    took = time.monotonic() - began
    with server(kind) as address:
        account = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}
        command = [sys.executable, "-m", "crossmodal_bench", *TINY, *words, "--wandb", "online"]
        began = time.monotonic()
        finished = subprocess.run(
            [*command, *(["--wandb-live"] if live else [])],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=900,
            env=environment(tmp_path, **account),
        )
        costs = time.monotonic() - began - took
    assert finished.returncode == 0, finished.stdout + finished.stderr
    records = read_records(tmp_path / "runs")
    assert {record.job.method for record in records} == {"cca", "acmr", "timam"}
    assert costs < 30, costs
    said = finished.stdout[finished.stdout.rindex("W&B: ") :]
    assert said.startswith("W&B: 3 runs not sent; crossmodal-bench sync --runs runs sends what is missing")
    for record in records:
        wait_for_run(record)
    # Each run is complete on this disk, for later.
    for record in records:
        (log,) = record.files.offline_wandb_runs()
        assert read_run(log).summary["primary"] == pytest.approx(
            record.metrics[read_run(log).summary["primary_metric"]]
        )
