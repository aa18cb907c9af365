"""Identification: which person, species or image a feature belongs to."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def norm_softmax_loss(features: Tensor, weight: Tensor, bias: Tensor | None, identities: Tensor) -> Tensor:
    """Norm-softmax cross entropy of one modality, TIMAM's Eq. 1.

    The class weights are divided by their lengths, so that only their directions matter; features keep
    theirs, and there is no scale. The sum of Eq. 1's denominator runs over all classes (it prints the batch).

    Args:
        features: (B, D).
        weight: (C, D) class weights of any length.
        bias: (C,) or None.
        identities: (B,) classes in 0..C-1.

    Raises:
        ValueError: shapes that disagree.
    """
    if features.shape[1:] != weight.shape[1:] or identities.shape != features.shape[:1]:
        raise ValueError(
            f"features {tuple(features.shape)}, weight {tuple(weight.shape)} and identities "
            f"{tuple(identities.shape)} must be (B, D), (C, D) and (B,)"
        )
    return F.cross_entropy(F.linear(features, F.normalize(weight, dim=1), bias), identities)
