"""`python interrupted.py FOLDER SEED COUNT`: benches that are told to stop, each at a random moment.

Everything is imported once; every bench is a fork of that, in a session and a folder of its own. One that
nobody disturbs says how long it takes. Prints a line of JSON for each bench.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import psutil

from crossmodal_bench.bench import ensembles, runner  # noqa: F401
from crossmodal_bench.cli.main import main
from crossmodal_bench.core.signals import ASKING
from crossmodal_bench.reporting import report  # noqa: F401
from crossmodal_bench.training import worker  # noqa: F401

WORDS = ("bench", "--dataset", "synthetic-20", "--methods", "cca,acmr", "--wandb", "off")
SHORT = ("--reference", "off", "--set", "trainer.max_epochs=2", "--set", "data.num_workers=0")


def start(folder: Path) -> int:
    """Start a bench in ``folder``; its process, which is the first of a session."""
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        return child
    os.setsid()
    os.chdir(folder)
    for descriptor, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    # As the program itself, whose end is that of the process.
    sys.argv[1:] = [*WORDS, *SHORT]
    try:
        status = main()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """Its exit status; None where it is killed because it took longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def left_behind(session: int) -> int:
    """How many processes of a session are still there."""
    count = 0
    for process in psutil.process_iter():
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE and os.getsid(process.pid) == session
        except (psutil.Error, ProcessLookupError):
            continue
        count += alive
    return count


def disturbed(folder: Path, moment: float, number: signal.Signals, repeats: int) -> dict[str, object]:
    """What became of a bench that was told to stop ``moment`` seconds after it listened."""
    child = start(folder)
    while not (folder / "err.txt").exists():
        time.sleep(0.001)
    time.sleep(moment)
    told = time.monotonic()
    for _ in range(repeats):
        os.kill(child, number)
        time.sleep(0.002)
    status = wait(child, 60)
    took = time.monotonic() - told
    # What a killed process had started itself (a data loader, say) takes a moment to notice.
    deadline = time.monotonic() + 5
    while (left := left_behind(child)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return {
        "folder": str(folder),
        "moment": moment,
        "signal": number.name,
        "status": status,
        "took": took,
        "left": left,
        "out": (folder / "out.txt").read_text(),
        "err": (folder / "err.txt").read_text(),
    }


def run(folder: Path, seed: int, count: int) -> None:
    """Disturb ``count`` benches."""
    began = time.monotonic()
    assert wait(start(folder / "undisturbed"), 600) == 0
    whole = time.monotonic() - began
    rng = random.Random(seed)
    for number in range(count):
        moment = rng.uniform(0.0, whole)
        told = disturbed(
            folder / str(number), moment, rng.choice((signal.SIGINT, *ASKING)), rng.choice((1, 1, 2))
        )
        print(json.dumps({**told, "whole": whole}), flush=True)


if __name__ == "__main__":
    # Each with one thread, as several run at a time.
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
