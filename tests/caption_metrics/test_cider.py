"""CIDEr-D against the usual package (golden arrays), a naive computation by dictionaries, and by hand."""

from __future__ import annotations

import copy
import math
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmodal_bench.caption_metrics import CiderD, scorer

GOLDEN = Path(__file__).parents[1] / "golden" / "self_critical.npz"
References = list[list[list[int]]]


@pytest.fixture(scope="module")
def golden() -> Iterator[dict[str, Tensor]]:
    with np.load(GOLDEN) as arrays:
        numbers = [name for name in arrays.files if arrays[name].dtype.kind in "fi"]
        yield {name: torch.from_numpy(np.asarray(arrays[name])) for name in numbers}


def golden_corpus() -> References:
    with np.load(GOLDEN) as arrays:
        texts = arrays["df_train_refs"].tolist()
    return [[[int(word) for word in text.split()] for text in image.split("|")] for image in texts]


def grams(words: Sequence[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def naive(words: list[int], references: list[list[int]], corpus: References) -> float:
    """From the definition, one n-gram at a time."""
    total = 0.0
    for n in range(1, 5):
        frequency = Counter(gram for image in corpus for gram in set().union(*(grams(s, n) for s in image)))

        def vector(
            words: list[int], n: int = n, frequency: Counter[tuple[int, ...]] = frequency
        ) -> dict[tuple[int, ...], float]:
            return {
                gram: count * math.log(len(corpus) / max(1, frequency[gram]))
                for gram, count in grams(words, n).items()
            }

        own = vector(words)
        for reference in references:
            theirs = vector(reference)
            norm = math.hypot(*own.values()) * math.hypot(*theirs.values())
            product = sum(
                min(weight, theirs.get(gram, 0)) * theirs.get(gram, 0) for gram, weight in own.items()
            )
            apart = max(0, len(words) - 1) - max(0, len(reference) - 1)
            if norm:
                total += product / norm * math.exp(-(apart**2) / 72)
    return 10 * total / 4 / len(references)


def drawn(generator: torch.Generator, longest: int, vocabulary: int, ends: bool) -> list[int]:
    """Some words from 5 on, and an EOS of 3."""
    length = int(torch.randint(0, longest + 1, (), generator=generator))
    return [
        *torch.randint(5, 5 + vocabulary, (length,), generator=generator).tolist(),
        *([3] if ends else []),
    ]


def case(
    images: int = 9, vocabulary: int = 6, longest: int = 9
) -> tuple[References, list[list[int]], Tensor]:
    """References, 1 to 4 an image, candidates that share words with them, and the image of each."""
    generator = torch.Generator().manual_seed(images)
    references = []
    for _ in range(images):
        number = int(torch.randint(1, 5, (), generator=generator))
        references.append([drawn(generator, longest, vocabulary, True) for _ in range(number)])
    owner = torch.randint(0, images, (40,), generator=generator)
    candidates = [drawn(generator, longest + 3, vocabulary + 2, row % 3 > 0) for row in range(40)]
    for row in range(0, 40, 4):  # a reference with its last words missing
        candidates[row] = references[int(owner[row])][0][: row // 4 + 1]
    return references, candidates, owner


def padded(sentences: Sequence[Sequence[int]], filler: int = -1, width: int = 0) -> Tensor:
    width = max(width, *(len(one) for one in sentences))
    return torch.tensor([[*one, *[filler] * (width - len(one))] for one in sentences])


def exact(references: object, corpus: object = None, **options: object) -> CiderD:
    return CiderD(references, corpus, dtype=torch.float64, **options)  # type: ignore[arg-type]


def test_samples_greedy_captions_and_rewards_are_the_usual_packages(golden: dict[str, Tensor]) -> None:
    score = exact(golden["gts"], golden_corpus())
    images = torch.arange(8)
    greedy = score(golden["greedy"], images)
    sample = score(golden["sample"], images.repeat_interleave(5))
    torch.testing.assert_close(greedy, golden["cider_greedy"], rtol=0, atol=1e-12)
    torch.testing.assert_close(sample, golden["cider_sample"], rtol=0, atol=1e-12)
    reward = (sample - greedy.repeat_interleave(5))[:, None].expand_as(golden["reward"])
    torch.testing.assert_close(reward, golden["reward"], rtol=0, atol=1e-12)


def test_scores_are_single_precision_unless_asked_otherwise(golden: dict[str, Tensor]) -> None:
    score = CiderD(golden["gts"], golden_corpus())(golden["greedy"], torch.arange(8))
    assert score.dtype == torch.float32
    torch.testing.assert_close(score.double(), golden["cider_greedy"], rtol=1e-7, atol=0)


@pytest.mark.parametrize("own_corpus", [True, False])
@pytest.mark.parametrize(("images", "vocabulary", "longest"), [(9, 6, 9), (3, 2, 12), (20, 40, 3), (2, 3, 5)])
def test_it_is_a_naive_computation(images: int, vocabulary: int, longest: int, own_corpus: bool) -> None:
    references, candidates, owner = case(images, vocabulary, longest)
    corpus = references if own_corpus else case(25, vocabulary, 8)[0]
    expected = [naive(words, references[int(i)], corpus) for words, i in zip(candidates, owner, strict=True)]
    score = exact(references, None if own_corpus else corpus, eos_id=3, padding_id=-1)
    found = score(padded(candidates), owner)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    assert found.max() > 0.5


def test_ids_may_be_as_large_as_int32_holds() -> None:
    references, candidates, owner = case(6, 5, 8)
    large = {id_: 2**31 - 1 - 97_000 * id_ for id_ in range(3, 20)}
    spread = [[[large[id_] for id_ in one] for one in image] for image in references]
    words = [[large[id_] for id_ in one] for one in candidates]
    found = exact(spread, eos_id=large[3], padding_id=-1)(padded(words), owner)
    expected = exact(references, eos_id=3, padding_id=-1)(padded(candidates), owner)
    assert torch.equal(found, expected)


def test_a_vocabulary_of_27_012_words_is_a_naive_computation() -> None:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(1, 27_013, (8, 3, 12), generator=generator)
    ids[4:] = ids[:4]  # so that long n-grams occur in two images
    ids[4:, :, 5] = 27_012
    candidates = ids[:, 1].clone()
    candidates[:, 7] = 26_000
    found = exact(ids)(candidates, torch.arange(8))
    lists = ids.tolist()
    expected = [naive(one, lists[row], lists) for row, one in enumerate(candidates.tolist())]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_word_said_200_times_is_a_naive_computation() -> None:
    references = [[[1] * 200, [1, 2]], [[2, 3]], [[3, 1, 1]]]
    candidates = [[1] * 199 + [2], [1, 1]]
    found = exact(references, eos_id=None, padding_id=-1)(padded(candidates), torch.tensor([0, 2]))
    expected = [
        naive(candidates[0], references[0], references),
        naive(candidates[1], references[2], references),
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_repeated_word_counts_as_often_as_in_the_reference() -> None:
    score = exact([[[1, 2]], [[3, 4]]], eos_id=None)
    # "1 1 1" and "1 2" share one word of weight log 2, and no bigram; the first has a bigram more.
    expected = 10 / 4 * 1 / (3 * math.sqrt(2)) * math.exp(-1 / 72)
    assert float(score(torch.tensor([[1, 1, 1]]), torch.tensor([0]))) == pytest.approx(expected, abs=1e-14)


def test_a_reference_repeated_word_for_word_scores_ten() -> None:
    references = [[[5, 6, 7, 8, 9, 0]], [[1, 2, 3, 4, 0]]]
    assert float(exact(references)(torch.tensor([[5, 6, 7, 8, 9, 0]]), torch.tensor([0]))) == pytest.approx(
        10
    )


def test_all_formats_of_references_give_the_same() -> None:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 6, (5, 3, 7), generator=generator)
    images = torch.tensor([4, 0, 2, 2])
    candidates = torch.randint(0, 6, (4, 9), generator=generator)
    expected = exact(ids)(candidates, images)
    assert expected.max() > 0
    for other in (list(ids), ids.tolist(), ids.numpy(), ids.to(torch.uint8), [list(image) for image in ids]):
        assert torch.equal(exact(other)(candidates, images), expected)
    mixed = [ids[0], *ids[1:].tolist()]
    assert torch.equal(exact(mixed, ids.int())(candidates.int(), images.int()), expected)


def test_images_may_have_different_numbers_of_references_of_different_widths() -> None:
    references: list[object] = [
        torch.tensor([[5, 6, 0], [7, 8, 9]]),
        [[5, 6, 7, 8, 0]],
        [[9], [], [6, 5, 0, 5]],
    ]
    plain = [[[5, 6, 0], [7, 8, 9]], [[5, 6, 7, 8, 0]], [[9], [], [6, 5, 0]]]
    candidates = [[5, 6, 0], [5, 6, 7, 0], [6, 5, 0], [7, 8, 9, 5]]
    owner = torch.tensor([0, 1, 2, 0])
    found = exact(references)(padded(candidates, filler=0), owner)
    expected = [naive(words, plain[int(i)], plain) for words, i in zip(candidates[:3], owner, strict=False)]
    expected.append(naive([7, 8, 9, 5], plain[0], plain))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_order_of_references_and_of_images_changes_nothing() -> None:
    references, candidates, owner = case()
    expected = exact(references, eos_id=3, padding_id=-1)(padded(candidates), owner)
    turned = [image[::-1] for image in references[::-1]]
    found = exact(turned, eos_id=3, padding_id=-1)(padded(candidates), len(references) - 1 - owner)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_what_follows_the_first_eos_is_ignored() -> None:
    ends = torch.tensor([[[5, 6, 0, 0, 0]], [[7, 5, 6, 0, 0]], [[8, 9, 7, 0, 0]]])
    goes_on = torch.tensor([[[5, 6, 0, 9, 0]], [[7, 5, 6, 0, -4]], [[8, 9, 7, 0, 2**40]]])
    images = torch.arange(3)
    expected = exact(ends)(ends[:, 0], images)
    assert expected.min() > 1
    assert torch.equal(exact(goes_on)(goes_on[:, 0], images), expected)
    assert torch.equal(exact(ends)(ends[:, 0, :4], images), expected)


def test_padding_is_no_word_where_it_is_named() -> None:
    """Rows that were cut before their EOS, as a data loader pads them: EOS 3, padding 0."""
    rows = torch.tensor([[[5, 6, 3, 0, 0], [5, 7, 8, 6, 9]], [[6, 5, 0, 0, 0], [8, 3, 0, 0, 0]]])
    lists = [[[5, 6, 3], [5, 7, 8, 6, 9]], [[6, 5], [8, 3]]]
    images = torch.tensor([0, 1, 1])
    candidates = torch.tensor([[5, 7, 3, 0], [6, 5, 0, 0], [8, 6, 5, 5]])
    found = exact(rows, eos_id=3, padding_id=0)(candidates, images)
    expected = exact(lists, eos_id=3)(candidates, images)
    assert float(found[1]) == pytest.approx(naive([6, 5], lists[1], lists), abs=1e-14)
    assert float(expected[1]) == pytest.approx(naive([6, 5, 0, 0], lists[1], lists), abs=1e-14)
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


def test_nothing_said_scores_nothing() -> None:
    references = [[[5, 6, 0], [6, 0]], [[7, 0], [8, 9, 0]], [[5, 9], []]]
    score = exact(references)
    images = torch.arange(3)
    assert torch.equal(
        score(torch.zeros(3, 0, dtype=torch.int64), images), torch.zeros(3, dtype=torch.float64)
    )
    # EOS alone is a word, of two images of three.
    silent = score(torch.zeros(3, 4, dtype=torch.int64), images)
    expected = [naive([0], image, [[*image] for image in references]) for image in references]
    torch.testing.assert_close(silent, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)
    assert silent[0] > 0 and silent[2] == 0


def test_an_eos_that_every_image_has_weighs_nothing() -> None:
    score = exact([[[5, 6, 0]], [[7, 0]]])(torch.zeros(2, 3, dtype=torch.int64), torch.arange(2))
    assert torch.equal(score, torch.zeros(2, dtype=torch.float64))


def test_empty_references_score_nothing() -> None:
    assert torch.equal(
        exact([[[]], [[], []]])(torch.tensor([[5, 0]]), torch.tensor([1])), torch.zeros(1).double()
    )


def test_a_single_image_scores_nothing_without_a_corpus() -> None:
    one = [[[5, 6, 7, 8, 0], [5, 6, 7, 0]]]
    candidate, image = torch.tensor([[5, 6, 7, 8, 0]]), torch.tensor([0])
    assert exact(one)(candidate, image).tolist() == [0]
    assert exact(one, [*one, [[9, 0]]])(candidate, image) > 5


def test_words_of_no_reference_make_a_candidate_longer() -> None:
    references = [[[5, 6, 7, 8]], [[6, 5]], [[9, 8]]]
    known, unknown = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 7, 2**31 - 1, 77]])
    found = [float(exact(references, eos_id=None)(words, torch.tensor([0]))) for words in (known, unknown)]
    assert found[1] == pytest.approx(naive(unknown[0].tolist(), references[0], references), abs=1e-14)
    assert 0 < found[1] < found[0]


