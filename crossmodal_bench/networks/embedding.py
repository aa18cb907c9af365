"""A linear layer onto the unit sphere, the first layer of matching networks in the VSE++ family."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UnitEmbedding(nn.Module):
    """Features through one linear layer, then to unit length.

    Weights start Xavier-uniform and biases at zero, as in VSE++, SCAN and BFAN.

    Args:
        features: width of the features.
        dim: width of the result.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, dim)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(..., features) to (..., dim), each of unit length, in single precision at least."""
        return unit(self.linear(features))


def unit(x: Tensor) -> Tensor:
    """Vectors of unit length along the last axis; zero stays zero."""
    return F.normalize(single(x), dim=-1, eps=1e-8)


def single(x: Tensor) -> Tensor:
    """At least in single precision."""
    return x if x.dtype == torch.float64 else x.float()
