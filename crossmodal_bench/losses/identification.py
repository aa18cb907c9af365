"""Identification: which person, species or image a feature belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SampledClasses:
    """Some of the classes, to stand for all of them in a softmax's denominator.

    Attributes:
        index: (K,) different classes, the batch's own among them.
        target: (B,) where in ``index`` each item's own class is.
        correction: (K,) what is added to each one's logit: 0 for the batch's own classes, which are always
            taken, and for the others minus the logarithm of the probability with which they were. The mean of
            the corrected denominator over all draws is then the whole one; its logarithm, and so the loss, is
            too small on average, by less the more are drawn.
    """

    index: Tensor
    target: Tensor
    correction: Tensor

    @classmethod
    def draw(cls, identities: Tensor, classes: int, sampled: int) -> SampledClasses:
        """The batch's own classes, and so many others that there are B + ``sampled`` (all of them at most).

        Others are drawn evenly and each at most once. Nothing of it is read back from a device.

        Args:
            identities: (B,) classes in 0..classes-1.
            classes: how many there are.
            sampled: at least 1.
        """
        count = min(classes, len(identities) + sampled)
        # Random numbers are below 1: the batch's own come first.
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


def sampled_norm_softmax_loss(
    features: Tensor, weight: Tensor, bias: Tensor | None, drawn: SampledClasses
) -> Tensor:
    """``norm_softmax_loss`` with some classes in place of all in the denominator, where there are thousands.

    With q the probability with which a class was taken, its logit is raised by -log q (Jean et al., "On Using
    Very Large Target Vocabulary for Neural Machine Translation", ACL 2015). With all classes drawn, this is
    the whole loss.

    Args:
        features: (B, D).
        weight: (C, D) class weights of any length.
        bias: (C,) or None.
        drawn: of C classes and these features' identities.
    """
    chosen = drawn.correction.to(weight.dtype)
    if bias is not None:
        chosen = chosen + bias.index_select(0, drawn.index)
    return norm_softmax_loss(features, weight.index_select(0, drawn.index), chosen, drawn.target)
