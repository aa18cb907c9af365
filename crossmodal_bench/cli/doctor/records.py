"""What is in RUNS: interrupted jobs, damaged records, dates in the future, runs not yet uploaded to W&B."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from crossmodal_bench.cli.doctor.findings import Finding, Target, existing
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.directory import JobDirectory

SKEW = 5.0
"""Tolerated clock offset of a file server, in seconds."""
SHOWN = 3


def jobs(target: Target) -> Iterator[Finding]:
    """Running, failed and interrupted jobs, and unreadable records."""
    from crossmodal_bench.jobs.locks import is_locked
    from crossmodal_bench.jobs.record import read_record

    running: list[Path] = []
    failed: list[str] = []
    left: list[Path] = []
    damaged: list[str] = []
    foreign: list[Path] = []
    done = 0
    for files in _job_directories(target.runs):
        folder = files.path
        if files.is_done():
            try:
                read_record(folder)
                done += 1
            except BadInput as error:
                damaged.append(str(error))
            continue
        if files.lock.exists() and not os.access(files.lock, os.R_OK | os.W_OK, effective_ids=True):
            foreign.append(folder)
        elif is_locked(folder):
            running.append(folder)
        elif files.error.is_file():
            failed.append(f"{folder}: {files.read_error().get('message', '')}")
        elif files.progress.is_file():
            left.append(folder)
    yield Finding("jobs", "ok", f"{done or 'none'} finished in {target.runs}")
    again = "run the same bench again"
    if running:
        yield Finding("running", "information", f"{_some(running)}: a process holds the lock")
    if left:
        text = f"{_some(left)}: interrupted by a kill or a power cut"
        yield Finding("left behind", "warning", text, f"{again}: it resumes after the last finished epoch")
    if failed:
        yield Finding("failed", "warning", _some(failed), f"fix what the message says, and {again}")
    if foreign:
        text = f"{_some(foreign)}: locked by a file of another user that cannot be opened"
        fix = f"have that user run chmod -R g+rwX '{target.runs}', or use other RUNS"
        yield Finding("locks", "problem", text, fix)
    for sentence in damaged[:SHOWN]:
        yield Finding("damaged record", "problem", sentence, f"remove that file, and {again}")


def clock(target: Target) -> Iterator[Finding]:
    """Compare this machine's clock with the disk's, and with the dates in RUNS."""
    there = existing(target.runs)
    if there.is_dir() and os.access(there, os.W_OK):
        with tempfile.NamedTemporaryFile(dir=there, prefix=".crossmodal-bench-doctor-") as probe:
            off = os.stat(probe.name).st_mtime - time.time()
        if abs(off) > SKEW:
            text = f"the clock of {there}'s server differs by {off:+.0f} s from this machine's"
            yield Finding("clock", "warning", text, "synchronise the clocks of both machines (chrony, ntpd)")
            return
    now = time.time() + SKEW
    future = [
        path
        for files in _job_directories(target.runs)
        for path in files.path.iterdir()
        if path.is_file() and path.stat().st_mtime > now
    ]
    if future:
        text = f"{_some(future)}: dated after {datetime.now():%Y-%m-%d %H:%M}, this machine's current time"
        fix = "set the clock (timedatectl set-ntp true), or touch these files if the clock is right"
        yield Finding("clock", "warning", text, fix)
    else:
        yield Finding("clock", "ok", f"{datetime.now():%Y-%m-%d %H:%M}, and no file in RUNS is dated later")


def wandb(target: Target) -> Iterator[Finding]:
    """Whether W&B is logged in, and what WANDB=auto means."""
    from crossmodal_bench.reporting.wandb.mode import logged_in, resolve_mode

    known = logged_in()
    try:
        mode = resolve_mode("auto")
    except BadInput as error:
        fix = "unset WANDB_MODE, or set it to offline; or give WANDB=off"
        yield Finding("W&B", "problem", str(error), fix)
    else:
        state = "logged in" if known else "not logged in (wandb login)"
        yield Finding("W&B", "ok" if known else "information", f"{state}; WANDB=auto means {mode}")


def uploads(target: Target) -> Iterator[Finding]:
    """Offline runs that have not been uploaded."""
    waiting = [
        run
        for files in _job_directories(target.runs)
        for run in files.offline_wandb_runs()
        if not any(run.glob("*.synced"))
    ]
    if waiting:
        text = f"{len(waiting)} offline runs have not been uploaded"
        yield Finding("W&B runs", "information", text, f"crossmodal-bench sync --runs {target.runs}")


def _job_directories(runs: Path) -> list[JobDirectory]:
    """Existing job directories; features and reports are at the same depth."""
    return [
        files
        for files in JobDirectory.all_below(runs)
        if files.path.is_dir() and files.path.parts[-3] not in ("cache", "report")
    ]


def _some(jobs: Sequence[Path | str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(jobs) - SHOWN} more" if len(jobs) > SHOWN else ""
    return ", ".join(map(str, jobs[:SHOWN])) + more
