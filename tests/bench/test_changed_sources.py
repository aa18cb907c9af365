"""The sources change between an interruption and the same command: what decides nothing costs nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import crossmodal_bench
from crossmodal_bench.bench import runner
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.core.signals import AGAIN, Interrupted, StopRequest
from crossmodal_bench.jobs import planned
from crossmodal_bench.jobs.directory import JobDirectory, read_json
from crossmodal_bench.jobs.fingerprints import sources
from crossmodal_bench.jobs.fingerprints.closure import SourceTree
from crossmodal_bench.jobs.fingerprints.sources import ASIDE, OURS
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import Record, read_record
from crossmodal_bench.jobs.state import State, state_of
from crossmodal_bench.reporting.rows.leaderboard import leaderboard, tables
from crossmodal_bench.reporting.tables.layout import notes
from crossmodal_bench.training.worker import run_job

PACKAGE = Path(crossmodal_bench.__file__).parent
CHANGED = f"{OURS}.losses.acmr has changed"


class StopAfter(StopRequest):
    """A request that is made at the n-th look, as by a signal at that moment."""

    def __init__(self, looks: int) -> None:
        self._looks = looks
        super().__init__(())

    @property
    def made(self) -> bool:
        self._looks -= 1
        return self._looks < 0

    @made.setter
    def made(self, value: bool) -> None:
        pass


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """The sources as a new process finds them, in a folder of their own."""
    return Path(shutil.copytree(PACKAGE, tmp_path / OURS, ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def new_process(house: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets what was read of the sources, as a process that starts now has read nothing of them."""

    def start() -> None:
        tree = SourceTree({OURS: house}, ASIDE)
        monkeypatch.setattr(sources, "source_tree", lambda packages: tree)
        # A worker's log gets what goes to the file descriptor, and not what goes to pytest.
        monkeypatch.setattr(sys, "stderr", sys.__stderr__)

    start()
    return start


def options(runs: Path, **words: Any) -> BenchOptions:
    return BenchOptions(
        dataset="synthetic-20",
        methods="acmr",
        runs=runs,
        devices="cpu",
        wandb="off",
        overrides={"trainer.max_epochs": 6},
        **words,
    )


def job(runs: Path, **words: Any) -> PlannedJob:
    (planned_job,) = make_plan(options(runs, **words), gpu=False)
    planned_job.directory.mkdir(parents=True, exist_ok=True)
    return planned_job


def interrupted(runs: Path, looks: int = 7, **words: Any) -> JobDirectory:
    """A job that was stopped between two of its batches."""
    planned_job = job(runs, **words)
    with pytest.raises(Interrupted):
        run_job(planned_job, "cpu", StopAfter(looks))
    assert planned_job.files.last_checkpoint.is_file() and not planned_job.files.is_done()
    return planned_job.files


def append(path: Path, text: str) -> None:
    path.write_text(f"{path.read_text()}\n{text}\n")