def test_a_batch_of_nothing_has_no_scores() -> None:
    score = CiderD([[[5, 0]], [[6, 0]]])
    for width in (0, 4):
        found = score(torch.zeros(0, width, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
        assert found.shape == (0,) and found.dtype == torch.float32


def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    references, candidates, owner = case()
    whole = exact(references, eos_id=3, padding_id=-1)(padded(candidates), owner)
    for numbers in (1, 300, 3000):
        monkeypatch.setattr(scorer, "NUMBERS", numbers)
        monkeypatch.setattr("crossmodal_bench.caption_metrics.cider.NUMBERS", numbers)
        score = exact(references, eos_id=3, padding_id=-1)
        assert len(list(score.blocks(padded(candidates), owner))) > 1
        torch.testing.assert_close(score(padded(candidates), owner), whole, rtol=0, atol=1e-14)


def test_scoring_changes_nothing_and_copies_score_alike() -> None:
    references, candidates, owner = case()
    score = CiderD(references, eos_id=3, padding_id=-1)
    size = [len(keys) for keys in score.frequencies.keys]
    first = score(padded(candidates), owner)
    assert [len(keys) for keys in score.frequencies.keys] == size
    for other in (score, copy.deepcopy(score), pickle.loads(pickle.dumps(score))):
        assert torch.equal(other(padded(candidates), owner), first)


def test_autocast_and_inference_mode_change_nothing() -> None:
    references, candidates, owner = case()
    score = CiderD(references, eos_id=3, padding_id=-1)
    expected = score(padded(candidates), owner)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = score(padded(candidates), owner)
    assert torch.equal(found, expected) and torch.equal(score(padded(candidates), owner), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_index_follows_the_candidates() -> None:
    references, candidates, owner = case()
    score = exact(references, eos_id=3, padding_id=-1)
    expected = score(padded(candidates), owner)
    found = score(padded(candidates).cuda(), owner.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(score(padded(candidates), owner), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("candidates", "images", "message"),
    [
        (torch.ones(2, 3), torch.arange(2), "candidates"),
        (torch.ones(2, 3, dtype=torch.bool), torch.arange(2), "candidates"),
        (torch.ones(3, dtype=torch.int64), torch.arange(3), "candidates"),
        (torch.tensor([[1, -1]]), torch.tensor([0]), "candidates contain an id outside"),
        (torch.tensor([[1, 2**31]]), torch.tensor([0]), "candidates contain an id outside"),
        (torch.ones(2, 3, dtype=torch.int64), torch.arange(3), "image_indices"),
        (torch.ones(2, 3, dtype=torch.int64), torch.ones(2), "image_indices"),
        (torch.ones(2, 3, dtype=torch.int64), torch.tensor([0, 2]), "image_indices range from 0 to 2"),
        (torch.ones(2, 3, dtype=torch.int64), torch.tensor([-1, 1]), "image_indices range from -1"),
    ],
)
def test_what_cannot_be_scored_is_refused(candidates: Tensor, images: Tensor, message: str) -> None:
    score = CiderD([[[5, 0]], [[6, 0]]])
    with pytest.raises(ValueError, match=message):
        score(candidates, images)


@pytest.mark.parametrize(
    "bad",
    [
        [],
        torch.zeros(0, 5, 3, dtype=torch.int64),
        torch.zeros(2, 0, 3, dtype=torch.int64),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(2, 3, 4),
        [[[1, 0]], []],
        [torch.zeros(2, 3)],
        [torch.zeros(3, dtype=torch.int64)],
        [torch.tensor(3)],
        [[1, 2]],
        [1, 2],
        [["a cat"]],
        ["a cat"],
        [[[1.5]]],
        [[[True]]],
        [[[-1, 0]]],
        [[[2**31, 0]]],
    ],
)
def test_references_that_are_no_ids_are_refused_by_name(bad: object) -> None:
    with pytest.raises(ValueError, match=r"^references"):
        CiderD(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^document_frequency_corpus"):
        CiderD([[[1, 0]]], bad)  # type: ignore[arg-type]


def test_the_image_without_references_is_named() -> None:
    with pytest.raises(ValueError, match="references has no sentence for image 1"):
        CiderD([[[1, 0]], [], [[2, 0]]])
