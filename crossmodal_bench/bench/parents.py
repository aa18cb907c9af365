"""Jobs that start from other jobs' trained weights: which runs those are, what they hand on, what waits."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import pytorch_lightning as pl
from torch import Tensor

from crossmodal_bench.bench.model import trained_weights
from crossmodal_bench.bench.plan import BenchOptions, PlannedJob
from crossmodal_bench.bench.record import read_record
from crossmodal_bench.bench.state import State, state_of, unfinished_parents
from crossmodal_bench.errors import BadInput
from crossmodal_bench.methods import RetrievalMethod


class Inheritance(pl.Callback):
    """Hands the parents' weights to a model as soon as its networks are made.

    Not for a training that goes on from a checkpoint.

    Args:
        weights: state dictionaries by method.
    """

    def __init__(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._weights = weights

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Build, inherit, and let go of the weights; BadInput where they do not fit.

        Before the model is moved to its device and its optimisers are made.
        """
        if stage != "fit" or not self._weights:
            return
        assert isinstance(pl_module, RetrievalMethod)
        pl_module.prepare(trainer.datamodule.spec)  # type: ignore[attr-defined]
        try:
            pl_module.inherit(self._weights)
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            raise BadInput(
                f"the trained weights of {', '.join(self._weights)} do not fit {type(pl_module).__name__} as "
                "it is configured; give them the same networks and the same text settings"
            ) from error
        self._weights = {}


def parent_runs(planned: PlannedJob) -> dict[str, dict[str, str]]:
    """By method, the runs that a job starts from today: ``Record.run`` of each.

    Raises BadInput where a parent has no record, or a damaged one.
    """
    runs = {}
    for name, parent in planned.parents.items():
        with _naming(planned, name):
            runs[name] = read_record(parent.directory).run
    return runs


def parent_weights(planned: PlannedJob) -> dict[str, dict[str, Tensor]]:
    """By method, the state dictionaries that a job starts from: those behind the parents' records.

    Raises BadInput where one is not there, cannot be read, or is of another run than its record.
    """
    weights = {}
    for name, parent in planned.parents.items():
        with _naming(planned, name):
            weights[name] = trained_weights(read_record(parent.directory))
    return weights


def needs(planned: PlannedJob, failed: Collection[str], options: BenchOptions) -> str:
    """What keeps a job from being started, as "needs scan, which failed"; empty where nothing does.

    Args:
        planned: the job.
        failed: ids of the jobs that have failed in this bench.
        options: the bench's words; only with RERUN=stale will a stale parent become anything else.
    """
    for name, state in unfinished_parents(planned).items():
        if planned.parents[name].job.id in failed or state.name == "failed":
            return f"needs {name}, which failed"
        if state.name == "running":
            return f"needs {name}, which is running"
        if state.name == "stale" and options.rerun != "stale":
            return f"needs {name}, which is stale; RERUN=stale runs it again"
        return f"needs {name}, which is skipped"
    return ""


def waits_in_vain(planned: PlannedJob, coming: Collection[str]) -> bool:
    """Whether some parent is neither done, nor running, nor among the jobs ``coming``, given by their ids."""
    return any(
        state.name != "running" and planned.parents[name].job.id not in coming
        for name, state in unfinished_parents(planned).items()
    )


def held_back(planned: PlannedJob, failed: Collection[str], options: BenchOptions) -> State | None:
    """The state to tell of a job that a bench has not started for want of a parent; None for all others."""
    startable = ("not started", "failed", *(("stale",) if options.rerun == "stale" else ()))
    if planned.job.id in failed or state_of(planned).name not in startable:
        return None
    why = needs(planned, failed, options)
    return State("skipped", why) if why else None


@contextmanager
def _naming(planned: PlannedJob, parent: str) -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{planned.job.method} starts from {parent}, and {error}") from error
