"""Two users of one group share a folder of runs, and its work."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from users import FIRST, GROUP, SECOND

from crossmodal_bench.bench import ensembles, runner  # noqa: F401
from crossmodal_bench.cli.main import main
from crossmodal_bench.core.signals import AGAIN
from crossmodal_bench.jobs.record import read_records
from crossmodal_bench.reporting import report  # noqa: F401
from crossmodal_bench.training import worker  # noqa: F401

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users"),
]
TINY = ("--dataset", "synthetic-20", "--wandb", "off", "--reference", "off")
LONG = ("--methods", "acmr", "--set", "trainer.max_epochs=300")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that both may write to, whose files are the group's."""
    # pytest's own folders are closed to others.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    runs = folder / "runs"
    runs.mkdir()
    os.chown(runs, 0, GROUP)
    runs.chmod(0o2775)
    yield runs
    shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Everything of Python's own: its folder may be closed to other users, as that of root's home is."""
    shown = {
        "antigravity",
        "this",
        "idlelib",
        "turtledemo",
        "lib2to3",
        "test",
        "tkinter",
        "turtle",
        "__main__",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sys.stdlib_module_names - shown:
            with contextlib.suppress(ImportError):
                package = importlib.import_module(name)
                for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                    if module.name not in ("__main__", "test", "tests"):
                        with contextlib.suppress(ImportError):
                            importlib.import_module(f"{name}.{module.name}")


def start(user: int, *words: str, runs: Path, output: Path) -> int:
    """A command of a user whose files their group may change; its process."""
    child = os.fork()
    if child:
        return child
    handle = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    # pytest has its own in their place.
    sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1)
    os.setsid()
    os.setgroups([GROUP])
    os.setresgid(GROUP, GROUP, GROUP)
    os.setresuid(user, user, user)
    os.umask(0o002)
    os.chdir(runs.parent)
    try:
        status = main([*words, "--runs", str(runs)])
    except BaseException:
        traceback.print_exc()
        status = 99
    os._exit(status)


@pytest.fixture
def run(shared: Path, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs a command as a user; its status and all that it printed."""

    def run(user: int, *words: str) -> tuple[int, str]:
        output = tmp_path / "output.txt"
        child = start(user, *words, runs=shared, output=output)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output.read_text()

    return run


def test_what_one_has_done_the_other_need_not(run: Callable[..., tuple[int, str]], shared: Path) -> None:
    status, text = run(FIRST, "bench", *TINY, "--methods", "cca")
    assert status == 0, text
    status, text = run(SECOND, "status", *TINY, "--methods", "cca,acmr")
    assert status == 0 and "seed 0  done" in text and "seed 0  not started" in text
    status, text = run(SECOND, "bench", *TINY, "--methods", "cca,acmr")
    assert status == 0, text
    assert "1 to run" in text and "2 of 2 jobs done" in text
    owners = {record.job.method: record.directory.stat().st_uid for record in read_records(shared)}
    assert owners == {"cca": FIRST, "acmr": SECOND}
    # The report is the second's by now; the first makes it anew.
    status, text = run(FIRST, "report")
    assert status == 0 and "Report: " in text, text
    status, text = run(FIRST, "bench", *TINY, "--methods", "cca,acmr", "--rerun", "stale")
    assert status == 0 and "to run" not in text, text


def test_one_goes_on_with_what_the_other_has_begun(
    run: Callable[..., tuple[int, str]], shared: Path, tmp_path: Path
) -> None:
    first = start(FIRST, "bench", *TINY, *LONG, runs=shared, output=tmp_path / "first.txt")
    deadline = time.monotonic() + 300
    while not list(shared.glob("*/acmr/*/last.ckpt")):
        assert time.monotonic() < deadline, (tmp_path / "first.txt").read_text()
        time.sleep(0.05)
    os.kill(first, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == AGAIN
    status, text = run(SECOND, "bench", *TINY, *LONG)
    assert status == 0, text
    (record,) = read_records(shared)
    assert len(record.history) == 300
    # A checkpoint from which it could not go on would have been set aside.
    assert not list(record.directory.glob("last.*-*.ckpt"))


def test_two_at_once_share_the_jobs(
    run: Callable[..., tuple[int, str]], shared: Path, tmp_path: Path
) -> None:
    words = ("bench", *TINY, "--methods", "cca,sm,acmr", "--seeds", "2")
    first = start(FIRST, *words, runs=shared, output=tmp_path / "first.txt")
    status, text = run(SECOND, *words)
    assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == 0, (tmp_path / "first.txt").read_text()
    assert status == 0, text
    assert "jobs done" in text
    jobs = [(record.job.method, record.job.seed) for record in read_records(shared)]
    assert len(jobs) == len(set(jobs)) >= 4
