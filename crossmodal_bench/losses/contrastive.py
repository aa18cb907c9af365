"""Contrastive objectives over all pairs of a batch: InfoNCE as in CLIP, and SigLIP's sigmoid loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def infonce_loss(cosines: Tensor, log_scale: Tensor, identities: Tensor | None = None) -> Tensor:
    """The mean of both directions' cross-entropies (CLIP: Radford et al., ICML 2021, Figure 3).

    With logits s_ij = exp(t) cos(v_i, w_j) over B pairs,

        L = -1/2B sum_i [ log(exp(s_ii) / sum_j exp(s_ij)) + log(exp(s_ii) / sum_j exp(s_ji)) ],

    where t is learned, so the temperature exp(-t) stays positive. This is van den Oord et al.'s InfoNCE
    (2018), once for images and once for texts.

    Args:
        cosines: (B, B) of images (rows) with texts (columns); the diagonal holds the pairs.
        log_scale: t, a scalar.
        identities: (B,) integers; pairs (i, j) of the same identity are not negatives of each other: j is
            left out of the sums of i unless j = i. None: all other pairs are negatives, as in CLIP, where a
            batch rarely contains the same image twice.

    Returns:
        A scalar; 0 for a single pair.

    Raises:
        ValueError: mismatched shapes.

    Examples:
        >>> import torch
        >>> infonce_loss(torch.zeros(4, 4), log_scale=torch.tensor(0.0))  # nothing told apart: log 4
        tensor(1.3863)
    """
    logits = (log_scale.exp() * cosines).masked_fill(_spared(cosines, identities), -torch.inf)
    pairs = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


def siglip_loss(cosines: Tensor, log_scale: Tensor, bias: Tensor, identities: Tensor | None = None) -> Tensor:
    """A binary classification of every pair, summed for each image (SigLIP: Zhai et al., ICCV 2023, 3.2).

    With logits s_ij = exp(t) cos(v_i, w_j) + b over B pairs, and z_ij = 1 for i = j, else -1,

        L = -1/B sum_i sum_j log sigmoid(z_ij s_ij).

    t and b are learned. The equation in the paper's text adds b to -exp(t) cos, so that its initial value of
    -10 would make all pairs positive; its Algorithm 1, its code and this function add it to exp(t) cos.

    Args:
        cosines: (B, B) of images (rows) with texts (columns); the diagonal holds the pairs.
        log_scale: t, a scalar.
        bias: b, a scalar.
        identities: (B,) integers; pairs (i, j) of the same identity are neither positives nor negatives,
            except for i = j. None: all other pairs are negatives, as in the paper.

    Raises:
        ValueError: mismatched shapes.

    Examples:
        >>> import torch
        >>> siglip_loss(torch.zeros(4, 4), log_scale=torch.tensor(0.0), bias=torch.tensor(0.0))  # 4 log 2
        tensor(2.7726)
    """
    spared = _spared(cosines, identities)
    logits = log_scale.exp() * cosines + bias
    signs = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    return -F.logsigmoid(signs * logits).masked_fill(spared, 0).sum() / len(logits)


def _spared(cosines: Tensor, identities: Tensor | None) -> Tensor:
    """(B, B): other pairs of the same identity, which are not negatives."""
    n = len(cosines)
    if cosines.shape != (n, n) or (identities is not None and identities.shape != (n,)):
        same = "" if identities is None else f" and identities {tuple(identities.shape)}"
        raise ValueError(f"cosines {tuple(cosines.shape)}{same} must be (B, B) and (B,)")
    others = ~torch.eye(n, dtype=torch.bool, device=cosines.device)
    if identities is None:
        return torch.zeros_like(others)
    return others & (identities[:, None] == identities[None, :])
