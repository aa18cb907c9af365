"""A job's checkpoints: when they are written, and which one is tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from crossmodal_bench.core.signals import StopRequest
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.training.callbacks import History, SaveWhenAsked


def checkpoint_callbacks(planned: PlannedJob, request: StopRequest) -> list[pl.Callback]:
    """One for the best epoch, if there is a validation split to select on, followed by one for the latest.

    The latest is written after each epoch, every ten minutes, and when ``request`` is made.
    """
    last = ModelCheckpoint(
        planned.directory,
        filename=planned.files.last_checkpoint.stem,
        save_top_k=1,
        monitor=None,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    lasting: list[pl.Callback] = [last, SaveWhenAsked(planned.files.last_checkpoint, request)]
    # Selecting the epoch on the split that is reported would bias the result upwards.
    if planned.evaluate == "val" or not planned.counts["val"]["images"]:
        return lasting
    best = ModelCheckpoint(
        planned.directory,
        filename=planned.files.best_checkpoint.stem,
        save_top_k=1,
        monitor=f"val/{planned.protocols[0].primary}",
        mode="max",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
        save_weights_only=True,
    )
    # Best first: the state saved in the latest checkpoint must include which epoch was best.
    return [best, *lasting]


def selected(
    checkpoints: list[pl.Callback], planned: PlannedJob, history: History, *, solved: bool
) -> dict[str, Any]:
    """The record's ``selection``: the metric, epoch and rule by which the tested checkpoint was selected."""
    if solved:
        return {"metric": None, "epoch": None, "rule": "solved in closed form"}
    best = checkpoints[0]
    if isinstance(best, ModelCheckpoint) and best.monitor is not None and best.best_model_path:
        metric = best.monitor
        rows = [row for row in history.epochs if metric in row]
        epoch = int(max(rows, key=lambda row: row[metric])["epoch"])
        return {"metric": metric, "epoch": epoch, "rule": f"best epoch by {metric}"}
    why = "no validation split" if planned.evaluate == "test" else "validation is what is reported"
    return {"metric": None, "epoch": int(history.epochs[-1]["epoch"]), "rule": f"last epoch: {why}"}


def chosen_checkpoint(files: JobDirectory, metric: str | None) -> Path:
    """The checkpoint that a record selected by ``metric`` was measured with; the last one if it is None."""
    return files.last_checkpoint if metric is None else files.best_checkpoint
