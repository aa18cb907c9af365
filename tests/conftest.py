"""Fake records, to which a test gives only what it is about; and commands that start at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from users import NOBODY

from crossmodal_bench.core import signals
from crossmodal_bench.core.class_paths import trust
from crossmodal_bench.core.signals import ASKING
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.record import Record, read_record, write_record
from crossmodal_bench.reporting.figures import drawing


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Signals are handled behind a test as before it: what runs in the tests' own process may listen."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ASKING)}
    yield
    signals._listening = None
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def nothing_trusted() -> Iterator[None]:
    """What a test trusts, and the files that it gives, are unknown to the next."""
    yield
    trust(())
    experiments.forget_given_files()


MAP = {"i2t/mAP": 0.5, "t2i/mAP": 0.4, "mAP": 0.45, "i2t/mAP@50": 0.55, "t2i/mAP@50": 0.45, "mAP@50": 0.5}
RECALL = {f"{side}/R@{k}": 10.0 + k for side in ("i2t", "t2i") for k in (1, 5, 10)} | {"rsum": 92.0}


def content(**changes: Any) -> dict[str, Any]:
    """A whole record as JSON; ``changes`` are its top-level fields, or the job's."""
    job = {
        "id": "",
        "method": "acmr",
        "dataset": "wikipedia",
        "protocol": "wikipedia-2173-map",
        "preset": "small",
        "seed": 0,
        "suite": None,
        "label": "",
        "overrides": {},
    }
    job |= {name: changes.pop(name) for name in list(changes) if name in job}
    job["id"] = job["id"] or hashlib.sha256(repr(sorted(job.items(), key=str)).encode()).hexdigest()[:16]
    pairs = {"train": 2173, "test": 693}
    record = {
        "job": job,
        "evaluated_on": "test",
        "data": {
            "fingerprint": "d" * 64,
            "split_hash": "5" * 16,
            "counts": {split: {"images": count, "captions": count} for split, count in pairs.items()},
            "labels": {"kind": "real", "count": 10, "rule": "the category"},
            "features": None,
        },
        "source_fingerprint": "e" * 64,
        "selection": {"metric": None, "epoch": None, "rule": "last epoch: no validation split"},
        "protocol_version": 1,
        "metrics": dict(MAP),
        "intervals": {name: [value - 0.02, value + 0.04] for name, value in MAP.items()},
        "curves": {
            f"{side}/precision_scope": {"scope": [50, 100, 200], "precision": [0.5, 0.4, 0.3]}
            for side in ("i2t", "t2i")
        },
        "history": [
            {"epoch": epoch, "train/loss_embedding": 1 / (1 + epoch), "train/loss_adversarial": 0.69}
            for epoch in range(4)
        ],
        "cost": {"parameters": 1234567, "train_samples_per_second": 1500.0, "train_seconds": 12.5},
        "environment": {"python": "3.11.7", "device": "cpu"},
        "encoders": [
            {"image": {"network": None, "dim": 128}, "text": {"encoder": None, "dim": 10}},
        ],
        "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": "2026-01-01T00:01:00+00:00",
    }
    return record | changes


@pytest.fixture
def make_content() -> Callable[..., dict[str, Any]]:
    return content


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def anothers_runs() -> Iterator[Path]:
    """A folder of runs whose owner is not the user that the test runs as, who may read it."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    # pytest's own folders are closed to others.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


@pytest.fixture
def make_record(runs: Path) -> Callable[..., Record]:
    """Writes a fake record where the bench would, and reads it back."""

    def make(**changes: Any) -> Record:
        record = content(**changes)
        job = record["job"]
        return read_record(write_record(runs / job["dataset"] / job["method"] / job["id"], record))

    return make


@pytest.fixture
def make_recall_record(make_record: Callable[..., Record]) -> Callable[..., Record]:
    """A record of a recall protocol, its metrics shifted by ``by`` points."""

    def make(by: float = 0.0, **changes: Any) -> Record:
        metrics = {name: value + by for name, value in RECALL.items()}
        bounds = {name: [value - 2.0, value + 2.0] for name, value in metrics.items()}
        defaults = {"dataset": "flickr8k", "protocol": "flickr8k-1k", "metrics": metrics, "intervals": bounds}
        return make_record(**{**defaults, "curves": {}, **changes})

    return make


@pytest.fixture
def copied_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the experiments, in their place, to which the test may add."""
    copy = tmp_path / "experiments"
    shutil.copytree(experiments.experiments_folder(), copy)
    monkeypatch.setattr(experiments, "experiments_folder", lambda: copy)
    experiments._file.cache_clear()
    yield copy
    experiments._file.cache_clear()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn, to look at what is in them."""
    seen: list[Figure] = []
    png = drawing.png

    def keep(figure: Figure) -> bytes:
        seen.append(figure)
        return png(figure)

    monkeypatch.setattr(drawing, "png", keep)
    return seen


SERVER = """
import json, os, runpy, sys, time
import crossmodal_bench.bench.runner, crossmodal_bench.training.worker
for line in sys.stdin:
    request = json.loads(line)
    if "end" in request:
        break
    if "words" in request:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.chdir(request["folder"])
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ["crossmodal_bench", *request["words"]]
            runpy.run_module("crossmodal_bench", run_name="__main__", alter_sys=True)
        print(pid, flush=True)
    else:
        deadline = time.monotonic() + request["seconds"]
        pid = 0
        while not pid and time.monotonic() < deadline:
            pid, status = os.waitpid(request["pid"], os.WNOHANG)
            time.sleep(0.02)
        print(os.waitstatus_to_exitcode(status) if pid else "still running", flush=True)
