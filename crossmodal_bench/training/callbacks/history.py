"""What happened in each epoch; survives a kill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl

from crossmodal_bench.core.batch import GroupBatch

Report = Callable[[dict[str, Any]], None]
Keep = Callable[[Sequence[dict[str, float]], int], None]


class History(pl.Callback):
    """Metrics per epoch, training time, samples and learning rates, all saved in checkpoints.

    A sample is a pair that the encoders were trained on: a phase that trains only discriminators takes time
    but counts none.

    Args:
        report: called a few times a second with {"epoch", "epochs", "batch", "batches", "seconds_per_epoch"};
            the last is the duration of the latest epoch including validation, 0 during the first.
        keep: called by the first process when training starts and after each epoch, with all epochs and how
            many of them there were at the start.
    """

    def __init__(self, report: Report | None = None, keep: Keep | None = None) -> None:
        self.epochs: list[dict[str, float]] = []
        self.train_seconds = 0.0
        self.samples = 0
        self.learning_rates: list[float] = []
        self.report = report
        self.keep = keep
        self.seconds_per_epoch = 0.0
        self._restored = 0
        self._start = 0.0
        self._lap = 0.0
        self._reported = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The whole history."""
        return {
            "epochs": self.epochs,
            "train_seconds": self.train_seconds,
            "seconds_per_epoch": self.seconds_per_epoch,
            "samples": self.samples,
            "learning_rates": self.learning_rates,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the whole history."""
        self.epochs = list(state_dict["epochs"])
        self.train_seconds = state_dict["train_seconds"]
        self.samples = state_dict["samples"]
        self.seconds_per_epoch = state_dict["seconds_per_epoch"]
        self.learning_rates = list(state_dict["learning_rates"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock here too: Lightning skips the start hook of an epoch that it resumes.

        Records the learning rates before any schedule changes them, from the parameter groups, because an
        optimiser's defaults need not apply to any of them.
        """
        self._start_clock()
        if not self.learning_rates:
            self.learning_rates = [
                group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups
            ]
        self._restored = len(self.epochs)
        self._tell(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start_clock()

    def _start_clock(self) -> None:
        self._start = time.perf_counter()
        self._lap = self._start

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation is not training."""
        self._lap = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count samples over all ranks; report from time to time."""
        if not isinstance(batch, GroupBatch):
            self.samples += len(batch) * trainer.world_size
        now = time.perf_counter()
        self.train_seconds += now - self._lap
        self._lap = now
        if self.report is not None and now - self._reported > 0.3:
            self._reported = now
            self.report(
                {
                    "epoch": trainer.current_epoch,
                    "epochs": trainer.max_epochs,
                    "batch": batch_idx + 1,
                    "batches": int(trainer.num_training_batches),
                    "seconds_per_epoch": self.seconds_per_epoch,
                }
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the epoch. Lightning runs validation before this hook, so its metrics are available."""
        self.seconds_per_epoch = time.perf_counter() - self._start
        row: dict[str, float] = {"epoch": trainer.current_epoch}
        for name, value in trainer.callback_metrics.items():
            number = float(value)
            if math.isfinite(number):
                row[name] = number
        self.epochs.append(row)
        self._tell(trainer)

    def _tell(self, trainer: pl.Trainer) -> None:
        if self.keep is not None and trainer.is_global_zero:
            self.keep(self.epochs, self._restored)
