"""A job's checkpoints: when they are written, which one training goes on from, and which one is tested."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from crossmodal_bench.core.atomic_files import remove_leftovers
from crossmodal_bench.core.checkpoint_files import damage, previous
from crossmodal_bench.core.process_group import global_rank
from crossmodal_bench.core.signals import StopRequest
from crossmodal_bench.jobs.directory import JobDirectory, read_json
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.training.callbacks import History, SaveWhenAsked


def checkpoint_callbacks(planned: PlannedJob, request: StopRequest) -> list[pl.Callback]:
    """The best epoch's, where there is a validation split to choose on, and then the last one.

    The last one is written behind each epoch, every ten minutes, and when ``request`` is made.
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
    # Choosing the epoch on the split that is reported would flatter it.
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
    # The best one first: the last one's state must know which it was.
    return [best, *lasting]


def made_by(sources: str, data: str, parents: Mapping[str, Any]) -> dict[str, Any]:
    """What a job's checkpoints rest on, as noted beside them in ``resume.json``.

    Args:
        sources, data: their fingerprints.
        parents: the runs whose weights it started from; not noted where there are none, as it never was.
    """
    return {"sources": sources, "data": data, **({"parents": dict(parents)} if parents else {})}


def resumable(directory: Path, sources: Mapping[str, Any]) -> Path | None:
    """The last checkpoint, if ``sources`` made it; else what lies there is removed.

    One that is damaged gives way to the one before it, with a warning; with a damaged best epoch, whose
    weights nothing else holds, the job starts over. Of several processes, only the first removes anything.
    """
    if global_rank() == 0:
        remove_leftovers(directory)
    files = JobDirectory(directory)
    last = files.last_checkpoint
    best = files.best_checkpoint
    candidates = [path for path in (last, previous(last)) if path.is_file()]
    if candidates and read_json(files.resume) == sources:
        wrong = damage(best) if best.is_file() else ""
        if wrong:
            _warn(f"{best} is damaged ({wrong}); the job starts over")
            candidates = []
        for path in candidates:
            wrong = damage(path)
            if not wrong:
                return path
            _warn(f"{path} is damaged ({wrong}); going on from the one before it, or from the start")
    if global_rank() == 0:
        for path in (last, previous(last), best):
            path.unlink(missing_ok=True)
    return None


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr)


def selected(
    checkpoints: list[pl.Callback], planned: PlannedJob, history: History, *, solved: bool
) -> dict[str, Any]:
    """The record's ``selection``: by which metric, epoch and rule the tested checkpoint was chosen."""
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
