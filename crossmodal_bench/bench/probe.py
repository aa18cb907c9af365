"""A look at each kind of job before the first one starts: its input is whole, and a few steps are timed."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from crossmodal_bench.bench.experiments import merge
from crossmodal_bench.bench.plan import PlannedJob
from crossmodal_bench.bench.processes import can_fork, follow
from crossmodal_bench.bench.progress import StatusLine, clock
from crossmodal_bench.data.batch import GroupBatch, PairBatch
from crossmodal_bench.errors import BadInput
from crossmodal_bench.methods.base import RetrievalMethod
from crossmodal_bench.training import instantiate

STEPS = 6
Tell = Callable[[str, int, int], None]
Kind = tuple[str, str, str, str]


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
        """The quickest step between two batches of a kind; 0 where there are no two."""
        return min((b - a for a, b in pairwise(self.times.get(kind, []))), default=0.0)


def kind_of(planned: PlannedJob) -> Kind:
    """Equal for jobs that take equally long."""
    job = planned.job
    return job.dataset, job.protocol, job.method, job.preset


def estimates(
    to_run: Sequence[PlannedJob], devices: str, line: StatusLine, say: Callable[[str], None]
) -> dict[Kind, float]:
    """Seconds of a job of each kind, 0 where they are not known; says how long all of them take.

    Raises:
        BadInput: what would have stopped a job.
    """
    seconds: dict[Kind, float] = {}
    start = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        left = (time.monotonic() - start) / max(done, 1) * (total - done)
        line.show(f"{what}: {done}/{total}, {clock(left)} left")

    for planned in to_run:
        if kind_of(planned) not in seconds:
            line.show(f"looking at {planned.job.method} on {planned.job.dataset}")
            start = time.monotonic()
            seconds[kind_of(planned)] = probe_apart(planned, tell, devices) or 0.0
    line.clear()
    if to_run:
        total = sum(seconds[kind_of(planned)] for planned in to_run)
        say(f"{len(to_run)} to run" + (f", about {clock(total)} from timed steps" if total else ""))
    return seconds


def probe(planned: PlannedJob, tell: Tell | None = None) -> float:
    """Build the job's data and time a few steps, from fresh weights; the estimated seconds of the whole job.

    Raises:
        BadInput: what would have stopped the job, hours later.
    """
    start = time.perf_counter()
    clock = _Clock()
    # The configuration wins over the arguments, so that what shortens the training must be in it.
    short = {"trainer": {"max_epochs": 1, "limit_val_batches": 0}}
    cli = instantiate(
        merge(planned.config, short),
        [clock],
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    assert isinstance(cli.model, RetrievalMethod)
    if planned.corpus is not None:
        cli.datamodule.hand_over(planned.corpus)
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


def probe_apart(planned: PlannedJob, tell: Tell, devices: str) -> float | None:
    """The same in a forked process, so that the parent stays fit for forking; None where there is no fork."""
    if not can_fork(devices):
        return None
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_answer, args=(planned, sender, os.getpid()))
    process.start()
    sender.close()
    try:
        while True:
            kind, value = receiver.recv()
            if kind == "progress":
                tell(*value)
            elif kind == "bad input":
                raise BadInput(value)
            elif kind == "error":
                # The job itself will fail the same way and keep its log; the others shall run.
                return None
            else:
                return float(value)
    except EOFError:
        return None
    finally:
        receiver.close()
        # It has answered, or nobody waits for its answer any more.
        process.kill()
        process.join()


def _answer(planned: PlannedJob, sender: Connection, parent: int) -> None:
    follow(parent)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            seconds = probe(planned, lambda *state: sender.send(("progress", state)))
            sender.send(("seconds", seconds))
        except BadInput as error:
            sender.send(("bad input", str(error)))
        except Exception as error:
            sender.send(("error", str(error)))
        os._exit(0)
