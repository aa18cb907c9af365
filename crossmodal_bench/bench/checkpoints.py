"""A job's checkpoints: when they are written, which one training goes on from, and which one is tested."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from crossmodal_bench.bench.plan import PlannedJob
from crossmodal_bench.bench.state import read_json
from crossmodal_bench.callbacks import History

LAST, BEST, RESUME = "last.ckpt", "best.ckpt", "resume.json"


def checkpoint_callbacks(planned: PlannedJob) -> list[ModelCheckpoint]:
    """The best epoch's, where there is a validation split to choose on, and then the last epoch's."""
    last = ModelCheckpoint(
        planned.directory,
        filename="last",
        save_top_k=1,
        monitor=None,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    if not _has_validation(planned):
        return [last]
    best = ModelCheckpoint(
        planned.directory,
        filename="best",
        save_top_k=1,
        monitor=f"val/{planned.protocols[0].primary}",
        mode="max",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
        save_weights_only=True,
    )
    # The best one first: the last one's state must know which it was.
    return [best, last]


def _has_validation(planned: PlannedJob) -> bool:
    if planned.evaluate == "val":
        # Choosing the epoch on the split that is reported would flatter it.
        return False
    return planned.counts["val"]["images"] > 0


def made_by(sources: str, data: str, parents: Mapping[str, Any]) -> dict[str, Any]:
    """What a job's checkpoints rest on, as noted beside them in ``resume.json``.

    Args:
        sources, data: their fingerprints.
        parents: the runs whose weights it started from; not noted where there are none, as it never was.
    """
    return {"sources": sources, "data": data, **({"parents": dict(parents)} if parents else {})}


def resumable(directory: Path, sources: Mapping[str, Any]) -> Path | None:
    """The last epoch's checkpoint, if ``sources`` made it; else what lies there is removed."""
    path = directory / LAST
    if path.is_file() and read_json(directory / RESUME) == sources:
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return path
        except Exception as error:
            print(f"{path} cannot be read ({error}); the job starts over", file=sys.stderr)
    for name in (LAST, BEST):
        (directory / name).unlink(missing_ok=True)
    return None


def selected(
    checkpoints: list[ModelCheckpoint], planned: PlannedJob, history: History, solved: bool
) -> dict[str, Any]:
    """The record's ``selection``: by which metric, epoch and rule the tested checkpoint was chosen."""
    if solved:
        return {"metric": None, "epoch": None, "rule": "solved in closed form"}
    if len(checkpoints) == 2 and checkpoints[0].best_model_path:
        metric = str(checkpoints[0].monitor)
        rows = [row for row in history.epochs if metric in row]
        epoch = int(max(rows, key=lambda row: row[metric])["epoch"])
        return {"metric": metric, "epoch": epoch, "rule": f"best epoch by {metric}"}
    why = "no validation split" if planned.evaluate == "test" else "validation is what is reported"
    return {"metric": None, "epoch": int(history.epochs[-1]["epoch"]), "rule": f"last epoch: {why}"}


def chosen_checkpoint(directory: Path, metric: str | None) -> Path:
    """The checkpoint behind a record whose selection was by ``metric``."""
    return directory / (LAST if metric is None else BEST)
