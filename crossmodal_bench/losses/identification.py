"""Identification: which person, species or image a feature belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SampledClasses:
    """A sample of the classes, to approximate the full softmax denominator.

    Attributes:
        index: (K,) distinct classes, including the batch's own.
        target: (B,) position in ``index`` of each item's class.
        correction: (K,) added to each class's logit: 0 for the batch's own classes, which are always
            included, and for the others minus the logarithm of their inclusion probability. The expectation
            of the corrected denominator over all draws is then the full one; its logarithm, and so the loss,
            is biased low, by less the more classes are drawn.
    """

    index: Tensor
    target: Tensor
    correction: Tensor

    @classmethod
    def draw(cls, identities: Tensor, classes: int, sampled: int) -> SampledClasses:
        """The batch's own classes, plus enough others for B + ``sampled`` in total (at most all of them).

        The others are drawn uniformly without replacement. Nothing is read back from a device.

        Args:
            identities: (B,) classes in 0..classes-1.
            classes: number of classes.
            sampled: at least 1.
        """
        count = min(classes, len(identities) + sampled)
        # Random numbers are below 1, so the batch's own classes come first.
        order = torch.rand(classes, device=identities.device).index_fill(0, identities, 2.0)
        index = order.topk(count).indices
        is_own = order.index_select(0, index) == 2
        own = is_own.sum()
        share = (count - own) / (classes - own).clamp(min=1)
        correction = torch.where(is_own | (share == 0), 0.0, -share.log())
        position = torch.empty(classes, dtype=torch.int64, device=index.device)
        position.index_copy_(0, index, torch.arange(count, device=index.device))
        return cls(index, position.index_select(0, identities), correction)


def norm_softmax_loss(features: Tensor, weight: Tensor, bias: Tensor | None, identities: Tensor) -> Tensor:
    """Norm-softmax cross entropy of one modality, TIMAM's Eq. 1.

    The class weights are normalised to unit length, so that only their directions matter; features keep their
    lengths, and there is no scale. The denominator of Eq. 1 sums over all classes (it prints the batch).

    Args:
        features: (B, D).
        weight: (C, D) class weights of any length.
        bias: (C,) or None.
        identities: (B,) classes in 0..C-1.

    Raises:
        ValueError: mismatched shapes.
    """
    if features.shape[1:] != weight.shape[1:] or identities.shape != features.shape[:1]:
        raise ValueError(
            f"features {tuple(features.shape)}, weight {tuple(weight.shape)} and identities "
            f"{tuple(identities.shape)} must be (B, D), (C, D) and (B,)"
        )
    return F.cross_entropy(F.linear(features, F.normalize(weight, dim=1), bias), identities)


def sampled_norm_softmax_loss(
    features: Tensor, weight: Tensor, bias: Tensor | None, drawn: SampledClasses
) -> Tensor:
    """``norm_softmax_loss`` with a sample of the classes in the denominator, for thousands of classes.

    With q the inclusion probability of a class, its logit is increased by -log q (Jean et al., "On Using Very
    Large Target Vocabulary for Neural Machine Translation", ACL 2015). With all classes drawn, this is the
    exact loss.

    Args:
        features: (B, D).
        weight: (C, D) class weights of any length.
        bias: (C,) or None.
        drawn: a sample of the C classes, for these features' identities.
    """
    chosen = drawn.correction.to(weight.dtype)
    if bias is not None:
        chosen = chosen + bias.index_select(0, drawn.index)
    return norm_softmax_loss(features, weight.index_select(0, drawn.index), chosen, drawn.target)
