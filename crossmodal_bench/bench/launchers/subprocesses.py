"""Workers: forked from the parent, which has everything imported, or fresh processes without fork."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from threadpoolctl import threadpool_limits

from crossmodal_bench.core.atomic_files import NO_ROOM
from crossmodal_bench.core.errors import BadInput, Diverged, out_of_memory, tell
from crossmodal_bench.core.process_group import global_rank
from crossmodal_bench.core.signals import AGAIN, Interrupted, StopRequest, listen_deferred
from crossmodal_bench.jobs.directory import ErrorKind, JobDirectory
from crossmodal_bench.jobs.locks import Taken, locked
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.state import state_of
from crossmodal_bench.reporting.wandb.live import is_switched_on, start_following
from crossmodal_bench.training.devices import can_fork

if TYPE_CHECKING:
    from crossmodal_bench.training.generated_outputs import GeneratedOutputs

PARENT = "CROSSMODAL_BENCH_PARENT"
"""Environment variable with the id of the process that a fresh worker must not outlive."""
THREADS = "OMP_NUM_THREADS"
"""Environment variable with the number of threads of a process."""
TAKEN = 3
"""Exit status of a worker whose job is being run, or was just finished, by another process."""
PATIENCE = 15.0
"""Seconds for the other processes of a job to notice that one has failed."""
TIME_TO_SAVE = 60.0
"""Seconds for a process to save a checkpoint before it is killed."""
Run = Callable[[PlannedJob, str, StopRequest], None]


class Worker:
    """A job's process, or one process per device; their output goes to ``log.txt`` in the job's directory.

    If one of several fails, the others would wait for it forever, so they are ended soon after.

    Args:
        planned: the job.
        devices: as for ``run_job``.
        environment: environment variables of the processes: visible GPUs, number of threads.
    """

    def __init__(
        self, planned: PlannedJob, devices: str, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.planned = planned
        planned.directory.mkdir(parents=True, exist_ok=True)
        planned.files.clear_last_run()
        # An unwritable log must be reported here: the process itself could not report it anywhere.
        planned.files.open_log().close()
        self._processes: list[Any] = []
        self._failed: tuple[int, int] | None = None
        self._failed_at = 0.0
        if can_fork(devices):
            context = multiprocessing.get_context("fork")
            process = context.Process(target=_forked, args=(planned, devices, os.getpid(), environment))
            process.start()
            self._processes.append(process)
            return
        planned.save()
        module = "crossmodal_bench.bench.launchers.job"
        command = [sys.executable, "-m", module, str(planned.directory), devices, *planned.plugins]
        with planned.files.open_log() as log:
            for variables in _process_variables(int(devices) if devices.isdigit() else 1):
                variables = {**os.environ, **environment, PARENT: str(os.getpid()), **variables}
                self._processes.append(
                    subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=variables)
                )

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        deadline = time.monotonic() + seconds
        while True:
            statuses = [_status(process) for process in self._processes]
            if self._failed is None:
                self._failed = next(((n, status) for n, status in enumerate(statuses) if status), None)
                self._failed_at = time.monotonic()
            if None not in statuses:
                self._explain()
                return True
            if self._failed is not None and time.monotonic() - self._failed_at > PATIENCE:
                self._signal(signal.SIGKILL)
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)

    @property
    def exit_code(self) -> int | None:
        """Its exit status, of several the first failure's; negative for a signal, None while running."""
        if any(_status(process) is None for process in self._processes):
            return None
        return 0 if self._failed is None else self._failed[1]

    def terminate(self) -> None:
        """Ask it to end, without waiting."""
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """End it, leaving it time to save a checkpoint."""
        self.terminate()
        if not self.wait(TIME_TO_SAVE):
            self._signal(signal.SIGKILL)
            self.wait(10)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            if _status(process) is None:
                os.kill(process.pid, number)

    def _explain(self) -> None:
        """Report which process failed first: the others only complain that it is gone."""
        if len(self._processes) == 1 or self._failed is None:
            return
        number, status = self._failed
        if status == AGAIN:
            self.planned.files.error.unlink(missing_ok=True)
        elif status < 0:
            sentence = f"process {number + 1} of {len(self._processes)} was {how_it_ended(status)}"
            self.planned.files.write_error("error", sentence)


