"""Triplet ranking of matching pairs against the batch's other pairs (VSE++, SCAN; ADDR, Eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor


def triplet_ranking_loss(
    scores: Tensor, margin: float = 0.2, hardest: bool = True, image_ids: Tensor | None = None
) -> Tensor:
    """Hinge ranking loss of both directions, summed over the batch as in the originals (ADDR, Eq. 1).

    Args:
        scores: (B, B) similarities of images (rows) with captions (columns); the diagonal holds the pairs.
        margin: by how much a pair must be ahead.
        hardest: only the most similar negative of each query counts (VSE++'s MH); else all of them, summed.
        image_ids: (B,) which image each pair has, where captions of one image shall not be each other's
            negatives. The originals count them as negatives.

    Returns:
        A scalar; 0 for a single pair.

    Raises:
        ValueError: scores that are not square, or another number of ids.
    """
    rivals = _negatives(scores, image_ids)
    pairs = scores.diagonal()
    of_images = (margin + scores - pairs[:, None]).clamp(min=0).masked_fill(~rivals, 0)
    of_texts = (margin + scores - pairs[None, :]).clamp(min=0).masked_fill(~rivals, 0)
    if hardest:
        return of_images.amax(1).sum() + of_texts.amax(0).sum()
    return of_images.sum() + of_texts.sum()


def hardest_negatives(scores: Tensor, image_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The pair whose caption is most similar to each image, and the pair whose image is to each caption.

    ADDR's q and r (section IV-B). Takes ``scores`` and ``image_ids`` as ``triplet_ranking_loss`` does.

    Returns:
        Two (B,) vectors of pairs; a pair without any negative is its own.
    """
    rivals = _negatives(scores, image_ids)
    masked = scores.detach().masked_fill(~rivals, -torch.inf)
    own = torch.arange(len(scores), device=scores.device)
    return (
        torch.where(rivals.any(1), masked.argmax(1), own),
        torch.where(rivals.any(0), masked.argmax(0), own),
    )


def _negatives(scores: Tensor, image_ids: Tensor | None) -> Tensor:
    n = len(scores)
    if scores.shape != (n, n) or (image_ids is not None and image_ids.shape != (n,)):
        ids = "" if image_ids is None else f" and image_ids {tuple(image_ids.shape)}"
        raise ValueError(f"scores {tuple(scores.shape)}{ids} must be (B, B) and (B,)")
    if image_ids is None:
        return ~torch.eye(n, dtype=torch.bool, device=scores.device)
    return image_ids[:, None] != image_ids[None, :]
