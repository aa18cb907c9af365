"""BLEU and CIDEr of captions as strings, for a whole corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crossmodal_bench.caption_metrics.bleu import Bleu, BleuCounts
from crossmodal_bench.caption_metrics.cider import CiderD

_PADDING = -1


@dataclass(frozen=True)
class CaptionComparison:
    """A caption for each image along with the image's own, from which caption metrics are computed.

    candidates: one caption per image, with lower-case words separated by spaces, without punctuation, as
        produced by the standard tools.
    references: the captions of each image, likewise.
    """

    candidates: list[str]
    references: list[list[str]]

    @cached_property
    def bleu_scores(self) -> list[float]:
        """BLEU-1 to BLEU-4, which share their counts."""
        return bleu_scores(self.candidates, self.references, order=4)


def bleu(comparison: CaptionComparison, order: int) -> float:
    """BLEU with n-grams of up to ``order`` words, a fraction."""
    return comparison.bleu_scores[order - 1]


def cider(comparison: CaptionComparison) -> float:
    """CIDEr-D, from 0 to 10; document frequencies are counted on the references."""
    return cider_score(comparison.candidates, comparison.references)[0]


def bleu_scores(
    candidates: Sequence[str], references: Sequence[Sequence[str]], order: int = 4
) -> list[float]:
    """BLEU-1 to BLEU-``order`` of a corpus (Papineni et al., ACL 2002), fractions.

    Counts and lengths are summed over the corpus before division, so this is not a mean of sentence scores.
    The reference length is that of the closest reference. Smoothed like ``caption_metrics.bleu.Bleu``.

    Args:
        candidates: one caption for each image; words are separated by whitespace, so tokenise first.
        references: the captions of each image.
        order: length of the longest n-grams.

    Raises:
        ValueError: no candidates, another number of references, an image without any, or an order below 1.
    """
    vocabulary: dict[str, int] = {}
    given = _references(references, "references", vocabulary)
    scorer = Bleu(given, order, eos_id=None, padding_id=_PADDING)
    counts = scorer.counts(*_candidates(candidates, len(given), vocabulary))
    scores: list[float] = BleuCounts(*(part.sum(0) for part in counts)).scores().tolist()
    return scores


def cider_score(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    document_frequency_corpus: Sequence[Sequence[str]] | None = None,
) -> tuple[float, NDArray[np.float64]]:
    """CIDEr-D of a corpus, the mean of its captions, and of each caption: (M,), from 0 to 10.

    Published "CIDEr" is CIDEr-D too: in the standard code, the two coincide. See
    ``caption_metrics.cider.CiderD`` for the definition.

    Args:
        candidates: one caption for each image; words are separated by whitespace, so tokenise first.
        references: the captions of each image.
        document_frequency_corpus: captions of other images over which document frequencies are counted;
            None: ``references``, in which case a single image scores 0.

    Raises:
        ValueError: no candidates, another number of references, or an image without any.
    """
    vocabulary: dict[str, int] = {}
    given = _references(references, "references", vocabulary)
    corpus = document_frequency_corpus
    frequent = None if corpus is None else _references(corpus, "document_frequency_corpus", vocabulary)
    scorer = CiderD(given, frequent, eos_id=None, padding_id=_PADDING, dtype=torch.float64)
    scores: NDArray[np.float64] = scorer(*_candidates(candidates, len(given), vocabulary)).numpy()
    return float(scores.mean()), scores


def _candidates(captions: Sequence[str], images: int, vocabulary: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Padded (M, L) ids of captions, and the image of each."""
    if isinstance(captions, str) or len(captions) != images:
        fault = "is one string" if isinstance(captions, str) else f"has {len(captions)} captions"
        raise ValueError(f"candidates {fault}, but references has {images} images; give one for each")
    ids = [torch.tensor(_ids(caption, vocabulary), dtype=torch.int64) for caption in captions]
    return pad_sequence(ids, batch_first=True, padding_value=_PADDING), torch.arange(images)


def _references(
    captions: Sequence[Sequence[str]], name: str, vocabulary: dict[str, int]
) -> list[list[list[int]]]:
    if isinstance(captions, str) or any(isinstance(image, str) for image in captions):
        raise ValueError(f"{name} must hold a sequence of captions for each image, not a single string")
    return [[_ids(caption, vocabulary) for caption in image] for image in captions]


def _ids(caption: str, vocabulary: dict[str, int]) -> list[int]:
    return [vocabulary.setdefault(word, len(vocabulary)) for word in caption.split()]