"""


@dataclass(frozen=True)
class Command:
    """`python -m crossmodal_bench WORDS`, started."""

    server: subprocess.Popen[str]
    pid: int
    out: Path
    err: Path

    def wait(self, seconds: float = 120) -> int:
        """Its exit status; negative for a signal."""
        return int(_ask(self.server, {"pid": self.pid, "seconds": seconds}))

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)


def _ask(server: subprocess.Popen[str], request: dict[str, Any]) -> str:
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return server.stdout.readline().strip()


@pytest.fixture(scope="session")
def _server() -> Iterator[subprocess.Popen[str]]:
    # Importing torch and Lightning for every command would cost more than all the rest of the tests.
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with server:
        yield server
        assert server.stdin is not None
        # Closing its input is not enough: a process that a test has forked from this one, such as a data
        # loader's, may hold the other end too.
        server.stdin.write('{"end": true}\n')
        server.stdin.close()


@pytest.fixture(scope="session")
def start(_server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Command]:
    """Starts a command in a folder, from a process that has everything imported and has computed nothing."""

    def start(*words: object, folder: Path) -> Command:
        output = tmp_path_factory.mktemp("output")
        out, err = output / "out", output / "err"
        request = {"words": [str(word) for word in words], "folder": str(folder)}
        pid = int(_ask(_server, {**request, "out": str(out), "err": str(err)}))
        return Command(_server, pid, out, err)

    return start


def write_arrays(root: Path, name: str = "pascal_sentence", train: int = 60, test: int = 20) -> None:
    """A fake of Pascal Sentence or NUS-WIDE-10K: classes that both modalities show."""
    rng = np.random.default_rng(0)
    (root / name).mkdir(parents=True)
    for part, count in (("train", train), ("test", test)):
        labels = np.arange(count) % 4
        for what, width in (("images", 12), ("texts", 8)):
            centres = np.random.default_rng(width).normal(size=(4, width))
            values = centres[labels] + 0.1 * rng.normal(size=(count, width))
            np.save(root / name / f"{part}_{what}.npy", values.astype(np.float32))
        np.save(root / name / f"{part}_labels.npy", labels)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a fake of Pascal Sentence and nothing else."""
    root = tmp_path_factory.mktemp("data")
    write_arrays(root)
    return root


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Record]:
    """The record of a method's job, after one epoch on twenty synthetic scenes; each is trained once."""
    # transformers and Lightning take seconds to import, and few tests train.
    import dual_encoders

    from crossmodal_bench.bench.options import BenchOptions
    from crossmodal_bench.bench.plan import make_plan
    from crossmodal_bench.training.worker import run_job

    runs = tmp_path_factory.mktemp("trained") / "runs"
    records: dict[str, Record] = {}

    def train(method: str) -> Record:
        if method not in records:
            options = BenchOptions(
                dataset="synthetic-20",
                data_root=Path("no data root"),
                runs=runs,
                methods=method,
                seeds=1,
                network=dual_encoders.tiny() if method == "clip" else None,
                overrides={"trainer.max_epochs": 1},
            )
            # Parents come first.
            for planned in make_plan(options, gpu=False):
                planned.directory.mkdir(parents=True, exist_ok=True)
                if not planned.files.is_done():
                    run_job(planned, "cpu")
                records[planned.job.method] = read_record(planned.directory)
        return records[method]

    return train


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium that the system has, without a network."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium is on the PATH; install your system's (Debian: apt-get install chromium)")
    playwright_api = pytest.importorskip("playwright.sync_api")
    with playwright_api.sync_playwright() as playwright:
        # Its sandbox needs rights that a container's root lacks; the page is ours.
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()
