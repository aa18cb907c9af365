"""What rewards share: references by image, validated candidates, and blocks that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from crossmodal_bench.caption_metrics.ngrams import ABSENT, ELSEWHERE
from crossmodal_bench.caption_metrics.sentences import (
    References,
    Sentences,
    check_range,
    described,
    longest,
    whole,
    within,
)

NUMBERS = 2**24  # word comparisons held at a time


@dataclass(frozen=True)
class Block:
    """B candidates and their references.

    words: (L, B) ids, ``ABSENT`` after the end; lengths: (B,). rows: (R, B) the sentences they are compared
    with, real: (R, B) false if an image has fewer than R. others: (M, R, B) their ids, ``ELSEWHERE`` after
    the end; other_lengths: (R, B).
    """

    words: Tensor
    lengths: Tensor
    rows: Tensor
    real: Tensor
    others: Tensor
    other_lengths: Tensor


class ReferenceScorer:
    """The references of each image, which follow the candidates to their device.

    Not a module: DDP would broadcast its buffers in every step, and a half-precision Trainer would cast them.
    """

    def __init__(self, references: References, eos_id: int | None, padding_id: int | None) -> None:
        self.sentences = Sentences.of(references, "references", eos_id, padding_id)
        self.eos_id = eos_id
        self.padding_id = padding_id
        self._step = NUMBERS // max(1, int(self.sentences.counts.max() + 1) * longest(self.sentences.lengths))

    def blocks(self, candidates: Tensor, image_indices: Tensor) -> Iterator[Block]:
        """The candidates, one part at a time, and at least one part.

        Raises:
            ValueError: shapes other than (B, L) and (B,), non-integers, ids below 0 in a sentence, or an
                image without references.
        """
        words, lengths = self._words(candidates)
        images = self._images(image_indices, len(lengths)).to(words.device)
        self.sentences = self.sentences.to(words.device)
        step = max(1, self._step // max(1, len(words)))
        parts = (words.split(step, 1), lengths.split(step), images.split(step))
        for part, own, image in zip(*parts, strict=True):
            counts = self.sentences.counts[image]
            position = torch.arange(max(1, longest(counts)), device=part.device)[:, None]
            real = position < counts
            rows = (self.sentences.firsts[image] + position).where(real, 0)
            yield Block(part, own, rows, real, *self.sentences.padded(rows, real, ELSEWHERE))

    def _words(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        if candidates.ndim != 2 or not whole(candidates):
            raise ValueError(f"candidates {described(candidates)} must be (B, L) token ids, integers")
        if candidates.device.type == "mps":  # has no float64
            candidates = candidates.cpu()
        widths = torch.full(candidates.shape[:1], candidates.shape[1], device=candidates.device)
        inside = within(candidates.reshape(-1), widths, self.eos_id, self.padding_id).view(candidates.shape)
        lengths = inside.sum(1)
        words = candidates.long().masked_fill(~inside, 0)[:, : longest(lengths)]
        check_range(words, "candidates")
        words = words.int().masked_fill(~inside[:, : words.shape[1]], ABSENT)
        return words.T.contiguous(), lengths

    def _images(self, image_indices: Tensor, batch: int) -> Tensor:
        if image_indices.shape != (batch,) or not whole(image_indices):
            raise ValueError(f"image_indices {described(image_indices)} must be ({batch},) integers")
        known = len(self.sentences.counts)
        if batch and (int(image_indices.min()) < 0 or int(image_indices.max()) >= known):
            raise ValueError(
                f"image_indices range from {int(image_indices.min())} to {int(image_indices.max())}, "
                f"but the references are those of images 0 to {known - 1}"
            )
        return image_indices.long()
