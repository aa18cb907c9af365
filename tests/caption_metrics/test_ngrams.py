"""Counts and document frequencies of n-grams against dictionaries."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from crossmodal_bench.caption_metrics.ngrams import ABSENT, ELSEWHERE, DocumentFrequencies, ngram_counts
from crossmodal_bench.caption_metrics.sentences import Sentences


def grams(words: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def test_counts_are_those_of_dictionaries() -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, 3, (7, 20), generator=generator, dtype=torch.int32)
    others = torch.randint(0, 3, (9, 2, 20), generator=generator, dtype=torch.int32)
    lengths = torch.randint(0, 8, (20,), generator=generator)
    other_lengths = torch.randint(0, 10, (2, 20), generator=generator)
    words[torch.arange(7)[:, None] >= lengths] = ABSENT
    others[torch.arange(9)[:, None, None] >= other_lengths] = ELSEWHERE
    for n, (own, theirs) in enumerate(ngram_counts(words, others, 5), 1):
        assert own.shape == (8 - n, 20) and theirs.shape == (2, 8 - n, 20)
        for column in range(20):
            said = words[: lengths[column], column].tolist()
            for found, sentence in (
                (own[:, column], said),
                *(
                    (theirs[r, :, column], others[: other_lengths[r, column], r, column].tolist())
                    for r in range(2)
                ),
            ):
                counts = Counter(grams(sentence, n))
                expected = [counts[gram] for gram in grams(said, n)]
                assert found.tolist() == expected + [0] * (8 - n - len(expected))


@pytest.mark.parametrize("width", [0, 1, 3])
def test_longer_ngrams_than_the_sentence_begin_nowhere(width: int) -> None:
    words = torch.ones(width, 2, dtype=torch.int32)
    found = list(ngram_counts(words, torch.ones(5, 3, 2, dtype=torch.int32), 4))
    assert [len(own) for own, _ in found] == [max(0, width - n) for n in range(4)]
    frequencies = DocumentFrequencies.of(Sentences.of([[[1, 1]], [[1]]], "references", None, None), 4)
    assert [len(idf) for idf in frequencies.idf(words)] == [max(0, width - n) for n in range(4)]


@pytest.mark.parametrize("spread", [1, 1_000_003])
@pytest.mark.parametrize("vocabulary", [2, 9])
def test_document_frequencies_are_those_of_dictionaries(vocabulary: int, spread: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)

    def drawn(longest: int) -> list[int]:
        length = int(torch.randint(0, longest + 1, (), generator=generator))
        return [spread * id_ for id_ in torch.randint(0, vocabulary, (length,), generator=generator).tolist()]

    corpus = [[drawn(8) for _ in range(1 + image % 3)] for image in range(11)]
    frequencies = DocumentFrequencies.of(Sentences.of(corpus, "references", None, None), 4)
    asked = [[*drawn(10), 7 * spread + 1][:8] for _ in range(30)]
    words = torch.full((8, 30), ABSENT, dtype=torch.int32)
    for column, one in enumerate(asked):
        words[: len(one), column] = torch.tensor(one, dtype=torch.int32)
    for n, idf in enumerate(frequencies.idf(words), 1):
        counts = Counter(gram for image in corpus for gram in {g for one in image for g in grams(one, n)})
        assert len(frequencies.keys[n - 1]) == sum(count > 1 for count in counts.values())
        for column, one in enumerate(asked):
            expected = [math.log(11) - math.log(max(1, counts[gram])) for gram in grams(one, n)]
            assert idf[: len(expected), column].tolist() == pytest.approx(expected, abs=1e-14)


def test_an_ngram_does_not_reach_into_the_next_sentence() -> None:
    corpus = [[[1], [2], [1, 3]], [[1], [2], [1, 3]]]
    frequencies = DocumentFrequencies.of(Sentences.of(corpus, "references", None, None), 2)
    assert [counts.tolist() for counts in frequencies.counts] == [[2, 2, 2], [2]]
