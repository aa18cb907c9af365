"""Triplet ranking of matching pairs against the batch's other pairs (VSE++, SCAN; ADDR, Eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor


def triplet_ranking_loss(
    scores: Tensor, margin: float = 0.2, hardest: bool = True, image_ids: Tensor | None = None
) -> Tensor:
    """Hinge ranking loss in both directions, summed over the batch as in the originals (ADDR, Eq. 1).

    Args:
        scores: (B, B) similarities of images (rows) with captions (columns); the diagonal holds the pairs.
        margin: by how much a pair must outscore its negatives.
        hardest: use only each query's most similar negative (VSE++'s MH); otherwise sum over all of them.
        image_ids: (B,) the image of each pair, so that captions of the same image are not each other's
            negatives. None: they are, as in the originals.

    Returns:
        A scalar; 0 for a single pair.

    Raises:
        ValueError: scores that are not square, or the wrong number of ids.

    Examples:
        >>> import torch
        >>> scores = torch.tensor([[0.9, 0.8], [0.1, 0.7]])
        >>> triplet_ranking_loss(scores, margin=0.2).round(decimals=3)  # 0.1 and 0.3 too close
        tensor(0.4000)
    """
    rivals = _negatives(scores, image_ids)
    pairs = scores.diagonal()
    of_images = (margin + scores - pairs[:, None]).clamp(min=0).masked_fill(~rivals, 0)
    of_texts = (margin + scores - pairs[None, :]).clamp(min=0).masked_fill(~rivals, 0)
    if hardest:
        return of_images.amax(1).sum() + of_texts.amax(0).sum()
    return of_images.sum() + of_texts.sum()


def hardest_negatives(scores: Tensor, image_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """For each image, the pair with its hardest negative caption; for each caption, with its hardest image.

    ADDR's q and r (section IV-B). ``scores`` and ``image_ids`` are as for ``triplet_ranking_loss``.

    Returns:
        Two (B,) vectors of pair indices; a pair without any negative is its own.
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
