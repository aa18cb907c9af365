"""Bidirectional focal attention (Liu et al., ACM MM 2019)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from crossmodal_bench.similarity.cross_attention import REGIONS, WORDS, Block, blockwise, pack
from crossmodal_bench.similarity.scan import scan_attention

Focal = Literal["equal", "prob"]


def bfan_similarity(
    regions: Tensor, words: Tensor, lengths: Tensor, focal: Focal = "equal", lambda_softmax: float = 20.0
) -> Tensor:
    """BFAN's similarity of every image with every caption: the sum of both directions' mean cosines.

    Each side attends to the other as in SCAN; fragments that receive less attention than the others are
    dropped, and their attention is redistributed among the rest (Eq. 4-8).

    Args:
        regions: (N, R, D).
        words: (M, L, D), padded, or (sum of lengths, D), packed caption by caption.
        lengths: (M,) words of each caption, at least 1.
        focal: how the others are weighted when a fragment is compared with them: ``equal``: all alike;
            ``prob``: by the square root of their own attention.
        lambda_softmax: inverse temperature of the attention.

    Returns:
        (N, M), higher is better.

    Raises:
        ValueError: mismatched shapes, an image without regions, a caption without words, or an unknown focal.

    Examples:
        >>> import torch
        >>> regions = torch.eye(4).reshape(2, 2, 4)  # two images of two regions each
        >>> words = torch.eye(4)[None, :2]  # a caption, each word of which one region shows
        >>> bfan_similarity(regions, words, torch.tensor([2])).round(decimals=2)
        tensor([[2.],
                [0.]])
    """

    def score(block: Block) -> Tensor:
        of_words, of_regions = (
            focal_weights(
                scan_attention(block.affinities, query, context, "clipped_l2norm", lambda_softmax),
                context,
                focal,
            )
            for query, context in ((WORDS, REGIONS), (REGIONS, WORDS))
        )
        return block.attended_regions(of_words).mean(1) + block.attended_words(of_regions).mean(2)

    return blockwise(regions, pack(words, lengths) if words.ndim == 3 else words, lengths, score)


def focal_weights(attention: Tensor, context: int, focal: Focal) -> Tensor:
    """Attention without the fragments below the (weighted) average of the others, renormalised to sum to 1.

    If no fragment is above it, because all receive the same attention (a single word, say), the attention is
    left unchanged; the original divides by zero there.

    Args:
        attention: weights that sum to 1 over the axis ``context``.
        context: that axis.
        focal: see ``bfan_similarity``.

    Raises:
        ValueError: an unknown ``focal``.
    """
    kept = attention * focal_mask(attention, context, focal)
    total = kept.sum(context, keepdim=True)
    return torch.where(total > 0, kept / torch.where(total > 0, total, 1.0), attention)


def focal_mask(attention: Tensor, context: int, focal: Focal) -> Tensor:
    """1 where a fragment gets more attention than the others: sum over j of g(j) (a(i) - a(j)) > 0, else 0.

    It has no gradient, as in the original.
    """
    seen = attention.detach()
    if focal == "equal":
        above = seen * seen.shape[context] - seen.sum(context, keepdim=True)
    elif focal == "prob":
        confidence = seen.sqrt()
        above = seen * confidence.sum(context, keepdim=True) - (seen * confidence).sum(context, keepdim=True)
    else:
        raise ValueError(f"focal is '{focal}'; use 'equal' or 'prob'")
    return (above > 0).to(attention.dtype)
