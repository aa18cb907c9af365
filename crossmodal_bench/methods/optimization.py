"""Optimisers and learning-rate schedules shared by methods, as named in configurations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class AdamSettings:
    """Adam (Kingma and Ba, ICLR 2015).

    Attributes:
        learning_rate: the initial learning rate, before any schedule.
        beta1: decay of the running mean of gradients; that of their squares is always 0.999.
        gradient_clip: maximum norm of the gradient of all of the optimiser's parameters together, or None.
    """

    learning_rate: float = 2e-4
    beta1: float = 0.9
    gradient_clip: float | None = None

    @property
    def betas(self) -> tuple[float, float]:
        """Adam's two decay rates."""
        return self.beta1, 0.999

    def build(self, parameters: Iterable[nn.Parameter], fused: bool | None = None) -> torch.optim.Optimizer:
        """The optimiser over ``parameters``.

        Args:
            parameters: what it trains, in the order in which checkpoints store its moments.
            fused: torch's argument of that name; None leaves the choice to torch. Lightning cannot clip
                gradients of a fused optimiser in mixed precision.
        """
        return torch.optim.Adam(parameters, self.learning_rate, self.betas, fused=fused)


@dataclass(frozen=True)
class EpochDecaySettings:
    """Step decay of all learning rates, by epochs.

    Attributes:
        factor: multiplies all learning rates each time.
        every_epochs: epochs between two decays; None: no decay.
    """

    factor: float = 0.1
    every_epochs: int | None = None

    def __post_init__(self) -> None:
        _check_interval("every_epochs", self.every_epochs)

    def multiplier(self, epoch: int) -> float:
        """The factor on learning rates in an epoch, counted from 0."""
        return self.factor ** (epoch // self.every_epochs) if self.every_epochs else 1.0


@dataclass(frozen=True)
class DecaySettings:
    """Step decay of a learning rate, by epochs, by steps, or both.

    Attributes:
        factor: multiplies the learning rate each time.
        every_epochs: epochs between two decays; None: not by epochs.
        every_steps: steps of the encoders between two decays; None: not by steps.
        minimum_rate: lower bound of the learning rate; one that starts below it is not changed.
    """

    factor: float = 0.1
    every_epochs: int | None = None
    every_steps: int | None = None
    minimum_rate: float = 0.0

    def __post_init__(self) -> None:
        _check_interval("every_epochs", self.every_epochs)
        _check_interval("every_steps", self.every_steps)

    def rate(self, initial: float, epoch: int, step: int) -> float:
        """The learning rate in an epoch, after ``step`` steps in total, if it started as ``initial``."""
        times = epoch // self.every_epochs if self.every_epochs else 0
        times += step // self.every_steps if self.every_steps else 0
        return max(initial * self.factor**times, min(self.minimum_rate, initial))


def _check_interval(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"schedule.{name} is {value}; give a whole number, 1 or greater, or null for never")
