"""Workers: forked from the parent that has everything imported, or fresh processes where there is no fork."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from crossmodal_bench.bench.plan import PlannedJob
from crossmodal_bench.bench.process_group import global_rank
from crossmodal_bench.bench.record import Job
from crossmodal_bench.bench.state import ERROR, LOG, PROGRESS, Taken, locked, state_of, write_json
from crossmodal_bench.errors import BadInput, Diverged
from crossmodal_bench.evaluation.protocols import Protocol

PLANNED = "planned.json"
PARENT = "CROSSMODAL_BENCH_PARENT"
"""Environment variable with the process that a fresh worker must not outlive."""
THREADS = "OMP_NUM_THREADS"
"""Environment variable with the threads of a process."""
TAKEN = 3
"""Exit status of a worker whose job is, or was just, another's."""


def has_accelerator() -> bool:
    """Whether torch sees something faster than the CPU; a process that used it cannot fork."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def can_fork(devices: str) -> bool:
    """One CPU process, on a system that forks: importing torch and Lightning again costs seconds a job."""
    on_cpu = devices == "cpu" or not has_accelerator()
    return on_cpu and devices in ("auto", "cpu", "1") and "fork" in multiprocessing.get_all_start_methods()


class Worker:
    """A job's process; its output goes to ``log.txt`` in the job's directory.

    Args:
        planned: the job.
        devices: as for ``run_job``.
        environment: variables of the process: the GPUs that it sees, its number of threads.
    """

    def __init__(
        self, planned: PlannedJob, devices: str, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.planned = planned
        planned.directory.mkdir(parents=True, exist_ok=True)
        for left in (ERROR, PROGRESS):
            (planned.directory / left).unlink(missing_ok=True)
        self._process: Any
        if can_fork(devices):
            context = multiprocessing.get_context("fork")
            self._process = context.Process(target=_forked, args=(planned, devices, os.getpid(), environment))
            self._process.start()
        else:
            write_json(planned.directory / PLANNED, to_json(planned))
            command = [sys.executable, "-m", "crossmodal_bench.bench.job", str(planned.directory), devices]
            with (planned.directory / LOG).open("a") as log:
                self._process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment, PARENT: str(os.getpid())},
                )

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        if isinstance(self._process, subprocess.Popen):
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                return False
            return True
        self._process.join(seconds)
        return self._process.exitcode is not None

    @property
    def exit_code(self) -> int | None:
        """Its exit status; negative for a signal."""
        code = getattr(self._process, "exitcode", None)
        return self._process.returncode if isinstance(self._process, subprocess.Popen) else code

    def terminate(self) -> None:
        """Tell it to end, and do not wait until it has."""
        self._process.terminate()

    def stop(self) -> None:
        """End it; what its last finished epoch saved stays."""
        self.terminate()
        if not self.wait(10):
            self._process.kill()
            self.wait(10)


def _forked(planned: PlannedJob, devices: str, parent: int, environment: Mapping[str, str]) -> None:
    follow(parent)
    os.environ.update(environment)
    if THREADS in environment:
        limit_threads(int(environment[THREADS]))
    with (planned.directory / LOG).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.exit(guarded(planned, devices))


def limit_threads(threads: int) -> None:
    """For a process that has its libraries loaded: for it, THREADS comes too late."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)


def follow(parent: int) -> None:
    """Make this process end with its parent, and leave the terminal's Ctrl-C to it.

    Ctrl-C reaches the whole group, and the parent decides what it means. A worker that outlives a killed
    bench would hold its job's lock against the next one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def guarded(planned: PlannedJob, devices: str, run: Callable[[PlannedJob, str], None] | None = None) -> int:
    """Run the job under its lock; what goes wrong lands in ``error.json`` and in the exit status.

    Returns:
        0; 1 where it failed; 2 where its input was bad; ``TAKEN`` where it is another process's, or was.
    """
    if run is None:
        from crossmodal_bench.bench.worker import run_job

        run = run_job
    try:
        if global_rank() > 0:
            run(planned, devices)
        else:
            with locked(planned.directory):
                if state_of(planned).name == "done":
                    # By another bench, since this one had last looked.
                    return TAKEN
                run(planned, devices)
    except Taken as error:
        print(error, file=sys.stderr)
        return TAKEN
    except BadInput as error:
        print(error, file=sys.stderr)
        _note(planned.directory, "bad input", str(error))
        return 2
    except Diverged as error:
        print(error, file=sys.stderr)
        _note(planned.directory, "error", str(error))
        return 1
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            sentence = f"{planned.directory} cannot be written ({error.strerror}); free space and run again"
            _note(planned.directory, "bad input", sentence)
            return 2
        lines = str(error).strip().splitlines() or ["no message"]
        _note(planned.directory, "error", f"{type(error).__name__}: {lines[0]}")
        return 1
    return 0


def _note(directory: Path, kind: str, message: str) -> None:
    try:
        write_json(directory / ERROR, {"kind": kind, "message": message})
    except OSError:
        print(f"{directory / ERROR} cannot be written: {message}", file=sys.stderr)


def to_json(planned: PlannedJob) -> dict[str, Any]:
    """A planned job for another process, which reads the corpus itself."""
    content = {
        one.name: getattr(planned, one.name)
        for one in fields(planned)
        if one.name not in ("corpus", "parents")
    }
    plain = json.loads(json.dumps(content, default=lambda value: getattr(value, "__dict__", str(value))))
    return {**plain, "parents": {name: to_json(parent) for name, parent in planned.parents.items()}}


def from_json(content: dict[str, Any]) -> PlannedJob:
    """The inverse of ``to_json``."""
    return PlannedJob(
        **{
            **content,
            "job": Job(**content["job"]),
            "protocols": [_protocol(one) for one in content["protocols"]],
            "directory": Path(content["directory"]),
            "parents": {name: from_json(parent) for name, parent in content["parents"].items()},
        }
    )


def _protocol(content: dict[str, Any]) -> Protocol:
    captions = content["captions"]
    return Protocol(**{**content, "captions": tuple(captions) if isinstance(captions, list) else captions})
