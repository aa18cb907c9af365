"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "identity": nn.Identity,
}


class Perceptron(nn.Module):
    """Linear layers of the given widths with an activation between them.

    Args:
        widths: input, hidden ..., output.
        activation: between layers.
        last: after the last layer.
        dropout: share of hidden units dropped in training.
        standardise: first standardise the input by batch statistics (without a learned scale), so that
            features of any scale don't saturate a tanh.
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: Literal["tanh", "relu", "leaky_relu"] = "tanh",
        last: Literal["tanh", "relu", "identity"] = "identity",
        dropout: float = 0.0,
        standardise: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm1d(widths[0], affine=False)] if standardise else []
        for i, (a, b) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(a, b))
            final = i == len(widths) - 2
            layers.append(ACTIVATIONS[last if final else activation]())
            if dropout and not final:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, widths[0]) to (B, widths[-1])."""
        return self.layers(x)

    def weights(self) -> list[Tensor]:
        """The weight matrices, without biases."""
        return [layer.weight for layer in self.layers if isinstance(layer, nn.Linear)]
