"""Random states in checkpoints: without them, a resumed run would draw different dropout masks."""

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

    Restores them right before training resumes. Each of several processes starts with its own state;
    otherwise all would draw the same noise. A checkpoint from another number of processes leaves the
    generators alone.

    Order and augmentation derive from (seed, epoch, index), not from these states.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Tensor] | None = None
        self._held: dict[str, Tensor] | None = None

    def state_dict(self) -> dict[str, Any]:
        """(processes, ...) tensors, which load without running code. All processes must call this."""
        mine = self._held or _current()
        everyone = gather_objects(mine)
        return {name: torch.stack([state[name] for state in everyone]) for name in mine}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts: anything in between would draw from them."""
        self._restored = state_dict

    def hold(self) -> None:
        """Save the current states in checkpoints until ``release``."""
        self._held = _current()

    def release(self) -> None:
        """Save the states at the time of saving again."""
        self._held = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the states, or start each process with its own."""
        restored, self._restored = self._restored, None
        if restored is not None and len(restored["torch"]) == trainer.world_size:
            # A copy: torch reads a state from the start of its storage, ignoring a view's offset.
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
        # The second of a pair of normal samples, which both generators keep for later.
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
