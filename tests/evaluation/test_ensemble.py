from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation import (
    PROTOCOLS,
    Evaluation,
    evaluate,
    get_protocol,
    retrieval_ranks,
)
from crossmodal_bench.evaluation.ensemble import Member, evaluate_ensemble, summed

N_IMAGES, N_TEXTS = 150, 460
RECALL = get_protocol("flickr30k-1k").of_any_size()
OWNER = np.sort(np.concatenate([np.arange(N_IMAGES), np.random.default_rng(0).integers(0, N_IMAGES, 310)]))
ORDER = np.random.default_rng(1).permutation(N_TEXTS)


def dot(images: Encoding, texts: Encoding) -> Tensor:
    return images.values @ texts.values.T


def vectors(seed: int, dtype: torch.dtype = torch.float32) -> Member:
    draw = torch.Generator().manual_seed(seed)
    images, texts = (Encoding(torch.randn(n, 24, generator=draw).to(dtype)) for n in (N_IMAGES, N_TEXTS))
    return Member(images, texts, dot)


def fragments(seed: int) -> Member:
    """Five regions against one to seven words: the mean over words of the best region."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (N_TEXTS,), generator=draw)
    words = torch.randn(int(lengths.sum()), 16, generator=draw)

    def best(images: Encoding, texts: Encoding) -> Tensor:
        assert texts.lengths is not None
        matched = torch.einsum("ird,wd->irw", images.values, texts.values).amax(1)
        parts = matched.split(texts.lengths.tolist(), 1)
        return torch.stack([part.mean(1) for part in parts], 1)

    return Member(Encoding(torch.randn(N_IMAGES, 5, 16, generator=draw)), Encoding(words, lengths), best)


KINDS: dict[str, Callable[[int], Member]] = {
    "vectors": vectors,
    "halves": lambda seed: vectors(seed, torch.bfloat16),
    "doubles": lambda seed: vectors(seed, torch.float64),
    "fragments": fragments,
}


def same(first: Evaluation, second: Evaluation) -> None:
    assert first.metrics == second.metrics
    assert first.ranks is not None and second.ranks is not None
    for name, array in first.ranks.arrays().items():
        other = second.ranks.arrays()[name]
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other, err_msg=name)


@pytest.mark.parametrize("owner", [OWNER, OWNER[ORDER]], ids=["sorted", "mixed"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_member_gives_exactly_its_own_results(kind: str, owner: np.ndarray) -> None:
    one = KINDS[kind](3)
    alone = evaluate(RECALL, one.images, one.texts, one.score, owner)
    same(evaluate_ensemble(RECALL, [one], owner), alone)


def test_one_member_gives_its_own_results_in_folds_and_by_label() -> None:
    labels = np.random.default_rng(2).integers(0, 6, N_IMAGES)
    protocol = replace(RECALL, folds=5, families=("ranks", "label_precision"))
    for one in (vectors(1), fragments(1)):
        alone = evaluate(protocol, one.images, one.texts, one.score, OWNER, labels)
        together = evaluate_ensemble(protocol, [one], OWNER, labels)
        same(together, alone)
        assert "mAP" in together.metrics and together.curves == alone.curves


@pytest.mark.parametrize(
    "members",
    [(vectors(1), vectors(2)), (fragments(1), fragments(2), fragments(3)), (vectors(1), fragments(2))],
    ids=["vectors", "fragments", "both"],
)
def test_ranks_are_those_of_the_sum(members: tuple[Member, ...]) -> None:
    matrix = sum(member.score(member.images, member.texts) for member in members)
    assert isinstance(matrix, Tensor)
    expected = retrieval_ranks(matrix, OWNER)
    found = evaluate_ensemble(RECALL, members, OWNER).ranks
    assert found is not None
    np.testing.assert_array_equal(found.i2t, expected.i2t)
    np.testing.assert_array_equal(found.t2i, expected.t2i)
    np.testing.assert_allclose(found.i2t_top_scores, expected.i2t_top_scores, rtol=1e-4, atol=1e-5)
    alone = evaluate(RECALL, members[0].images, members[0].texts, members[0].score, OWNER).ranks
    assert alone is not None and (alone.i2t != found.i2t).any()


def test_images_are_looked_up_once_for_a_row_of_tiles() -> None:
    looked = []
    one = vectors(0)

    def score(images: Encoding, texts: Encoding) -> Tensor:
        looked.append(images)
        return dot(images, texts)

    images, texts, total = summed([Member(one.images, one.texts, score)])
    row = images[:10]
    for start in (0, 20):
        torch.testing.assert_close(
            total(row, texts[start : start + 20]),
            dot(one.images[:10], one.texts[start : start + 20]),
        )
    total(images[10:20], texts[:20])
    assert looked[0] is looked[1] and looked[2] is not looked[0]


def test_what_cannot_be_summed_is_refused() -> None:
    other = Member(vectors(0).images[:9], vectors(0).texts, dot)
    with pytest.raises(ValueError, match=r"one gallery, got .*\(9, 460\), \(150, 460\)"):
        summed([vectors(0), other])
    with pytest.raises(ValueError, match="one gallery"):
        summed([])
    species = next(
        protocol for protocol in PROTOCOLS.values() if "class_level" in protocol.families
    ).of_any_size()
    with pytest.raises(BadInput, match="averages the texts of a class"):
        evaluate_ensemble(species, [vectors(0), vectors(1)], OWNER, np.zeros(N_IMAGES, dtype=np.int64))
