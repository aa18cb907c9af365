"""Stacked cross attention (Lee et al., ECCV 2018)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from crossmodal_bench.similarity.cross_attention import (
    REGIONS,
    WORDS,
    Block,
    FeatureNorm,
    blockwise,
    normalised_affinities,
    pack,
)

Direction = Literal["t2i", "i2t"]
Aggregation = Literal["LogSumExp", "Mean", "Max", "Sum"]


def scan_similarity(
    regions: Tensor,
    words: Tensor,
    lengths: Tensor,
    direction: Direction = "t2i",
    aggregation: Aggregation = "LogSumExp",
    feature_norm: FeatureNorm = "clipped_l2norm",
    lambda_softmax: float = 9.0,
    lambda_lse: float = 6.0,
) -> Tensor:
    """SCAN's similarity of every image with every caption.

    ``t2i`` (Eq. 8-12): each word attends to the regions and is compared with their weighted mean; ``i2t``
    (Eq. 1-7): each region attends to the words. Exact, differentiable, always in single precision at least.

    Args:
        regions: (N, R, D), of unit length in SCAN.
        words: (M, L, D), padded, or (sum of lengths, D), packed caption by caption.
        lengths: (M,) words of each caption, at least 1.
        direction: which side attends.
        aggregation: of the words' (t2i) or the regions' (i2t) cosines to one score.
        feature_norm: how affinities are normalised over the attending side before the softmax.
        lambda_softmax: inverse temperature of the attention; 9 (t2i) and 4 (i2t) in the paper.
        lambda_lse: that of LogSumExp; 6 (t2i), 5 (i2t on Flickr30K) and 20 (i2t on MS-COCO).

    Returns:
        (N, M), higher is better.

    Raises:
        ValueError: mismatched shapes, an image without regions, a caption without words, or an unknown name.

    Examples:
        >>> import torch
        >>> regions = torch.eye(4).reshape(2, 2, 4)  # two images of two regions each
        >>> words = torch.eye(4)[None, :2]  # a caption, each word of which one region shows
        >>> scan_similarity(regions, words, torch.tensor([2])).round(decimals=2)
        tensor([[1.1200],
                [0.1200]])
    """
    if direction not in ("t2i", "i2t"):
        raise ValueError(f"direction is '{direction}'; use 't2i' or 'i2t'")

    def score(block: Block) -> Tensor:
        query, context = (WORDS, REGIONS) if direction == "t2i" else (REGIONS, WORDS)
        weights = scan_attention(block.affinities, query, context, feature_norm, lambda_softmax)
        if direction == "t2i":
            return _aggregated(block.attended_regions(weights), 1, aggregation, lambda_lse)
        return _aggregated(block.attended_words(weights), 2, aggregation, lambda_lse)

    return blockwise(regions, pack(words, lengths) if words.ndim == 3 else words, lengths, score)


def scan_attention(
    affinities: Tensor, query: int, context: int, feature_norm: FeatureNorm, lambda_softmax: float
) -> Tensor:
    """SCAN's attention weights, which sum to 1 over the axis ``context`` for each item of ``query``.

    Args:
        affinities: dot products of words and regions, with an axis for each.
        query: the axis that attends.
        context: the axis that is attended to.
        feature_norm, lambda_softmax: as in ``scan_similarity``.
    """
    return (lambda_softmax * normalised_affinities(affinities, query, feature_norm)).softmax(context)


def _aggregated(cosines: Tensor, axis: int, how: Aggregation, lambda_lse: float) -> Tensor:
    if how == "LogSumExp":
        return torch.logsumexp(lambda_lse * cosines, axis) / lambda_lse
    if how == "Mean":
        return cosines.mean(axis)
    if how == "Max":
        return cosines.amax(axis)
    if how == "Sum":
        return cosines.sum(axis)
    raise ValueError(f"aggregation is '{how}'; use 'LogSumExp', 'Mean', 'Max' or 'Sum'")