def how_it_ended(status: int | None) -> str:
    """How a process ended that left no message."""
    if status is not None and status < 0:
        hint = "; the system may have run out of memory" if status == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-status).name}{hint}"
    return f"ended with status {status}"


def _status(process: Any) -> int | None:
    """Its exit status, None while running."""
    status = process.poll() if isinstance(process, subprocess.Popen) else process.exitcode
    return None if status is None else int(status)


def _process_variables(count: int) -> list[dict[str, str]]:
    """The variables that Lightning reads in each of ``count`` processes on this machine."""
    if count == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    return [{**group, "LOCAL_RANK": str(rank)} for rank in range(count)]


def _forked(planned: PlannedJob, devices: str, parent: int, environment: Mapping[str, str]) -> None:
    request = listen_deferred()
    follow(parent)
    os.environ.update(environment)
    if THREADS in environment:
        limit_threads(int(environment[THREADS]))
    with planned.files.open_log() as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.exit(guarded(planned, devices, request=request))


def limit_threads(threads: int) -> None:
    """Set the threads of a process whose libraries are already loaded, for which THREADS comes too late."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)


def follow(parent: int) -> None:
    """Make this process end with its parent, and leave Ctrl-C to the parent.

    Ctrl-C reaches the whole process group, and the parent decides what it means. A worker that outlived a
    killed bench would keep its job locked for the next one, so it saves its state and ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(TIME_TO_SAVE)
    os._exit(1)


def guarded(
    planned: PlannedJob, devices: str, run: Run | None = None, request: StopRequest | None = None
) -> int:
    """Run the job under its lock; errors go to ``error.json`` and the exit status.

    Args:
        planned: the job.
        devices: as for ``run_job``.
        run: used in place of ``run_job``.
        request: that of a process that already listens for signals; deferred until here.

    Returns:
        0; 1 if it failed; 2 if its input was bad; 75 if it was asked to stop and can be resumed; ``TAKEN`` if
        another process is running it or has finished it.
    """
    if request is None:
        request = listen_deferred()
    if run is None:
        from crossmodal_bench.training.worker import run_job

        keep = planned.files.write_epochs if is_switched_on() else None
        run = partial(run_job, illustrate=_illustrate, keep=keep)
    try:
        request.deferred = False
        request.check()
        if global_rank() > 0:
            run(planned, devices, request)
        else:
            with locked(planned.directory):
                if state_of(planned).name == "done":
                    # Finished by another bench since this one last checked.
                    return TAKEN
                start_following(planned.job, planned.files)
                run(planned, devices, request)
    except Interrupted:
        print("interrupted; the training so far is saved", file=sys.stderr)
        return AGAIN
    except Taken as error:
        tell(str(error), sys.stderr)
        return TAKEN
    except (BadInput, Diverged) as error:
        tell(str(error), sys.stderr)
        is_bad_input = isinstance(error, BadInput)
        _note(planned.directory, "bad input" if is_bad_input else "error", str(error))
        return 2 if is_bad_input else 1
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            sentence = f"{planned.directory} cannot be written ({error.strerror}); free space and run again"
            _note(planned.directory, "bad input", sentence)
            return 2
        no_memory = out_of_memory(error)
        if no_memory is not None:
            _note(planned.directory, "error", no_memory)
            return 1
        lines = str(error).strip().splitlines() or ["no message"]
        _note(planned.directory, "error", f"{type(error).__name__}: {lines[0]}")
        return 1
    return 0


def _illustrate(outputs: GeneratedOutputs) -> None:
    """Save what reports show besides the numbers: panels, and the split's captions and thumbnails."""
    from crossmodal_bench.reporting.figures.qualitative import save_panels
    from crossmodal_bench.reporting.page.gallery import keep_gallery

    save_panels(outputs)
    keep_gallery(outputs.files, outputs.corpus, outputs.split)


def _note(directory: Path, kind: ErrorKind, message: str) -> None:
    files = JobDirectory(directory)
    if files.error.is_file():
        # The first of several processes to fail knows the cause.
        return
    try:
        files.write_error(kind, message)
    except OSError:
        tell(f"{files.error} cannot be written: {message}", sys.stderr)