def found(files: JobDirectory) -> dict[str, Any]:
    """The bits that a job has come to: weights, ranks and metrics."""
    content = dict(read_record(files.path).content)
    weights = torch.load(files.last_checkpoint, weights_only=True)["state_dict"]
    with np.load(files.ranks) as ranks:
        arrays = {name: ranks[name].tolist() for name in ranks}
    history = [
        {name: value for name, value in epoch.items() if "seconds" not in name}
        for epoch in content["history"]
    ]
    return {
        "weights": {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
        "ranks": arrays,
        "history": history,
        **{name: content[name] for name in ("metrics", "intervals", "selection", "made_from", "taken_up")},
    }


@pytest.mark.slow
def test_a_job_survives_an_unrelated_pull_and_ends_with_the_same_bits(
    house: Path, new_process: Callable[[], None], tmp_path: Path
) -> None:
    undisturbed = job(tmp_path / "undisturbed")
    run_job(undisturbed, "cpu")
    files = interrupted(tmp_path / "runs")
    append(house / "methods" / "acmr.py", "# The margin is the paper's.")
    append(house / "methods" / "cca.py", "ADDED = 1")
    append(house / "losses" / "ranking.py", "MARGIN = 0.7")
    append(house / "jobs" / "record.py", "ADDED = 1")
    (house / "methods" / "new.py").write_text("class New: pass\n")
    append(house / "methods" / "__init__.py", "from crossmodal_bench.methods.new import New")
    new_process()
    said: list[str] = []
    runner.status(options(tmp_path / "runs"), log=said.append)
    assert said[-1].rstrip().endswith("not started")
    run_job(job(tmp_path / "runs"), "cpu")
    assert files.tags_aside() == []
    assert found(files) == found(undisturbed.files)
    assert state_of(job(tmp_path / "runs")) == State("done")
    # And a record that is there already stays what it is.
    assert state_of(undisturbed) == State("done")


@pytest.mark.slow
def test_a_related_pull_sets_the_checkpoint_aside_and_resume_anyway_takes_it_up(
    house: Path, new_process: Callable[[], None], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    files = interrupted(runs)
    reached = torch.load(files.last_checkpoint, weights_only=True)["global_step"]
    append(house / "losses" / "acmr.py", "ADDED = 1")
    new_process()
    said: list[str] = []
    runner.status(options(runs), log=said.append)
    assert f"starts over; its checkpoint is set aside because {CHANGED}; RERUN=resume-anyway" in said[-1]
    runner.status(options(runs, rerun="resume-anyway"), log=said.append)
    assert said[-1].endswith(f"not started: resumes from its checkpoint although {CHANGED}")
    # Somebody overlooks that, and stops it early.
    interrupted(runs, looks=1)
    (tag,) = files.tags_aside()
    assert tag.startswith("sources-changed-")
    assert torch.load(files.last_checkpoint, weights_only=True)["global_step"] < reached

    assert runner.bench(options(runs, rerun="resume-anyway"), log=said.append) == 0
    assert any("are restored" in line for line in said)
    record = read_record(files.path)
    assert record.taken_up == (CHANGED,)
    assert record.made_from is not None and record.made_from.digest == record.source_fingerprint
    assert "resuming from last.ckpt although" in files.log.read_text()
    why = f"it was resumed from a checkpoint although {CHANGED}"
    assert state_of(job(runs)) == State("stale", why, taken_up=True)
    assert f"taken up: training resumed from a checkpoint although {CHANGED}" in noted(record)
    # It is a row, and neither fresh nor run again unless somebody says so.
    assert runner.bench(options(runs), log=said.append) == 0
    assert read_record(files.path).finished_at == record.finished_at
    assert runner.bench(options(runs, rerun="stale"), log=said.append) == 0
    assert any("are set aside as *.taken-up-" in line for line in said)
    assert read_record(files.path).taken_up == () and state_of(job(runs)) == State("done")


def noted(record: Record) -> list[str]:
    (table,) = tables(leaderboard([record]))
    return notes(table)


@pytest.mark.slow
def test_without_the_word_it_starts_over_and_nothing_is_removed(
    house: Path, new_process: Callable[[], None], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    files = interrupted(runs)
    before = files.last_checkpoint.read_bytes()
    append(house / "losses" / "acmr.py", "ADDED = 1")
    new_process()
    said: list[str] = []
    assert runner.bench(options(runs), log=said.append) == 0
    (tag,) = files.tags_aside()
    assert files.aside(tag)[files.last_checkpoint].read_bytes() == before
    told = [line for line in said if f"set aside as *.{tag}.ckpt" in line]
    assert len(told) == 1 and "RERUN=resume-anyway resumes from them" in told[0]
    assert f"because {CHANGED}" in files.log.read_text()
    assert state_of(job(runs)) == State("done") and read_record(files.path).taken_up == ()


@pytest.mark.slow
def test_a_pull_while_a_bench_runs_is_not_what_its_records_were_made_from(
    house: Path, new_process: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_settle", lambda plan: append(house / "losses" / "acmr.py", "ADDED = 1"))
    assert runner.bench(options(tmp_path / "runs"), log=lambda line: None) == 0
    new_process()
    assert state_of(job(tmp_path / "runs")) == State("stale", CHANGED)


def test_a_worker_elsewhere_is_told_to_go_on_anyway(tmp_path: Path) -> None:
    planned_job = job(tmp_path, rerun="resume-anyway")
    assert planned_job.resume_anyway and not job(tmp_path).resume_anyway
    planned_job.save()
    loaded = PlannedJob.load(planned_job.directory)
    assert loaded.resume_anyway and loaded.fingerprint() == planned_job.fingerprint()
    assert planned.to_json(loaded) == planned.to_json(planned_job)


# ---- in a clone, by processes of their own ----------------------------------------------------------------


def command(*words: str) -> list[str]:
    tiny = ("--dataset", "synthetic-20", "--wandb", "off", "--reference", "off")
    return [sys.executable, "-m", OURS, words[0], *tiny, "--set", "trainer.max_epochs=2", *words[1:]]


def run(clone: Path, *words: str) -> str:
    done = subprocess.run(command(*words), cwd=clone, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment() -> dict[str, str]:
    # The clone's package is found in the working directory, and no other.
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def in_epoch(progress: Path, epoch: int) -> bool:
    return bool(read_json(progress).get("epoch", 0) >= epoch)


def stale_methods(said: str) -> dict[str, str]:
    """Why each stale method is so, as `status` says."""
    lines = [line.split() for line in said.splitlines() if " seed 0 " in line]
    return {words[0]: " ".join(words[5:]) for words in lines if words[4].startswith("stale")}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for folder in (OURS, "experiments"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE.parent / folder, tmp_path / "clone" / folder, ignore=ignored)
    return tmp_path / "clone"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_in_a_clone_only_what_uses_a_changed_loss_becomes_stale(clone: Path) -> None:
    methods = ("--methods", "cca,acmr,scan,addr_scan,gru")
    run(clone, "bench", *methods)
    assert stale_methods(run(clone, "status", *methods)) == {}
    append(clone / OURS / "methods" / "gxn" / "method.py", "# A comment.")
    (clone / OURS / "methods" / "new.py").write_text("class New: pass\n")
    append(clone / OURS / "methods" / "__init__.py", "from crossmodal_bench.methods.new import New")
    (evaluator,) = (clone / OURS / "evaluation").rglob("evaluate.py")
    text = evaluator.read_text()
    assert text.startswith('"""')
    evaluator.write_text(text.replace('"""', '"""In other words: ', 1))
    assert stale_methods(run(clone, "status", *methods)) == {}
    append(clone / OURS / "losses" / "ranking.py", "MARGIN = 0.3")
    stale = stale_methods(run(clone, "status", *methods))
    assert stale.keys() == {"scan", "addr_scan", "gru"}
    assert all("crossmodal_bench.losses.ranking has changed" in why for why in stale.values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_in_a_clone_a_bench_goes_on_behind_an_unrelated_pull(clone: Path) -> None:
    words = ("bench", "--methods", "acmr", "--set", "trainer.max_epochs=30")
    run(clone, *words, "--runs", "undisturbed")
    bench = command(*words, "--runs", "runs")
    process = subprocess.Popen(bench, cwd=clone, stdout=subprocess.DEVNULL, env=environment())
    deadline = time.monotonic() + 300
    while not any(in_epoch(path, 5) for path in clone.glob("runs/*/*/*/progress.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == AGAIN
    append(clone / OURS / "methods" / "cca.py", "ADDED = 1")
    append(clone / OURS / "training" / "worker.py", "# Why.")
    run(clone, *words, "--runs", "runs")
    (undisturbed,) = JobDirectory.all_below(clone / "undisturbed")
    (resumed,) = (files for files in JobDirectory.all_below(clone / "runs") if files.is_done())
    assert found(resumed) == found(undisturbed) and resumed.tags_aside() == []
