"""Cross-modal projection matching and classification (Zhang and Lu, ECCV 2018), as TIMAM uses them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-8


def cmpm_loss(images: Tensor, texts: Tensor, identities: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Cross-modal projection matching, TIMAM's Eq. 2-3: the sum of both directions.

    An image's row p_i is the softmax of its scalar projections onto the batch's unit texts; the loss is the
    mean over rows of KL(p_i || q_i), where q_i is uniform over the texts of the image's identity; likewise
    for texts projected onto unit images. Eq. 3 prints a minus before the sum, which would push matches apart;
    the sign here is that of CMPM's own code. q is divided by its sum (as in Eq. 2's text), not by its L2 norm
    as in a port of the code.

    Args:
        images: (B, D), not normalised.
        texts: (B, D), not normalised; row b belongs to image b.
        identities: (B,) integers; equal ones are positives of each other.
        epsilon: added to q inside the logarithm.

    Raises:
        ValueError: mismatched shapes.

    Examples:
        >>> import torch
        >>> matched = 10 * torch.eye(3)
        >>> identities = torch.arange(3)
        >>> cmpm_loss(matched, matched, identities) < cmpm_loss(matched, matched.flip(0), identities)
        tensor(True)
    """
    _check(images, texts, identities)
    same = (identities[:, None] == identities[None, :]).to(images.dtype)
    target = torch.log(same / same.sum(1, keepdim=True) + epsilon)
    return _matching(images @ F.normalize(texts, dim=1).T, target) + _matching(
        texts @ F.normalize(images, dim=1).T, target
    )


def _matching(projections: Tensor, log_target: Tensor) -> Tensor:
    log_p = F.log_softmax(projections, dim=1)
    return (log_p.exp() * (log_p - log_target)).sum(1).mean()


def cmpc_loss(images: Tensor, texts: Tensor, weight: Tensor, identities: Tensor) -> Tensor:
    """Cross-modal projection classification of the CMPM paper: the sum of both directions.

    Each feature is projected onto the unit feature of its pair and classified by a softmax with unit-norm
    class weights and no bias. TIMAM compares against CMPM + CMPC, but classifies unprojected features itself.

    Args:
        images: (B, D).
        texts: (B, D); row b belongs to image b.
        weight: (C, D) class weights of any length.
        identities: (B,) classes.

    Raises:
        ValueError: mismatched shapes.

    Examples:
        >>> import torch
        >>> vectors = 10 * torch.eye(3)
        >>> cmpc_loss(vectors, vectors, weight=torch.eye(3), identities=torch.arange(3)).round(decimals=4)
        tensor(0.0002)
    """
    _check(images, texts, identities)
    classes = F.normalize(weight, dim=1)
    unit_images, unit_texts = F.normalize(images, dim=1), F.normalize(texts, dim=1)
    onto_texts = (images * unit_texts).sum(1, keepdim=True) * unit_texts
    onto_images = (texts * unit_images).sum(1, keepdim=True) * unit_images
    return F.cross_entropy(onto_texts @ classes.T, identities) + F.cross_entropy(
        onto_images @ classes.T, identities
    )


def _check(images: Tensor, texts: Tensor, identities: Tensor) -> None:
    if images.shape != texts.shape or images.ndim != 2 or identities.shape != images.shape[:1]:
        raise ValueError(
            f"images {tuple(images.shape)}, texts {tuple(texts.shape)} "
            f"and identities {tuple(identities.shape)} must be (B, D), (B, D) and (B,)"
        )
