"""Random states in checkpoints: without them, a resumed run draws other dropout masks than a whole one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from crossmodal_bench.core.distributed import gather_objects


class RandomState(pl.Callback):
    """Saves the generators of Python, NumPy and torch (CPU, and every CUDA device) of every process.

    Restores them right before training goes on. A process of several starts with a state of its own, or all
    would draw the same noise. A checkpoint of another number of processes leaves the generators as they are.

    Order and augmentation derive from (seed, epoch, index), not from a state.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Tensor] | None = None
        self._held: dict[str, Tensor] | None = None

    def state_dict(self) -> dict[str, Any]:
        """(processes, ...) tensors, which load without running code; a collective call of all processes."""
        mine = self._held or _current()
        everyone = gather_objects(mine)
        return {name: torch.stack([state[name] for state in everyone]) for name in mine}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts: what lies between would draw from them."""
        self._restored = state_dict

    def hold(self) -> None:
        """Save the states of this moment until ``release``."""
        self._held = _current()

    def release(self) -> None:
        """Save the states of the moment again."""
        self._held = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore, or start with a state of one's own."""
        restored, self._restored = self._restored, None
        if restored is not None and len(restored["torch"]) == trainer.world_size:
            # A copy: torch reads a state from the start of its memory, wherever the view begins.
            _restore({name: states[trainer.global_rank].clone() for name, states in restored.items()})
        elif trainer.global_rank > 0:
            seed = (torch.initial_seed() + trainer.global_rank) % 2**32
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)


def _current() -> dict[str, Tensor]:
    _, python_state, gauss = random.getstate()
    state: Any = np.random.get_state(legacy=True)
    _, keys, position, has_gauss, cached = state
    states = {
        "torch": torch.random.get_rng_state(),
        "python": torch.tensor(python_state),
        # The second of two normal numbers, which both keep for later.
        "python_gauss": torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64),
        "numpy": torch.tensor([*keys.tolist(), position, has_gauss]),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.stack(torch.cuda.get_rng_state_all())
    return states


def _restore(states: dict[str, Tensor]) -> None:
    torch.random.set_rng_state(states["torch"].cpu())
    given, gauss = states["python_gauss"].tolist()
    random.setstate((3, tuple(states["python"].tolist()), gauss if given else None))
    *keys, position, has_gauss = states["numpy"].tolist()
    cached = float(states["numpy_gauss"])
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, cached))
    devices = states.get("cuda")
    if devices is not None and len(devices) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in devices])
