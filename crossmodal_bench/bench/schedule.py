"""Which job starts when: several at a time, children behind their parents, and others' jobs waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from crossmodal_bench.bench.dependencies import needs
from crossmodal_bench.bench.launchers.base import Launched, Launcher, Slot
from crossmodal_bench.bench.launchers.subprocesses import TAKEN
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.progress import StatusLine, clock, doing, seconds_left
from crossmodal_bench.bench.runtime_estimate import Kind, kind_of
from crossmodal_bench.jobs.locks import holder, is_locked
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.state import state_of, unfinished_parents

POLL, LOOK = 0.2, 1.0
"""Seconds between two looks at the running jobs, and at those that cannot start yet."""


@dataclass(frozen=True)
class _Running:
    planned: PlannedJob
    worker: Launched
    slot: Slot
    since: float


class Schedule:
    """Runs jobs until none is left to start or to wait for.

    Args:
        jobs: those to run, and those that another bench is running, parents first.
        options: the bench's words.
        launcher: where they run.
        seconds: of a job of each kind, as far as known.
        ended: told of every job that has ended, with its exit status; whether it finished.
        line, log: where the state is shown, and sentences are printed.
    """

    def __init__(
        self,
        jobs: Sequence[PlannedJob],
        options: BenchOptions,
        launcher: Launcher,
        seconds: Mapping[Kind, float],
        ended: Callable[[PlannedJob, int | None, bool], bool],
        line: StatusLine,
        log: Callable[[str], None],
    ) -> None:
        self.failed: list[PlannedJob] = []
        self._waiting = list(jobs)
        self._running: list[_Running] = []
        self._free = list(launcher.slots)
        self._others: dict[str, str] = {}
        self._total = len(jobs)
        self._options, self._launcher, self._seconds = options, launcher, seconds
        self._ended, self._line, self._log = ended, line, log

    def run(self) -> list[PlannedJob]:
        """Run them all; those that failed, here or in another bench meanwhile."""
        looked = float("-inf")
        while self._waiting or self._running:
            if self._free and time.monotonic() - looked >= LOOK:
                self._start()
                looked = time.monotonic()
            self._line.show(self._text())
            if self._collect():
                looked = float("-inf")
        self._line.clear()
        return self.failed

    def stop(self) -> None:
        """End what runs: all are told before the first is waited for."""
        for one in self._running:
            one.worker.terminate()
        for one in self._running:
            one.worker.stop()

    def _start(self) -> None:
        """Start what can be started, and forget what need not or cannot be."""
        for planned in list(self._waiting):
            if not self._free:
                return
            if self._is_elsewhere(planned) or self._waits(planned):
                continue
            self._waiting.remove(planned)
            state = state_of(planned)
            if state.name == "done" or (state.name == "stale" and self._options.rerun != "stale"):
                continue
            if state.name == "failed" and planned.job.id in self._others:
                self._log(f"{planned.title} failed in another bench: {state.why}")
                self.failed.append(planned)
                continue
            if needs(planned, {one.job.id for one in self.failed}, self._options):
                # The end of the bench says so.
                continue
            if planned.parents:
                self._log(f"{planned.title} starts from {', '.join(planned.parents)}")
            slot = self._free.pop(0)
            worker = self._launcher.start(planned, slot)
            self._running.append(_Running(planned, worker, slot, time.monotonic()))

    def _is_elsewhere(self, planned: PlannedJob) -> bool:
        if not is_locked(planned.directory) or self._launcher.adopts(planned):
            return False
        who = holder(planned.directory) or "another process"
        if self._others.get(planned.job.id) != who:
            self._others[planned.job.id] = who
            self._line.clear()
            self._log(f"{planned.title} is being worked on by {who}: waiting for it")
        return True

    def _waits(self, planned: PlannedJob) -> bool:
        """Whether all that is unfinished of what a job starts from is still to come."""
        coming = {one.job.id for one in self._waiting} | {one.planned.job.id for one in self._running}
        return bool(unfinished := unfinished_parents(planned)) and all(
            planned.parents[name].job.id in coming for name in unfinished
        )

    def _collect(self) -> bool:
        """Wait a moment for the running jobs; whether one has ended."""
        if not self._running:
            time.sleep(POLL)
            return False
        self._running[0].worker.wait(POLL)
        over = [one for one in self._running if one.worker.wait(0)]
        for one in over:
            self._running.remove(one)
            self._free.append(one.slot)
            status = one.worker.exit_code
            if status == TAKEN:
                # Another bench was faster: wait for what becomes of it.
                self._others.setdefault(one.planned.job.id, "")
                self._waiting.insert(0, one.planned)
                continue
            self._line.clear()
            one.planned.files.progress.unlink(missing_ok=True)
            more = bool(self._waiting or self._running)
            if not self._ended(one.planned, status, more):
                self.failed.append(one.planned)
        return bool(over)

    def _text(self) -> str:
        """What runs, on one line."""
        now = time.monotonic()
        progress = [one.planned.files.read_progress() for one in self._running]
        left = [
            seconds_left(state, now - one.since) for one, state in zip(self._running, progress, strict=True)
        ]
        known = [self._seconds.get(kind_of(planned), 0.0) for planned in self._waiting]
        at_once = min(len(self._launcher.slots), max(1, len(self._waiting) + len(self._running)))
        rest = clock((sum(one or 0.0 for one in left) + sum(known)) / at_once)
        number = self._total - len(self._waiting)
        if len(self._running) == 1:
            (one,), (state,), (seconds,) = self._running, progress, left
            text = f"job {number}/{self._total} {one.planned.title}: {doing(state)}"
            if seconds is not None:
                text += f", {clock(seconds)} left"
            return text + (f", {rest} in all" if "epoch" in state else "")
        if self._running:
            jobs = [
                f"{one.planned.job.method} {one.planned.job.seed} {doing(state)}"
                for one, state in zip(self._running, progress, strict=True)
            ]
            in_all = f" ({rest} in all)" if any(one is not None for one in left) else ""
            return f"jobs {number}/{self._total}{in_all}: {'; '.join(jobs)}"
        others = [(one, self._others.get(one.job.id)) for one in self._waiting]
        return f"waiting for {', '.join(f'{one.title} ({who})' for one, who in others if who)}"
