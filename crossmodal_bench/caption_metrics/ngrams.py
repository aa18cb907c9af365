"""n-grams of token ids: how often each occurs in other sentences, and in how many images of a corpus."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal_bench.caption_metrics.sentences import Sentences

ABSENT, ELSEWHERE = -1, -2  # after the end of a sentence, and of those it is compared with: never equal


def ngram_counts(words: Tensor, others: Tensor, order: int) -> Iterator[tuple[Tensor, Tensor]]:
    """How often each n-gram of a sentence occurs in it and in others, for n from 1 to ``order``.

    Two n-grams are equal if all their words are, so nothing is packed into a key or looked up: ids may be
    arbitrarily large. The batch is the last axis, along which comparing and adding is fastest.

    Args:
        words: (L, B) ids, ``ABSENT`` after the end.
        others: (M, R, B) sentences to compare each with, ``ELSEWHERE`` after the end.

    Yields:
        (P, B) and (R, P, B) for each n, with P = max(0, L - n + 1) positions at which an n-gram may begin; 0
        where none does. An n-gram that occurs k times appears at k positions.
    """
    own = words.masked_fill(words == ABSENT, ELSEWHERE)[:, None]
    width = max(len(words), len(others))
    sides = [F.pad(side, (0, 0, 0, 0, 0, width - len(side)), value=ELSEWHERE) for side in (own, others)]
    run = equal = torch.cat(sides, 1)[:, :, None] == words
    # Small integers are added fastest, but the product of two counts must not overflow.
    counted = torch.int16 if width**2 < 2**15 else torch.int64
    for n in range(1, order + 1):
        counts = run.sum(0, dtype=counted)
        yield counts[0], counts[1:]
        run = run[:-1, :, :-1] & equal[n:, :, n:]


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many of D images each n-gram occurs, n from 1 to ``len(keys)``.

    An n-gram of one image has the same weight as an unknown one (log 1 = log max(1, 0)), so only those of at
    least two images are kept: a small part of a corpus's, and both the first and the last n - 1 words of each
    are kept too. So an n-gram is encoded as a number, the rank of its first n - 1 words times V plus that of
    its last word, which stays below (number of words in the corpus)^2 whatever the ids are.

    keys: for each n, the sorted numbers; for n = 1, the ids themselves. counts: the frequency of each.
    """

    images: int
    keys: tuple[Tensor, ...]
    counts: tuple[Tensor, ...]

    @classmethod
    def of(cls, corpus: Sentences, order: int) -> DocumentFrequencies:
        """Count each n-gram once per image."""
        sentence = torch.arange(len(corpus.lengths)).repeat_interleave(corpus.lengths)
        image = torch.arange(len(corpus.counts)).repeat_interleave(corpus.counts)[sentence]
        numbers = corpus.ids.long()
        places = torch.arange(len(numbers))
        keys: list[Tensor] = []
        counts: list[Tensor] = []
        first = ranks = numbers
        for n in range(1, order + 1):
            if n > 1:
                # An n-gram starts where, within a sentence, those at this and at the next position are kept.
                here = torch.arange(max(0, len(first) - n + 1))
                going_on = (ranks[here] >= 0) & (ranks[here + 1] >= 0)
                places = here[going_on & (sentence[here] == sentence[here + n - 1])]
                numbers = ranks[places] * len(keys[0]) + first[places + n - 1]
            key, count, found = _frequent(numbers, image[places])
            keys.append(key)
            counts.append(count)
            ranks = torch.full_like(first, -1)
            ranks[places] = found
            if n == 1:
                first = ranks
        return cls(len(corpus.counts), tuple(keys), tuple(counts))

    def to(self, device: torch.device) -> DocumentFrequencies:
        """The table on another device."""
        keys = tuple(tensor.to(device) for tensor in self.keys)
        counts = tuple(tensor.to(device) for tensor in self.counts)
        return DocumentFrequencies(self.images, keys, counts)

    def idf(self, words: Tensor) -> Iterator[Tensor]:
        """log D - log max(1, frequency) of the n-gram at each place of (L, B) ids: (P, B), float64, per n."""
        first = ranks = words.long()
        for n, (keys, counts) in enumerate(zip(self.keys, self.counts, strict=True), 1):
            if n > 1:
                last = first[n - 1 :]
                before = ranks[: len(last)]
                known = (before >= 0) & (last >= 0)
                ranks = torch.where(known, before * len(self.keys[0]) + last, -1)
            ranks = _find(keys, ranks)
            if n == 1:
                first = ranks
            frequency = torch.ones_like(ranks) if not len(keys) else counts[ranks.clamp(min=0)]
            frequency = frequency.masked_fill(ranks < 0, 1)
            yield math.log(self.images) - frequency.double().log()


def _frequent(numbers: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted distinct numbers of at least two images, in how many, and the rank of each number or -1.

    ``image`` must be non-decreasing.
    """
    if not len(numbers):
        return numbers, numbers, numbers
    ordered, order = numbers.sort(stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    image = image[order]
    new_image = new.clone()
    new_image[1:] |= image[1:] != image[:-1]
    group = new.cumsum(0) - 1
    count = group[new_image].bincount()
    kept = count > 1
    ranks = torch.empty_like(numbers)
    ranks[order] = (kept.cumsum(0) - 1).masked_fill(~kept, -1)[group]
    return ordered[new][kept], count[kept], ranks


def _find(keys: Tensor, numbers: Tensor) -> Tensor:
    """The rank of each number among sorted keys, or -1."""
    if not len(keys):
        return torch.full_like(numbers, -1)
    ranks = torch.searchsorted(keys, numbers).clamp(max=len(keys) - 1)
    return ranks.masked_fill(keys[ranks] != numbers, -1)
