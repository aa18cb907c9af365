"""Detection of a metric's plateau, with its state in checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Plateau(nn.Module):
    """Counts epochs without improvement; its state is in buffers.

    Args:
        patience: how many such epochs in a row make a plateau.
    """

    best: Tensor
    waited: Tensor

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self.register_buffer("best", torch.tensor(-torch.inf))
        self.register_buffer("waited", torch.zeros((), dtype=torch.int64))

    def step(self, value: float) -> bool:
        """Add an epoch's value, where higher is better; return whether a plateau is reached."""
        # In the buffer's precision, so that a value is never better than itself.
        if torch.tensor(value) > self.best.cpu():
            self.best.fill_(value)
            self.waited.zero_()
        else:
            self.waited.add_(1)
        return int(self.waited) >= self.patience
