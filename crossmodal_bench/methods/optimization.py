"""Optimisers and learning-rate schedules that methods share, as a configuration names them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class AdamSettings:
    """Adam (Kingma and Ba, ICLR 2015).

    Attributes:
        learning_rate: where it starts; schedules change it from there.
        beta1: decay of the running mean of gradients; that of their squares is always 0.999.
        gradient_clip: largest norm of the gradient of all parameters of this optimiser together, or None.
    """

    learning_rate: float = 2e-4
    beta1: float = 0.9
    gradient_clip: float | None = None

    @property
    def betas(self) -> tuple[float, float]:
        """Both decays."""
        return self.beta1, 0.999

    def build(self, parameters: Iterable[nn.Parameter], fused: bool | None = None) -> torch.optim.Optimizer:
        """The optimiser over ``parameters``.

        Args:
            parameters: what it trains, in the order in which checkpoints keep its moments.
            fused: torch's argument of that name; None leaves the choice to torch. Lightning clips no
                gradients of a fused optimiser in mixed precision.
        """
        return torch.optim.Adam(parameters, self.learning_rate, self.betas, fused=fused)


@dataclass(frozen=True)
class EpochDecaySettings:
    """Learning rates that fall by a factor every so many epochs.

    Attributes:
        factor: what all rates are multiplied by each time.
        every_epochs: epochs between two falls; None: the rates stay.
    """

    factor: float = 0.1
    every_epochs: int | None = None

    def __post_init__(self) -> None:
        _check_interval("every_epochs", self.every_epochs)

    def multiplier(self, epoch: int) -> float:
        """What is left of a rate in an epoch, counted from 0."""
        return self.factor ** (epoch // self.every_epochs) if self.every_epochs else 1.0


@dataclass(frozen=True)
class DecaySettings:
    """A learning rate that falls by a factor every so many epochs, every so many steps, or both.

    Attributes:
        factor: what the rate is multiplied by each time.
        every_epochs: epochs between two falls; None: not by epochs.
        every_steps: steps of the encoders between two falls; None: not by steps.
        minimum_rate: how low the rate may fall; one that starts lower stays as it is.
    """

    factor: float = 0.1
    every_epochs: int | None = None
    every_steps: int | None = None
    minimum_rate: float = 0.0

    def __post_init__(self) -> None:
        _check_interval("every_epochs", self.every_epochs)
        _check_interval("every_steps", self.every_steps)

    def rate(self, initial: float, epoch: int, step: int) -> float:
        """What a rate that started as ``initial`` is in an epoch, after so many steps in all."""
        times = epoch // self.every_epochs if self.every_epochs else 0
        times += step // self.every_steps if self.every_steps else 0
        return max(initial * self.factor**times, min(self.minimum_rate, initial))


def _check_interval(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"schedule.{name} is {value}; give a whole number from 1, or null for never")
