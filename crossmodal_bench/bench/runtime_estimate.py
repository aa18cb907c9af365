"""A dry run of each kind of job before the first one starts: checks its input and times some steps."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl

from crossmodal_bench.bench.critical_path import chain_lengths
from crossmodal_bench.bench.kinds import Kind, kind_of
from crossmodal_bench.bench.launchers.base import Slot
from crossmodal_bench.bench.launchers.subprocesses import THREADS, follow, limit_threads
from crossmodal_bench.bench.progress import StatusLine, clock
from crossmodal_bench.core import process_group
from crossmodal_bench.core.batch import GroupBatch, PairBatch
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.signals import ASKING, finish_before_stopping, stop_if_asked
from crossmodal_bench.jobs.experiments import merge
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.methods.base import RetrievalMethod
from crossmodal_bench.training.devices import can_fork
from crossmodal_bench.training.lightning_cli import instantiate

POLL = 0.5
"""Seconds between checks for a request to stop."""
STEPS = 6
Tell = Callable[[str, int, int], None]


class _Clock(pl.Callback):
    def __init__(self) -> None:
        self.times: dict[type, list[float]] = {}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: PairBatch | GroupBatch,
        batch_idx: int,
    ) -> None:
        self.times.setdefault(type(batch), []).append(time.perf_counter())

    def step(self, kind: type) -> float:
        """The shortest step between two batches of a kind; 0 if there are fewer than two."""
        return min((b - a for a, b in pairwise(self.times.get(kind, []))), default=0.0)


class DryRuns(NamedTuple):
    """Results of the dry runs, one job of each kind.

    seconds: estimated time of a job, by kind; 0 if unknown.
    refused: why a job cannot run on these data, by kind.
    """

    seconds: dict[Kind, float]
    refused: dict[Kind, str]


class Outlook(NamedTuple):
    """What is known about jobs before they run.

    seconds: estimated time of a job, by kind; 0 if unknown.
    refused: why a job cannot run on these data, by the job's id.
    """

    seconds: dict[Kind, float]
    refused: dict[str, str]


def estimates(
    to_run: Sequence[PlannedJob], slots: Sequence[Slot], line: StatusLine, log: Callable[[str], None]
) -> Outlook:
    """How long a job of each kind takes, and which cannot run; logs the estimated total.

    Raises:
        BadInput: no job can run, all for the same reason.
    """
    start = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        left = (time.monotonic() - start) / max(done, 1) * (total - done)
        line.show(f"{what}: {done}/{total}" + (f", {clock(left)} left" if done else ""))

    kinds: dict[Kind, PlannedJob] = {}
    for planned in to_run:
        kinds.setdefault(kind_of(planned), planned)
    seconds, reasons = dry_runs(kinds, slots, tell)
    line.clear()
    # Rows of one kind may differ in overrides, and therefore in whether they can run.
    refused = {
        planned.job.id: reasons[kind]
        for planned in to_run
        if (kind := kind_of(planned)) in reasons and planned.job.overrides == kinds[kind].job.overrides
    }
    if len(refused) == len(to_run) and len(set(refused.values())) == 1:
        raise BadInput(next(iter(refused.values())))
    fit = [planned for planned in to_run if planned.job.id not in refused]
    if fit:
        at_once = min(len(slots), len(fit))
        shared = sum(seconds.get(kind_of(planned), 0.0) for planned in fit) / at_once
        total = max([shared, *chain_lengths(fit, seconds).values()])
        together = f", {at_once} at a time" if at_once > 1 else ""
        log(f"{len(fit)} to run{together}" + (f", about {clock(total)} from timed steps" if total else ""))
    return Outlook(seconds, refused)


def dry_run(planned: PlannedJob, tell: Tell | None = None) -> float:
    """Build the job's data and time a few steps from fresh weights; return the whole job's estimated seconds.

    Raises:
        BadInput: an error that would otherwise have stopped the job hours later.
    """
    start = time.perf_counter()
    clock = _Clock()
    # The configuration takes precedence over the arguments, so the limits must be set there.
    short = {"trainer": {"max_epochs": 1, "limit_val_batches": 0}}
    cli = instantiate(
        merge(planned.config, short),
        [clock],
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **process_group.trainer_arguments(),
    )
    assert isinstance(cli.model, RetrievalMethod)
    cli.datamodule.hand_over(planned.corpus, with_grid=planned.with_grid)
    epochs = planned.config.get("trainer", {}).get("max_epochs", 1000)
    if tell is not None:
        cli.datamodule.progress = lambda done, total: tell("extracting features", done, total)
    cli.datamodule.build(cli.model.requires)
    ready = time.perf_counter() - start
    if cli.model.deterministic:
        return ready
    cli.datamodule.steps_per_phase = STEPS
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    epoch = sum(
        order.whole * clock.step(PairBatch if phase == "pairs" else GroupBatch)
        for phase, order in cli.datamodule.train_dataloader().order.orders.items()
    )
    return ready + epochs * epoch * 1.3


def dry_runs(kinds: Mapping[Kind, PlannedJob], slots: Sequence[Slot], tell: Tell) -> DryRuns:
    """Call ``dry_run`` on one job of each kind, in forked processes so that this one can still fork.

    Runs as many at a time as jobs will run, with as many threads. Nothing is known without fork; a job that
    fails here counts as 0 seconds: it will leave its own log, and the others still run.
    """
    seconds: dict[Kind, float] = {}
    refused: dict[Kind, str] = {}
    if not can_fork(slots[0].devices):
        return DryRuns(seconds, refused)
    waiting = list(kinds.items())
    running: dict[Connection, tuple[Kind, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < len(slots):
                kind, planned = waiting.pop(0)
                tell(f"looking at {planned.job.method} on {planned.job.dataset}", len(seconds), len(kinds))
                # A process that was started but not yet listed would be orphaned.
                with finish_before_stopping():
                    receiver, process = _start_dry_run(planned, slots[0])
                    running[receiver] = kind, process
            stop_if_asked()
            ready = wait(list(running), POLL)
            for receiver in [receiver for receiver in running if receiver in ready]:
                kind, process = running[receiver]
                answer, value = _received(receiver)
                if answer == "progress":
                    tell(*value)
                    continue
                if answer == "bad input":
                    refused[kind] = value
                seconds[kind] = float(value) if answer == "seconds" else 0.0
                del running[receiver]
                _end(receiver, process)
    finally:
        with finish_before_stopping():
            for receiver, (_, process) in running.items():
                _end(receiver, process)
    return DryRuns(seconds, refused)


def _start_dry_run(planned: PlannedJob, slot: Slot) -> tuple[Connection, Any]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    arguments = (planned, slot, sender, os.getpid())
    process = multiprocessing.get_context("fork").Process(target=_answer, args=arguments)
    process.start()
    sender.close()
    return receiver, process


def _received(receiver: Connection) -> tuple[str, Any]:
    try:
        return receiver.recv()
    except EOFError:
        return "error", "it ended"


def _end(receiver: Connection, process: Any) -> None:
    receiver.close()
    # It has answered, or its answer is no longer needed.
    process.kill()
    process.join()


def _answer(planned: PlannedJob, slot: Slot, sender: Connection, parent: int) -> None:
    # A dry run has nothing to save, so signals may end it directly.
    for number in ASKING:
        signal.signal(number, signal.SIG_DFL)
    follow(parent)
    if THREADS in slot.environment:
        limit_threads(int(slot.environment[THREADS]))
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            seconds = dry_run(planned, lambda *state: sender.send(("progress", state)))
            sender.send(("seconds", seconds))
        except BadInput as error:
            sender.send(("bad input", str(error)))
        except Exception as error:
            sender.send(("error", str(error)))
        os._exit(0)
