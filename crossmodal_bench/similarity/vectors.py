"""Similarities of one vector with another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_similarity(images: Tensor, texts: Tensor) -> Tensor:
    """(N, D) and (M, D) to (N, M) cosines.

    Examples:
        >>> import torch
        >>> cosine_similarity(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[1., 0.]])
    """
    return F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T


def dot_product(images: Tensor, texts: Tensor) -> Tensor:
    """(N, D) and (M, D) to (N, M) inner products."""
    return images @ texts.T


def negative_euclidean(images: Tensor, texts: Tensor) -> Tensor:
    """(N, D) and (M, D) to (N, M): minus the Euclidean distance (ACMR's ranking).

    Computed as ||v||^2 + ||t||^2 - 2 v.t, a matrix product; the clamp keeps rounding from going below zero.
    """
    squares = images.square().sum(1)[:, None] + texts.square().sum(1)[None, :] - 2 * images @ texts.T
    return -squares.clamp(min=0).sqrt()


def centred(x: Tensor) -> Tensor:
    """Rows minus their own mean: the cosine of centred rows is their Pearson correlation."""
    return x - torch.mean(x, dim=1, keepdim=True)
