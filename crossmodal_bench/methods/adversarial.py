"""The manual-optimisation loop of encoders and a critic that are trained in turns."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from crossmodal_bench.data.batch import PairBatch
from crossmodal_bench.methods.base import RetrievalMethod


class AdversarialMethod(RetrievalMethod):
    """Encoders and critic share one backward pass through a gradient reversal, and step in turns.

    A cycle is ``encoder_steps`` steps of the encoders' optimiser followed by ``critic_steps`` of the
    critic's. Every step takes a fresh batch and one backward pass through everything; only the optimiser
    whose turn it is steps, so every parameter has a gradient at every step and plain DDP holds. Where in the
    cycle training is lies in a buffer, so that a checkpoint continues it.

    ``configure_optimizers`` must return the encoders' optimiser first and the critic's second.
    """

    cycle_position: Tensor

    def __init__(self, encoder_steps: int, critic_steps: int, gradient_clip: float | None = None) -> None:
        super().__init__()
        if encoder_steps < 1 or critic_steps < 0:
            raise ValueError(
                f"encoder_steps {encoder_steps} must be at least 1 and critic_steps {critic_steps} at least 0"
            )
        self.automatic_optimization = False
        self.encoder_steps, self.critic_steps, self.gradient_clip = encoder_steps, critic_steps, gradient_clip
        self.register_buffer("cycle_position", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def joint_loss(self, batch: PairBatch) -> Tensor:
        """One scalar whose gradient is the encoders' and, behind the reversal, the critic's."""

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """One backward pass; one optimiser steps."""
        optimisers: Any = self.optimizers()
        encoders, critic = optimisers
        self.manual_backward(self.joint_loss(batch))
        optimiser = encoders if int(self.cycle_position) < self.encoder_steps else critic
        if self.gradient_clip is not None:
            self.clip_gradients(optimiser, self.gradient_clip, "norm")
        optimiser.step()
        encoders.zero_grad()
        critic.zero_grad()
        self.cycle_position.add_(1).remainder_(self.encoder_steps + self.critic_steps)
