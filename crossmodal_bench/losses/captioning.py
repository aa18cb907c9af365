"""Learning to write captions: cross entropy, and self-critical reinforcement (GXN, Eq. 4-7)."""

from __future__ import annotations

import torch
from torch import Tensor


def sentence_mask(words: Tensor, end: int) -> Tensor:
    """(B, L) ids to (B, L) booleans: each row's words up to and including its first ``end``.

    A row without ``end`` counts in full.
    """
    ended = words == end
    return ended.cumsum(1) - ended.long() == 0


def caption_cross_entropy(log_likelihoods: Tensor, mask: Tensor) -> Tensor:
    """Eq. 4 as a mean over words, so that it and the reward of Eq. 7 have the same scale at any length.

    Args:
        log_likelihoods: (B, L) log probability of each true word.
        mask: (B, L) which of them are words.
    """
    return -_mean(log_likelihoods, mask)


def self_critical_loss(log_likelihoods: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Eq. 6 as a mean over words; its gradient is that of the expected reward (Rennie et al., CVPR 2017).

    Args:
        log_likelihoods: (B, L) log probability of each word of a sampled caption.
        advantage: (B,) the caption's reward minus the baseline's; no gradient passes through it.
        mask: (B, L) which of them are words, including the first end token.
    """
    return -_mean(log_likelihoods * advantage.detach()[:, None].to(log_likelihoods.dtype), mask)


def ramp(first: float, last: float, epoch: int, epochs: int) -> float:
    """Linear from ``first`` in the first epoch to ``last`` in the last one; GXN's gamma of Eq. 7."""
    return first + (last - first) * min(1.0, max(0, epoch) / max(1, epochs - 1))


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    if values.shape != mask.shape:
        raise ValueError(f"values {tuple(values.shape)} and mask {tuple(mask.shape)} differ in shape")
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)
