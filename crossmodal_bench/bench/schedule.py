"""Job scheduling: several at a time, children after their parents, waiting for jobs of other benches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossmodal_bench.bench.critical_path import by_urgency, chain_after, chain_lengths
from crossmodal_bench.bench.dependencies import needs
from crossmodal_bench.bench.kinds import Kind, kind_of
from crossmodal_bench.bench.launchers.base import Launched, Launcher, Slot
from crossmodal_bench.bench.launchers.subprocesses import TAKEN
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.progress import StatusLine, clock, doing, seconds_left
from crossmodal_bench.core.signals import finish_before_stopping, stop_if_asked
from crossmodal_bench.jobs.locks import holder, is_locked
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.state import state_of, unfinished_parents
from crossmodal_bench.training.resumption import RESUME_ANYWAY

POLL = 0.2
"""Seconds between checks of the running jobs."""
LOOK = 1.0
"""Seconds between checks of the jobs that cannot start yet."""


@dataclass(frozen=True)
class _Running:
    planned: PlannedJob
    worker: Launched
    slot: Slot
    since: float
    aside: set[str]
    """Tags of the set-aside checkpoints that have been reported."""


class Schedule:
    """Runs jobs until none is left to start or wait for.

    Args:
        jobs: those to run, and those that another bench is running, parents first.
        options: the bench's options.
        launcher: where they run.
        seconds: estimated time of a job, by kind, where known.
        ended: called for every job that has ended, with its exit status; returns whether it finished.
        line, log: show the current state, and print messages.
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
        self._options = options
        self._launcher = launcher
        self._seconds = seconds
        self._ended = ended
        self._line = line
        self._log = log

    def run(self) -> list[PlannedJob]:
        """Run them all; return those that failed, here or in another bench."""
        looked = float("-inf")
        while self._waiting or self._running:
            stop_if_asked()
            if self._free and time.monotonic() - looked >= LOOK:
                self._start()
                looked = time.monotonic()
            if text := self._text():
                self._line.show(text)
            self._tell_of_checkpoints()
            if self._collect():
                looked = float("-inf")
        self._line.clear()
        return self.failed

    def stop(self) -> None:
        """Stop the running jobs: signal all of them before waiting for the first."""
        for running in self._running:
            running.worker.terminate()
        for running in self._running:
            running.worker.stop()

    def _start(self) -> None:
        """Start the jobs that can start, and drop those that need not or cannot."""
        slots = len(self._launcher.slots)
        running = sum(self._known_or_estimated(self._left()))
        for planned in by_urgency(self._waiting, self._seconds, slots, running):
            if not self._free:
                return
            if self._is_elsewhere(planned) or self._waits(planned):
                continue
            self._waiting.remove(planned)
            state = state_of(planned)
            if state.name in ("done", "unreadable"):
                continue
            if state.name == "stale" and self._options.rerun != "stale":
                continue
            if state.name == "failed" and planned.job.id in self._others:
                self._log(f"{planned.title} failed in another bench: {state.why}")
                self.failed.append(planned)
                continue
            if needs(planned, {failed.job.id for failed in self.failed}, self._options):
                # Reported at the end of the bench.
                continue
            if planned.parents:
                self._log(f"{planned.title} starts from {', '.join(planned.parents)}")
            slot = self._free.pop(0)
            aside = set(planned.files.tags_aside())
            # A process that was started but not yet listed would be orphaned.
            with finish_before_stopping():
                worker = self._launcher.start(planned, slot)
                self._running.append(_Running(planned, worker, slot, time.monotonic(), aside))

    def _tell_of_checkpoints(self) -> None:
        """Report which checkpoints the running jobs have set aside: they take up space, and may be wanted."""
        for running in self._running:
            for tag in running.planned.files.tags_aside():
                if tag in running.aside:
                    continue
                running.aside.add(tag)
                self._line.clear()
                self._log(
                    f"{running.planned.title} starts over; its checkpoints are set aside as *.{tag}.ckpt in "
                    f"{running.planned.directory}, and {RESUME_ANYWAY} resumes from them"
                )

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
        """Whether all unfinished parents of a job are still going to run."""
        coming = {waiting.job.id for waiting in self._waiting}
        coming |= {running.planned.job.id for running in self._running}
        return bool(unfinished := unfinished_parents(planned)) and all(
            planned.parents[name].job.id in coming for name in unfinished
        )

    def _collect(self) -> bool:
        """Wait a moment for the running jobs; return whether one has ended."""
        if not self._running:
            time.sleep(POLL)
            return False
        self._running[0].worker.wait(POLL)
        ended = [running for running in self._running if running.worker.wait(0)]
        for running in ended:
            planned = running.planned
            self._running.remove(running)
            self._free.append(running.slot)
            status = running.worker.exit_code
            if status == TAKEN:
                # Another bench got there first: wait for its result.
                self._others.setdefault(planned.job.id, "")
                self._waiting.insert(0, planned)
                continue
            self._line.clear()
            planned.files.progress.unlink(missing_ok=True)
            more = bool(self._waiting or self._running)
            if not self._ended(planned, status, more):
                self.failed.append(planned)
        return bool(ended)

    def _left(self, progress: Sequence[Mapping[str, Any]] | None = None) -> list[float | None]:
        """Seconds that each running job still takes; None where nothing is known yet."""
        now = time.monotonic()
        if progress is None:
            progress = [running.planned.files.read_progress() for running in self._running]
        return [
            seconds_left(state, now - running.since)
            for running, state in zip(self._running, progress, strict=True)
        ]

    def _rest(self, left: Sequence[float | None]) -> float:
        """Seconds until all are done: all work shared among the slots, but no less than the longest chain."""
        lengths = chain_lengths(self._waiting, self._seconds)
        running = self._known_or_estimated(left)
        chains = [
            seconds + chain_after(each.planned, self._waiting, lengths)
            for each, seconds in zip(self._running, running, strict=True)
        ]
        still_to_come = sum(self._seconds.get(kind_of(planned), 0.0) for planned in self._waiting)
        at_once = min(len(self._launcher.slots), max(1, len(self._waiting) + len(self._running)))
        return max([(sum(running) + still_to_come) / at_once, *chains, *lengths.values()])

    def _known_or_estimated(self, left: Sequence[float | None]) -> list[float]:
        """Seconds that each running job still takes: by its progress, or else a whole job of its kind."""
        return [
            self._seconds.get(kind_of(running.planned), 0.0) if seconds is None else seconds
            for running, seconds in zip(self._running, left, strict=True)
        ]

    def _text(self) -> str:
        """What is running or waited for, on one line; empty once nothing is left."""
        progress = [running.planned.files.read_progress() for running in self._running]
        left = self._left(progress)
        rest = clock(self._rest(left))
        number = self._total - len(self._waiting)
        if len(self._running) == 1:
            text = f"job {number}/{self._total} {self._running[0].planned.title}: {doing(progress[0])}"
            if left[0] is not None:
                text += f", {clock(left[0])} left"
            return text + (f", {rest} in total" if "epoch" in progress[0] else "")
        if self._running:
            jobs = [
                f"{running.planned.job.method} {running.planned.job.seed} {doing(state)}"
                for running, state in zip(self._running, progress, strict=True)
            ]
            in_all = f" ({rest} in total)" if any(seconds is not None for seconds in left) else ""
            return f"jobs {number}/{self._total}{in_all}: {'; '.join(jobs)}"
        holders = [(planned.title, self._others.get(planned.job.id)) for planned in self._waiting]
        names = [f"{title} ({who})" if who else title for title, who in holders]
        return f"waiting for {', '.join(names)}" if names else ""
