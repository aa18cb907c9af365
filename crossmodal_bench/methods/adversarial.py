"""The manual-optimisation loop for encoders and a discriminator that are trained in turns."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from crossmodal_bench.core.batch import PairBatch
from crossmodal_bench.core.host import HostNumber
from crossmodal_bench.methods.base import RetrievalMethod


class AdversarialMethod(RetrievalMethod):
    """Encoders and discriminator share one backward pass and step in turns.

    A cycle is ``encoder_steps`` steps of the encoders' optimisers and ``discriminator_steps`` of the
    discriminator's. Every batch has one backward pass through everything; only the optimisers whose turn it
    is step, so every parameter has a gradient at every step and plain DDP works. The position in the cycle is
    a buffer, so it is resumed from checkpoints.

    ``configure_optimizers`` must return the encoders' optimisers first and the discriminator's last.

    Args:
        encoder_steps: the encoders' steps per cycle, at least 1.
        discriminator_steps: the discriminator's steps per cycle.
        same_batches: False: the discriminator's steps follow the encoders', each on a fresh batch (the two
            share one loss with gradient reversal). True: both start with the cycle's first batch, so that at
            1:1 every batch updates both; the encoders' loss then sees the discriminator as the previous batch
            left it, which is the usual alternation on one batch, encoders first.
        gradient_clip: maximum gradient norm of each optimiser's parameters, or None.
    """

    cycle_position: Tensor

    def __init__(
        self,
        encoder_steps: int,
        discriminator_steps: int,
        gradient_clip: float | None = None,
        same_batches: bool = False,
    ) -> None:
        super().__init__()
        if encoder_steps < 1 or discriminator_steps < 0:
            raise ValueError(
                f"encoder_steps {encoder_steps} must be at least 1 and discriminator_steps "
                f"{discriminator_steps} at least 0"
            )
        self.automatic_optimization = False
        self.encoder_steps, self.discriminator_steps = encoder_steps, discriminator_steps
        self.gradient_clip, self.same_batches = gradient_clip, same_batches
        self._position = HostNumber()
        self.register_buffer("cycle_position", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def joint_loss(self, batch: PairBatch) -> Tensor:
        """One scalar whose gradient is each player's own: the encoders' and the discriminator's."""

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """One backward pass, and a step of those optimisers whose turn it is."""
        optimisers: Any = self.optimizers()
        *encoders, discriminator = optimisers
        self.manual_backward(self.joint_loss(batch))
        position = int(self._position.of(self.cycle_position))
        stepping = encoders if position < self.encoder_steps else []
        first_discriminator_step = 0 if self.same_batches else self.encoder_steps
        if 0 <= position - first_discriminator_step < self.discriminator_steps:
            stepping = [*stepping, discriminator]
        for optimiser in stepping:
            if self.gradient_clip is not None:
                self.clip_gradients(optimiser, self.gradient_clip, "norm")
            optimiser.step()
        for optimiser in optimisers:
            optimiser.zero_grad()
        steps = (self.encoder_steps, self.discriminator_steps)
        cycle_length = max(steps) if self.same_batches else sum(steps)
        self._position.set(self.cycle_position, (position + 1) % cycle_length)
