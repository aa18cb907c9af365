"""Random states in checkpoints: without them, a resumed run draws other dropout masks than a whole one."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch


class RandomState(pl.Callback):
    """Saves torch's generators (CPU, and every CUDA device) and restores them right before training goes on.

    Order and augmentation derive from (seed, epoch, index), not from a state, so no other generator matters.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Tensors only, which load without running code."""
        return {"cpu": torch.random.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts: what lies between would draw from them."""
        self._restored = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore."""
        if self._restored is not None:
            torch.random.set_rng_state(self._restored["cpu"].cpu())
            if len(self._restored["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all([state.cpu() for state in self._restored["cuda"]])
            self._restored = None
