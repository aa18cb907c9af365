"""Failure drills: whatever is killed, filled or taken away, nothing that was done is lost."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dual_encoders
import pytest
from drills import in_epoch, results, wait_for

from crossmodal_bench.core.signals import AGAIN
from crossmodal_bench.jobs.experiments import names
from crossmodal_bench.jobs.record import read_record, read_records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
TINY = ("bench", "--dataset", "synthetic-20", "--wandb", "off")
ACMR = (*TINY, "--methods", "acmr", "--set", "trainer.max_epochs=30")
Start = Callable[..., Any]


def bench(*words: object, folder: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """A bench in a process of its own, which others cannot be disturbed by."""
    command = [sys.executable, "-m", "crossmodal_bench", *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, **more)


@pytest.mark.parametrize("what", ["the bench", "everything"])
def test_twenty_kills_of_a_bench_of_all_methods_lose_nothing(start: Start, tmp_path: Path, what: str) -> None:
    # clip needs published weights, which are not here.
    methods = ",".join(name for name in names("methods") if name != "clip")
    words = (*TINY, "--methods", methods, "--set", "trainer.max_epochs=2")
    undisturbed = start(*words, "--runs", "undisturbed", folder=tmp_path)
    assert undisturbed.wait(1800) == 0
    expected = results(tmp_path / "undisturbed")
    assert len(expected) > 30
    rng, runs, done = random.Random(0), tmp_path / "runs", set[str]()
    for _ in range(20):
        command = start(*words, "--runs", "runs", folder=tmp_path)
        time.sleep(rng.uniform(0.5, 15))
        if what == "everything":
            os.killpg(command.pid, signal.SIGKILL)
        else:
            command.signal(signal.SIGKILL)
        command.wait()
        # None half-written, none lost.
        there = {str(record.directory) for record in read_records(runs)}
        assert done <= there
        done = there
    assert start(*words, "--runs", "runs", folder=tmp_path).wait(1800) == 0
    found = results(runs)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name
    left = [path for path in runs.rglob("*") if path.name.startswith(".") and path.is_file()]
    assert not left


def test_asked_to_stop_a_bench_saves_ends_with_75_and_goes_on_to_the_same_numbers(
    start: Start, tmp_path: Path
) -> None:
    assert start(*ACMR, "--runs", "undisturbed", folder=tmp_path).wait() == 0
    runs = tmp_path / "runs"
    for epoch, number in ((5, signal.SIGTERM), (12, signal.SIGUSR1), (20, signal.SIGINT)):
        began = time.time()
        command = start(*ACMR, "--runs", "runs", folder=tmp_path)
        wait_for(lambda epoch=epoch, began=began: in_epoch(runs, epoch, began))
        command.signal(number)
        assert command.wait(60) == AGAIN
        assert "run the same command again" in command.out.read_text()
    assert start(*ACMR, "--runs", "runs", folder=tmp_path).wait() == 0
    assert results(runs) == results(tmp_path / "undisturbed")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(start: Start, tmp_path: Path) -> None:
    assert start(*ACMR, "--runs", "undisturbed", folder=tmp_path).wait() == 0
    runs = tmp_path / "runs"
    command = start(*ACMR, "--runs", "runs", folder=tmp_path)
    wait_for(lambda: in_epoch(runs, 4))
    os.killpg(command.pid, signal.SIGKILL)
    command.wait()
    (last,) = runs.glob("*/*/*/last.ckpt")
    last.write_bytes(last.read_bytes()[:-100])
    assert start(*ACMR, "--runs", "runs", folder=tmp_path).wait() == 0
    log = (last.parent / "log.txt").read_text()
    assert "last.ckpt is damaged" in log
    assert results(runs) == results(tmp_path / "undisturbed")


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("kind", ["features", "text_features"])
def test_a_dual_encoder_that_is_killed_in_its_pass_goes_on(
    start: Start, tmp_path: Path, family: str, kind: str
) -> None:
    words = ("bench", "--dataset", "synthetic", "--methods", "clip", "--network", dual_encoders.tiny(family))
    words = (*words, "--preset", "smoke", "--wandb", "off", "--reference", "off")
    assert start(*words, "--runs", "undisturbed", folder=tmp_path).wait() == 0
    began: list[Path] = []

    def passing() -> bool:
        began[:] = (tmp_path / "runs").rglob(f"{kind}/*.partial")
        return bool(began)

    again = (*words, "--runs", "runs")
    command = start(*again, folder=tmp_path)
    wait_for(passing)
    os.killpg(command.pid, signal.SIGKILL)
    command.wait()
    (partial,) = began
    file = partial.stat().st_ino
    assert start(*again, folder=tmp_path).wait() == 0
    # The very file that was begun is the one that is read: nothing was started anew.
    assert file in {path.stat().st_ino for path in partial.parent.glob("*.npy")}
    assert results(tmp_path / "runs") == results(tmp_path / "undisturbed")


def ranks_of(directory: Path) -> list[int]:
    """The processes of a job on several devices."""
    found = subprocess.run(
        ["pgrep", "-f", f"bench.launchers.job {directory}"], capture_output=True, text=True
    )
    return [int(word) for word in found.stdout.split()]


def test_when_a_rank_dies_the_job_ends_with_a_sentence_and_resumes(start: Start, tmp_path: Path) -> None:
    words = (*ACMR, "--devices", "2")
    assert start(*words, "--runs", "undisturbed", folder=tmp_path).wait(300) == 0
    runs = tmp_path / "runs"
    command = start(*words, "--runs", "runs", folder=tmp_path)
    wait_for(lambda: in_epoch(runs, 3))
    (progress,) = runs.glob("*/*/*/progress.json")
    ranks = ranks_of(progress.parent.relative_to(tmp_path))
    assert len(ranks) == 2
    killed = time.monotonic()
    os.kill(ranks[1], signal.SIGKILL)
    assert command.wait(60) == 1
    assert time.monotonic() - killed < 40
    assert "process 2 of 2 was killed by SIGKILL" in command.out.read_text()
    assert start(*words, "--runs", "runs", folder=tmp_path).wait(300) == 0
    assert results(runs) == results(tmp_path / "undisturbed")


def test_two_processes_that_are_asked_to_stop_go_on_together(start: Start, tmp_path: Path) -> None:
    words = (*ACMR, "--devices", "2")
    assert start(*words, "--runs", "undisturbed", folder=tmp_path).wait(300) == 0
    runs = tmp_path / "runs"
    command = start(*words, "--runs", "runs", folder=tmp_path)
    wait_for(lambda: in_epoch(runs, 3))
    command.signal(signal.SIGTERM)
    assert command.wait(90) == AGAIN
    assert start(*words, "--runs", "runs", folder=tmp_path).wait(300) == 0
    assert results(runs) == results(tmp_path / "undisturbed")


def test_a_full_disk_is_a_sentence_and_the_job_goes_on_when_there_is_room(
    start: Start, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    words = (*ACMR, "--runs", "runs")

    def full() -> None:
        # Python ignores the signal, and a write behind the limit is refused.
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))

    finished = bench(*words, folder=tmp_path, preexec_fn=full)
    assert finished.returncode == 2, finished.stderr
    said = finished.stdout + finished.stderr
    assert "cannot be written (File too large)" in said and "Traceback" not in said
    assert not list(runs.glob("*/*/*/record.json"))
    assert start(*words, folder=tmp_path).wait() == 0
    assert len(read_records(runs)) == 1


def test_a_run_directory_that_becomes_read_only_is_a_sentence_and_keeps_what_it_has(
    start: Start, tmp_path: Path
) -> None:
    mount = "mount --bind runs runs && mount -o remount,ro,bind runs"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("this system lets nobody mount anything")
    runs = tmp_path / "runs"
    assert start(*TINY, "--methods", "cca", "--runs", "runs", folder=tmp_path).wait() == 0
    python = f"{sys.executable} -m crossmodal_bench {' '.join(TINY)} --methods cca,acmr --runs runs"
    finished = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} && {python}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 2, finished.stdout + finished.stderr
    assert "cannot be written (Read-only file system)" in finished.stderr
    assert "Traceback" not in finished.stdout + finished.stderr
    assert [record.job.method for record in read_records(runs)] == ["cca"]


@pytest.mark.parametrize("server", ["refuses", "never answers"])
def test_a_wandb_that_cannot_be_reached_delays_and_fails_nothing(tmp_path: Path, server: str) -> None:
    offline = (*TINY[:-1], "offline", "--methods", "cca,sm")
    began = time.monotonic()
    assert bench(*offline, "--runs", "offline", folder=tmp_path).returncode == 0
    took = time.monotonic() - began
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if server == "never answers":
            listening.listen(100)
        environment = {
            **os.environ,
            "WANDB_BASE_URL": f"http://127.0.0.1:{listening.getsockname()[1]}",
            "WANDB_API_KEY": "0" * 40,
        }
        online = (*TINY[:-1], "online", "--methods", "cca,sm")
        began = time.monotonic()
        finished = bench(*online, "--runs", "runs", folder=tmp_path, env=environment)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        # At its end it waits a little for what is still being sent.
        assert time.monotonic() - began < 1.5 * took + 30
        records = read_records(tmp_path / "runs")
        assert len(records) == 2
        # Each job's run is written for later when the server has been given up.
        said = [record.directory / "wandb.txt" for record in records]
        wait_for(lambda: all("crossmodal-bench sync" in path.read_text() for path in said), 300)
        assert all(list(record.directory.glob("wandb/offline-run-*")) for record in records)


def test_a_clock_that_jumps_changes_nothing_but_dates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossmodal_bench.bench.options import BenchOptions
    from crossmodal_bench.bench.runner import bench as run_bench

    now = time.time

    def jumping() -> float:
        return now() + random.Random(now()).choice((-1e7, 1e7))

    for name, clock in (("steady", now), ("jumping", jumping)):
        monkeypatch.setattr(time, "time", clock)
        options = BenchOptions("synthetic-20", methods="acmr", runs=tmp_path / name, wandb="off")
        assert run_bench(options, log=lambda line: None) == 0
    monkeypatch.setattr(time, "time", now)
    assert results(tmp_path / "jumping") == results(tmp_path / "steady")
    (record,) = read_records(tmp_path / "jumping")
    assert 0 < read_record(record.directory).cost["train_seconds"] < 600
