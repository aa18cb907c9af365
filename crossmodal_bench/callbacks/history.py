"""What happened in each epoch, kept across kills."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

Report = Callable[[dict[str, Any]], None]


class History(pl.Callback):
    """One dictionary of metrics per epoch, and the seconds and samples that training took; saved in checkpoints.

    Args:
        report: told {"epoch", "epochs", "batch", "batches", "seconds_per_epoch"} a few times a second.
    """

    def __init__(self, report: Report | None = None) -> None:
        self.epochs: list[dict[str, float]] = []
        self.train_seconds = 0.0
        self.samples = 0
        self.report = report
        self._epoch_start = self._reported = 0.0

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"epochs": self.epochs, "train_seconds": self.train_seconds, "samples": self.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """All of it."""
        self.epochs = list(state_dict["epochs"])
        self.train_seconds, self.samples = state_dict["train_seconds"], state_dict["samples"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._epoch_start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count samples over all ranks; report now and then."""
        self.samples += len(batch) * trainer.world_size
        now = time.perf_counter()
        if self.report is not None and now - self._reported > 0.3:
            self._reported = now
            self.report(
                {
                    "epoch": trainer.current_epoch,
                    "epochs": trainer.max_epochs,
                    "batch": batch_idx + 1,
                    "batches": int(trainer.num_training_batches),
                    "seconds_per_epoch": self.train_seconds / max(1, len(self.epochs)),
                }
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch. Lightning runs validation before this hook, so its metrics are there."""
        self.train_seconds += time.perf_counter() - self._epoch_start
        row: dict[str, float] = {"epoch": trainer.current_epoch}
        for name, value in trainer.callback_metrics.items():
            number = float(value)
            if math.isfinite(number):
                row[name] = number
        self.epochs.append(row)
