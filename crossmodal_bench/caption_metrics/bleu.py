"""BLEU (Papineni et al., ACL 2002)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from crossmodal_bench.caption_metrics.ngrams import ngram_counts
from crossmodal_bench.caption_metrics.scorer import ReferenceScorer
from crossmodal_bench.caption_metrics.sentences import References

# What the standard caption evaluation code adds to numerator and denominator, so that no ratio is 0 / 0.
_ABOVE, _BELOW = 1e-15, 1e-9


class BleuCounts(NamedTuple):
    """The counts from which BLEU is computed; summed over sentences, they give a corpus's.

    matched, all: (..., order) n-grams found in a reference, and in total; length, closest: (...) words in the
    candidate and in the reference closest in length.
    """

    matched: Tensor
    all: Tensor
    length: Tensor
    closest: Tensor

    def scores(self) -> Tensor:
        """(..., order) BLEU-1 to BLEU-order: brevity penalty times the geometric mean of the precisions."""
        matched, every, length, closest = (part.double() for part in self)
        precisions = (matched + _ABOVE) / (every + _BELOW)
        n = torch.arange(1, precisions.shape[-1] + 1, device=precisions.device)
        ratio = (length + _ABOVE) / (closest + _BELOW)
        brevity = torch.exp((1 - 1 / ratio).clamp(max=0))
        return precisions.cumprod(-1) ** (1 / n.double()) * brevity[..., None]


class Bleu(ReferenceScorer):
    """BLEU of single sentences against the references of their images, on token ids.

    An n-gram counts up to its maximal count in any one reference; the reference length is that of the closest
    one, the shorter in a tie. Smoothed by 1e-15 in the numerator and 1e-9 in the denominator, as in published
    caption scores, so a sentence without a single common n-gram scores near 0 but not 0.

    Args:
        references: as for ``CiderD``.
        order: length of the longest n-grams; all shorter ones count too.
        eos_id: as for ``CiderD``: the last word of a sentence, None if there is none.
        padding_id: as for ``CiderD``.
        dtype: of the scores; they are computed in double precision.

    Raises:
        ValueError: references that are not ids, an image without any, or an order below 1.
    """

    def __init__(
        self,
        references: References,
        order: int = 4,
        eos_id: int | None = 0,
        padding_id: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if order < 1:
            raise ValueError(f"order is {order}; it must be at least 1")
        super().__init__(references, eos_id, padding_id)
        self.order = order
        self.dtype = dtype

    def __call__(self, candidates: Tensor, image_indices: Tensor) -> Tensor:
        """(B,) scores, from 0 to 1, of (B, L) ids against the references of images ``image_indices`` (B,).

        Raises:
            ValueError: other shapes, non-integers, ids below 0, or an image without references.
        """
        scores = self.counts(candidates, image_indices).scores()[:, -1]
        return scores.to(candidates.device, self.dtype)

    @torch.no_grad()
    def counts(self, candidates: Tensor, image_indices: Tensor) -> BleuCounts:
        """The counts behind the scores of (B, L) candidates; arguments and exceptions as for a call."""
        blocks = []
        for block in self.blocks(candidates, image_indices):
            matched = [
                # Every occurrence of a repeated n-gram carries the n-gram's count.
                (theirs.amax(0).minimum(own) / own.clamp(min=1).double()).sum(0).round().long()
                for own, theirs in ngram_counts(block.words, block.others, self.order)
            ]
            n = torch.arange(self.order, device=block.words.device)
            every = (block.lengths[:, None] - n).clamp(min=0)
            apart = (block.other_lengths - block.lengths).abs()
            least = apart.masked_fill(~block.real, torch.iinfo(torch.int64).max).amin(0)
            nearest = (apart == least) & block.real
            closest = block.other_lengths.masked_fill(~nearest, torch.iinfo(torch.int64).max).amin(0)
            blocks.append(BleuCounts(torch.stack(matched, 1), every, block.lengths, closest))
        return BleuCounts(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))
