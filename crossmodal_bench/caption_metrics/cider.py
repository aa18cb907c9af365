"""CIDEr-D (Vedantam et al., CVPR 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from crossmodal_bench.caption_metrics.ngrams import ABSENT, DocumentFrequencies, ngram_counts
from crossmodal_bench.caption_metrics.scorer import NUMBERS, ReferenceScorer
from crossmodal_bench.caption_metrics.sentences import References, Sentences, longest

ORDER, SIGMA = 4, 6.0


class CiderD(ReferenceScorer):
    """CIDEr-D of candidates against the references of their images, on token ids.

    As in the standard evaluation code (whose "CIDEr" is CIDEr-D as well): n-grams of 1 to 4 words, weighted
    by tf times log D - log max(1, df); a candidate's weight is clipped to the reference's; the cosine of the
    two is multiplied by exp(-d² / 2σ²), σ = 6; then 10 times the mean over n and over the references. d is
    the paper's difference in length, in *bigrams* as that code counts it: the same as in words, except for an
    empty sentence. If all weights are 0, so is the score.

    The index is built once, here, and follows the candidates to their device. It holds the references' ids,
    four norms for each, and the frequencies of the n-grams that occur in at least two images.

    Args:
        references: one entry per image, its captions: an (N, R, L) tensor of ids, or a sequence with an
            (R, L) tensor or a sequence of id sequences for each image, with any R and L. A sentence is
            everything up to and including the first ``eos_id``; without any, the whole row.
        document_frequency_corpus: references over which document frequencies are counted, each n-gram once
            per image; None: ``references``; with a single image, all its frequencies give a score of 0.
        eos_id: the id that ends a sentence and is its last word, None if there is none. If candidates end
            with it, so must the references.
        padding_id: an id that is not a word, and *before* which a sentence ends, for rows padded without an
            EOS; ``eos_id`` takes precedence if both are the same.
        dtype: of the scores; they are computed in double precision.

    Raises:
        ValueError: references that are not ids, or an image without any.
    """

    def __init__(
        self,
        references: References,
        document_frequency_corpus: References | None = None,
        eos_id: int | None = 0,
        padding_id: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(references, eos_id, padding_id)
        corpus = self.sentences
        if document_frequency_corpus is not None:
            corpus = Sentences.of(document_frequency_corpus, "document_frequency_corpus", eos_id, padding_id)
        self.frequencies = DocumentFrequencies.of(corpus, ORDER)
        self.norms = self._norms_of_references()
        self.dtype = dtype

    @torch.no_grad()
    def __call__(self, candidates: Tensor, image_indices: Tensor) -> Tensor:
        """(B,) scores, from 0 to 10, of (B, L) ids against the references of images ``image_indices`` (B,).

        Whatever follows the first EOS of a candidate is ignored. Ids that no reference has are words as well.

        Raises:
            ValueError: other shapes, non-integers, ids below 0, or an image without references.
        """
        scores = []
        for block in self.blocks(candidates, image_indices):
            device = block.words.device
            self.frequencies, self.norms = self.frequencies.to(device), self.norms.to(device)
            cosines = torch.zeros_like(block.real, dtype=torch.float64)
            counts = ngram_counts(block.words, block.others, ORDER)
            weights = self.frequencies.idf(block.words)
            norms = self.norms[block.rows].unbind(2)
            for (own, theirs), idf, norm in zip(counts, weights, norms, strict=True):
                squares = idf.square() / own.clamp(min=1)
                # Every occurrence of a repeated n-gram carries the n-gram's term, hence the division.
                shared = (theirs.minimum(own) * theirs * squares).sum(1)
                norm = norm * _norm(own, idf)
                cosines += torch.where(norm > 0, shared / norm, 0)
            apart = _bigrams(block.lengths) - _bigrams(block.other_lengths)
            penalty = torch.exp(-apart.double().square() / (2 * SIGMA**2))
            total = (cosines * penalty).masked_fill(~block.real, 0).sum(0)
            scores.append(10 / ORDER * total / block.real.sum(0))
        return torch.cat(scores).to(candidates.device, self.dtype)

    def _norms_of_references(self) -> Tensor:
        """(S, 4) lengths of the references' tf-idf vectors."""
        lengths = self.sentences.lengths
        norms = torch.zeros(len(lengths), ORDER, dtype=torch.float64)
        # From short to long, to pad as little as possible.
        for rows in lengths.argsort().split(max(1, NUMBERS // max(1, longest(lengths)) ** 2)):
            words, _ = self.sentences.padded(rows, torch.ones_like(rows, dtype=torch.bool), ABSENT)
            nothing = words.new_empty((0, 0, len(rows)))
            counts = ngram_counts(words, nothing, ORDER)
            for n, ((own, _), idf) in enumerate(zip(counts, self.frequencies.idf(words), strict=True)):
                norms[rows, n] = _norm(own, idf)
        return norms


def _norm(counts: Tensor, idf: Tensor) -> Tensor:
    """(B,): summing count × idf² over positions equals summing (count × idf)² over distinct n-grams."""
    return (counts * idf.square()).sum(0).sqrt()


def _bigrams(lengths: Tensor) -> Tensor:
    return (lengths - 1).clamp(min=0)
