"""BLEU of single sentences against the usual package (golden arrays), a naive computation, and by hand."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crossmodal_bench.caption_metrics import Bleu

GOLDEN = Path(__file__).parents[1] / "golden" / "captions_cider_bleu.json"


def grams(words: Sequence[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def naive(words: list[int], references: list[list[int]], order: int) -> float:
    """From the definition, with the two small numbers."""
    product = 1.0
    for n in range(1, order + 1):
        own, theirs = grams(words, n), [grams(reference, n) for reference in references]
        matched = sum(min(count, max(one[gram] for one in theirs)) for gram, count in own.items())
        product *= (matched + 1e-15) / (max(0, len(words) - n + 1) + 1e-9)
    closest = min((abs(len(one) - len(words)), len(one)) for one in references)[1]
    ratio = (len(words) + 1e-15) / (closest + 1e-9)
    return product ** (1 / order) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1)


def exact(references: object, order: int = 4, **options: object) -> Bleu:
    return Bleu(references, order, dtype=torch.float64, **options)  # type: ignore[arg-type]


def padded(sentences: Sequence[Sequence[int]]) -> Tensor:
    width = max(len(one) for one in sentences)
    return torch.tensor([[*one, *[-1] * (width - len(one))] for one in sentences])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_sentences_are_the_usual_packages(order: int) -> None:
    golden = json.loads(GOLDEN.read_text())
    ids: dict[str, int] = {}

    def encode(caption: str) -> list[int]:
        return [ids.setdefault(word, len(ids)) for word in caption.split()]

    references = [[encode(caption) for caption in image] for image in golden["refs"].values()]
    candidates = [encode(golden["hyps"][image][0]) for image in golden["refs"]]
    score = exact(references, order, eos_id=None, padding_id=-1)
    found = score(padded(candidates), torch.arange(len(references)))
    expected = torch.tensor(golden["bleu_each"][order - 1], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", [1, 3, 4, 6])
def test_it_is_a_naive_computation(order: int) -> None:
    generator = torch.Generator().manual_seed(order)

    def drawn(longest: int) -> list[int]:
        length = int(torch.randint(0, longest, (), generator=generator))
        return torch.randint(1, 5, (length,), generator=generator).tolist()

    references = [[drawn(9) for _ in range(1 + image % 4)] for image in range(12)]
    owner = torch.arange(60) % 12
    candidates = [drawn(12) for _ in range(60)]
    found = exact(references, order, eos_id=None, padding_id=-1)(padded(candidates), owner)
    expected = [naive(one, references[int(i)], order) for one, i in zip(candidates, owner, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_eos_is_a_word_and_what_follows_it_none() -> None:
    references, candidate = [[[5, 6, 0, 9]]], [5, 7, 0, 6]
    found = exact(references, 2)(torch.tensor([candidate]), torch.tensor([0]))
    assert float(found) == pytest.approx(naive([5, 7, 0], [[5, 6, 0]], 2), rel=1e-12)


def test_of_two_references_as_near_the_shorter_counts() -> None:
    score = exact([[[1] * 5, [1] * 3]], 1, eos_id=None)
    assert float(score(torch.tensor([[1] * 4]), torch.tensor([0]))) == pytest.approx(1)
    longer = exact([[[1] * 5, [1] * 2]], 1, eos_id=None)
    assert float(longer(torch.tensor([[1] * 4]), torch.tensor([0]))) == pytest.approx(math.exp(1 - 5 / 4))


def test_a_repeated_word_counts_as_often_as_in_the_reference_that_has_it_most() -> None:
    score = exact([[[1, 1, 2, 3], [1, 4]]], 1, eos_id=None)
    assert float(score(torch.tensor([[1, 1, 1, 1]]), torch.tensor([0]))) == pytest.approx(0.5)


def test_nothing_said_scores_nothing() -> None:
    score = Bleu([[[5, 6, 0]], [[7, 0], [8, 0]]])
    found = score(torch.zeros(2, 0, dtype=torch.int64), torch.arange(2))
    assert found.tolist() == [0, 0] and found.dtype == torch.float32
    empty = score(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert empty.shape == (0,)


def test_bad_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^order is 0"):
        Bleu([[[1, 0]]], order=0)
    with pytest.raises(ValueError, match=r"^references"):
        Bleu([[]])
    with pytest.raises(ValueError, match=r"^candidates"):
        Bleu([[[1, 0]]])(torch.ones(1, 2), torch.tensor([0]))
