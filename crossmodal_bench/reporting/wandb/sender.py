"""`python -m crossmodal_bench.reporting.wandb.sender DIRECTORY`: a job's W&B run, sent beside the bench."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record, read_record
from crossmodal_bench.reporting import wandb

TIMEOUT = 900
"""Seconds after which a server that does not take a run is given up."""


def tell_wandb(record: Record, directory: Path, mode: str) -> str | None:
    """Write the job's run, or leave that to a process of its own where a server takes part in it.

    A server that cannot be reached may keep a client waiting for minutes; a bench does not wait for it, and
    goes on whatever comes of it.

    Returns:
        None, or a sentence on why there is no run.
    """
    if mode != "online":
        return wandb.log_record(record, directory, mode)
    command = [sys.executable, "-m", "crossmodal_bench.reporting.wandb.sender", str(directory)]
    try:
        with JobDirectory(directory).open_wandb_log() as log:
            # A session of its own: Ctrl-C is meant for the bench.
            subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
    except (OSError, BadInput) as error:
        return f"W&B has no run for job {record.job.id} ({error}); its record is safe in {record.directory}"
    return None


def send(directory: Path) -> int:
    """Send a job's run; where that fails, write it for `wandb sync`. The exit status."""
    record = read_record(directory)
    signal.alarm(TIMEOUT)
    warning = wandb.log_record(record, directory, "online")
    if warning is None:
        print(f"sent run {record.job.id}")
        return 0
    print(warning)
    warning = wandb.log_record(record, directory, "offline")
    print(warning or f"`wandb sync {directory}/wandb/offline-run-*` sends it when the server can be reached")
    return 1


if __name__ == "__main__":
    sys.exit(send(Path(sys.argv[1])))
