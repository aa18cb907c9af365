"""Saves a checkpoint when the process is asked to stop, and periodically; training resumes right there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from crossmodal_bench.core.checkpoint_writing import CheckpointFiles
from crossmodal_bench.core.signals import StopRequest
from crossmodal_bench.training.callbacks.random_state import RandomState

NOTHING = 0
SAVE = 1
STOP = 2


class SaveWhenAsked(pl.Callback):
    """Saves and stops after a batch when a signal asks to stop; also saves periodically.

    A request during an epoch's last batch or the validation after it is handled at a batch of that
    validation, which starts over on resuming; a later one is handled at the next epoch's first batch. All
    processes save and stop together, whichever of them was asked.

    This must be the last callback, so that the checkpoint includes what the others record of a batch;
    Lightning's own checkpoint callbacks, which come after it, record nothing there.

    Args:
        path: the checkpoint, whose predecessor is kept; None: ``interrupted.ckpt`` in the trainer's folder.
        request: of this process.
        every_seconds: interval between checkpoints within an epoch; None for none.
    """

    def __init__(self, path: Path | None, request: StopRequest, every_seconds: float | None = 600.0) -> None:
        self.path = path
        self.request = request
        self.every_seconds = every_seconds
        self._saved = time.monotonic()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have all checkpoints written atomically, and the predecessor of this one kept."""
        self.path = self.path or Path(trainer.default_root_dir) / "interrupted.ckpt"
        trainer.strategy.checkpoint_io = CheckpointFiles((self.path.name,))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle signals instead of Lightning, whose handlers wait for other processes in mid-step."""
        self.request.listen()
        self.request.deferred = True
        self._saved = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        """Save between two batches; Lightning treats an epoch whose last batch is done as validated."""
        if not trainer.is_last_batch:
            self._answer(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the random states at the start of this validation, which may have to start over."""
        for state in _random_states(trainer):
            state.hold()

    def on_validation_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        """Save, as if no batch of this validation had been seen."""
        if not trainer.sanity_checking:
            self._answer(trainer, validating=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Release them: this validation will not start over."""
        for state in _random_states(trainer):
            state.release()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Answer a pending request: everything is saved."""
        self._end()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Stop deferring requests: nothing more will be saved."""
        self.request.deferred = False

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once from now on: a test simply starts over and has nothing to save."""
        self.request.listen()
        self._end()

    def _end(self) -> None:
        self.request.deferred = False
        if self.request.made:
            self.request.answer()

    def _answer(self, trainer: pl.Trainer, *, validating: bool = False) -> None:
        agreed = self._agreed(trainer)
        if agreed == NOTHING:
            return
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        seen = progress.state_dict()
        if validating:
            # Make Lightning believe that validation still has to run, from its first batch.
            progress.total.reset()
            progress.increment_ready()
            progress.increment_started()
            progress.current.reset()
        assert self.path is not None
        trainer.save_checkpoint(self.path)
        progress.load_state_dict(seen)
        self._saved = time.monotonic()
        if agreed == STOP:
            self.request.answer()

    def _agreed(self, trainer: pl.Trainer) -> int:
        """What all processes do now: stop if any was asked to, save when the first one's clock says so."""
        mine = NOTHING
        if self.request.made:
            mine = STOP
        elif trainer.is_global_zero and self.every_seconds is not None:
            mine = SAVE if time.monotonic() - self._saved > self.every_seconds else NOTHING
        if trainer.world_size == 1:
            return mine
        wish = torch.tensor(mine, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(wish, reduce_op="max"))


def _random_states(trainer: pl.Trainer) -> list[RandomState]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, RandomState)]
