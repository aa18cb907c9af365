from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import Ranks, hit_at_k, retrieval_ranks, streamed_ranks
from crossmodal_bench.evaluation.ranking.tiles import ScoreTiles


def dot(images: Encoding, texts: Encoding) -> Tensor:
    return images.values @ texts.values.T


def best_match(images: Encoding, texts: Encoding) -> Tensor:
    """Mean over words of the best region: fixed regions (N, R, D) against ragged words."""
    assert texts.lengths is not None
    words = torch.einsum("ird,wd->iwr", images.values, texts.values).amax(2)
    item = torch.repeat_interleave(torch.arange(len(texts)), texts.lengths)
    sums = torch.zeros(len(images), len(texts)).index_add_(1, item, words)
    return sums / texts.lengths


def vectors(
    n_images: int, n_texts: int, dim: int = 24, seed: int = 0
) -> tuple[Encoding, Encoding, NDArray[np.int64]]:
    """Related vectors; captions uneven in number and in no order."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(n_images), rng.integers(0, n_images, n_texts - n_images)])
    rng.shuffle(owner)
    images = torch.randn(n_images, dim, generator=generator)
    texts = images[torch.from_numpy(owner)] + 2 * torch.randn(n_texts, dim, generator=generator)
    return Encoding(images), Encoding(texts), owner


def identical(first: Ranks, second: Ranks) -> None:
    for name, values in first.arrays().items():
        np.testing.assert_array_equal(values, second.arrays()[name], err_msg=name)


Threads = Callable[[int, Callable[[int, Callable[[Tensor], Tensor]], Ranks]], list[Ranks]]


@pytest.mark.parametrize(("n_images", "n_texts"), [(1, 1), (1, 7), (50, 50), (37, 191), (70, 350)])
@pytest.mark.parametrize("tiles", [(None, None), (16, 48), (7, 5)])
def test_agrees_with_the_full_matrix(
    n_images: int, n_texts: int, tiles: tuple[int | None, int | None]
) -> None:
    # Whole numbers make every product exact, so that the full matrix has the tiles' digits, ties included.
    images, texts, owner = vectors(n_images, n_texts, dim=6)
    images, texts = Encoding(images.values.round()), Encoding(texts.values.round())
    streamed = streamed_ranks(images, texts, dot, owner, image_tile=tiles[0], text_tile=tiles[1])
    identical(streamed, retrieval_ranks(dot(images, texts), owner))


@pytest.mark.parametrize("identities", [1, 4, 20, 70])
@pytest.mark.parametrize("tiles", [(None, None), (16, 48), (7, 5)])
def test_positives_by_identity_agree_with_the_full_matrix(
    identities: int, tiles: tuple[int | None, int | None]
) -> None:
    images, texts, owner = vectors(70, 350, dim=6)
    images, texts = Encoding(images.values.round()), Encoding(texts.values.round())
    identity = np.random.default_rng(1).integers(0, identities, 70)
    streamed = streamed_ranks(images, texts, dot, owner, identity, image_tile=tiles[0], text_tile=tiles[1])
    identical(streamed, retrieval_ranks(dot(images, texts), owner, image_identity=identity))


def test_more_captions_than_five_an_image_and_default_tiles() -> None:
    # COCO's proportions (25,010 captions of 5,000 images) over several default tiles.
    owner = np.concatenate([np.arange(5000) // 5, np.arange(2) * 7])
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(-40, 41, (1000, 8), generator=generator).float()
    texts = images[torch.from_numpy(owner)] + torch.randint(-40, 41, (5002, 8), generator=generator)
    streamed = streamed_ranks(Encoding(images), Encoding(texts), dot, owner)
    identical(streamed, retrieval_ranks(images @ texts.T, owner))


def test_ragged_fragments_against_the_full_matrix() -> None:
    generator = torch.Generator().manual_seed(2)
    rng = np.random.default_rng(2)
    lengths = torch.from_numpy(rng.integers(1, 9, 61))
    images = Encoding(torch.randint(-3, 4, (13, 4, 5), generator=generator).float())
    texts = Encoding(torch.randint(-3, 4, (int(lengths.sum()), 5), generator=generator).float(), lengths)
    owner = np.concatenate([np.arange(13), rng.integers(0, 13, 48)])
    rng.shuffle(owner)
    full = retrieval_ranks(best_match(images, texts), owner)
    identical(streamed_ranks(images, texts, best_match, owner, image_tile=4, text_tile=6), full)
    identical(streamed_ranks(images, texts, best_match, owner), full)


def test_a_positive_is_compared_with_the_digits_of_its_own_tile() -> None:
    # Captions are their image's own vector and each image has a ablation: recomputing the positive by another
    # kernel would make half of the ablations win. Here they tie exactly, and ties count against the query.
    base = torch.nn.functional.normalize(
        torch.randn(300, 200, generator=torch.Generator().manual_seed(3)), dim=1
    )
    images = torch.cat([base, base])
    owner = np.repeat(np.arange(600), 3)
    texts = images[torch.from_numpy(owner)]
    ranks = streamed_ranks(Encoding(images), Encoding(texts), dot, owner, image_tile=112, text_tile=80)
    assert ranks.t2i.tolist() == [2] * 1800
    assert ranks.i2t.tolist() == [4] * 600
    np.testing.assert_allclose(ranks.t2i_expected, 1.5)


def test_true_recall_of_one_stays_one() -> None:
    # The competitors lie a few ulp below the positive in every direction but never at or above it.
    images = torch.randn(500, 64, generator=torch.Generator().manual_seed(4))
    images = torch.nn.functional.normalize(images, dim=1)
    owner = np.arange(500)[::-1].copy()
    ranks = streamed_ranks(
        Encoding(images), Encoding(images.flip(0)), dot, owner, image_tile=64, text_tile=48
    )
    assert hit_at_k(ranks.of("i2t"), 1).all() and hit_at_k(ranks.of("t2i"), 1).all()
    np.testing.assert_array_equal(ranks.i2t_top[:, 0], owner)


@pytest.mark.parametrize("dim", [1, 33, 257])
def test_collapsed_embeddings_are_last_for_edges_of_any_size(dim: int) -> None:
    vector = torch.randn(1, dim, generator=torch.Generator().manual_seed(5))
    images, texts = Encoding(vector.repeat(101, 1)), Encoding(vector.repeat(505, 1))
    ranks = streamed_ranks(images, texts, dot, np.arange(505) // 5, image_tile=32, text_tile=48)
    assert set(ranks.i2t) == {501} and set(ranks.t2i) == {101}
    assert ranks.t2i_top[0].tolist() == list(range(10))


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("identities", [None, 4, 40])
def test_world_sizes_give_the_same_digits(
    world_size: int, identities: int | None, in_processes: Threads
) -> None:
    images, texts, owner = vectors(103, 511)
    identity = None if identities is None else np.random.default_rng(0).integers(0, identities, 103)
    # Twins in different tiles make ties at the cut of the top lists.
    images.values[60:80] = images.values[:20]

    def work(rank: int, reduce: Callable[[Tensor], Tensor]) -> Ranks:
        return streamed_ranks(
            images,
            texts,
            dot,
            owner,
            identity,
            image_tile=32,
            text_tile=64,
            rank=rank,
            world_size=world_size,
            reduce=reduce,
        )

    alone = streamed_ranks(images, texts, dot, owner, identity, image_tile=32, text_tile=64)
    for ranks in in_processes(world_size, work):
        identical(ranks, alone)


def test_a_non_finite_score_on_one_process_raises_on_all(in_processes: Threads) -> None:
    images, texts, owner = vectors(40, 90)
    images.values[37, 3] = float("nan")

    def work(rank: int, reduce: Callable[[Tensor], Tensor]) -> Ranks:
        return streamed_ranks(
            images,
            texts,
            dot,
            owner,
            image_tile=8,
            text_tile=16,
            rank=rank,
            world_size=3,
            reduce=reduce,
        )

    with pytest.raises(ValueError, match="row 37, column"):
        in_processes(3, work)


def test_a_non_finite_score_is_named_in_the_callers_order() -> None:
    images, texts, owner = vectors(12, 60)
    texts.values[41] = float("inf")
    with pytest.raises(ValueError, match=r"column 41\)"):
        streamed_ranks(images, texts, dot, owner, image_tile=4, text_tile=8)


def test_a_non_finite_score_is_named_in_the_callers_order_with_identities() -> None:
    images, texts, owner = vectors(12, 60)
    images.values[9] = float("nan")
    with pytest.raises(ValueError, match=r"\(row 9, column"):
        streamed_ranks(images, texts, dot, owner, -np.arange(12) // 2, image_tile=4, text_tile=8)


def test_large_finite_scores_whose_sum_overflows_are_no_error() -> None:
    images, texts, owner = vectors(12, 60)
    huge = lambda a, b: dot(a, b) * 1e36  # noqa: E731
    np.testing.assert_array_equal(
        streamed_ranks(images, texts, huge, owner).t2i, streamed_ranks(images, texts, dot, owner).t2i
    )


def test_half_precision_and_autocast_do_not_reach_the_scores() -> None:
    images, texts, owner = vectors(40, 200)
    half_images, half_texts = images.to(torch.bfloat16), texts.to(torch.bfloat16)
    exact = streamed_ranks(half_images.to(torch.float32), half_texts.to(torch.float32), dot, owner)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ranks = streamed_ranks(half_images, half_texts, dot, owner)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    identical(ranks, exact)
    assert ranks.i2t_top_scores.dtype == np.float32


def test_the_scorers_own_matrix_is_left_alone() -> None:
    images, texts, owner = vectors(20, 100)
    matrix = dot(images, texts)
    kept = matrix.clone()
    index_images = Encoding(torch.arange(20.0)[:, None])
    index_texts = Encoding(torch.arange(100.0)[:, None])

    def lookup(rows: Encoding, columns: Encoding) -> Tensor:
        return matrix if len(rows) == 20 and len(columns) == 100 else matrix[
            rows.values[:, 0].long()][:, columns.values[:, 0].long()]  # fmt: skip

    sorted_owner = np.sort(owner)
    ranks = streamed_ranks(index_images, index_texts, lookup, sorted_owner, image_tile=20, text_tile=100)
    assert torch.equal(matrix, kept)
    identical(ranks, retrieval_ranks(matrix, sorted_owner))


def test_the_full_matrix_is_never_asked_for() -> None:
    images, texts, owner = vectors(200, 1000)
    seen: list[tuple[int, int]] = []

    def counted(rows: Encoding, columns: Encoding) -> Tensor:
        seen.append((len(rows), len(columns)))
        return dot(rows, columns)

    streamed_ranks(images, texts, counted, owner, image_tile=64, text_tile=128)
    assert set(seen) == {(64, 128)}, "edge tiles must have the full shape"
    # One sweep: each tile once. The band's tiles are kept, not computed again.
    assert len(seen) == 4 * 8
    seen.clear()
    streamed_ranks(images, texts, counted, owner, np.arange(200) % 50, image_tile=64, text_tile=128)
    assert seen == [(64, 128)] * (4 * 8)


def test_band_tiles_beyond_the_budget_are_computed_again_to_the_same_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, texts, owner = vectors(200, 1000)
    kept = streamed_ranks(images, texts, dot, owner, image_tile=64, text_tile=128)
    monkeypatch.setattr("crossmodal_bench.evaluation.ranking.streaming._KEPT_BYTES", 0)
    identical(streamed_ranks(images, texts, dot, owner, image_tile=64, text_tile=128), kept)
    identity = np.arange(200) % 9
    again = streamed_ranks(images, texts, dot, owner, identity, image_tile=64, text_tile=128)
    monkeypatch.undo()
    identical(again, streamed_ranks(images, texts, dot, owner, identity, image_tile=64, text_tile=128))


def test_the_grid_does_not_depend_on_alignment_of_the_callers_memory() -> None:
    images, texts, owner = vectors(64, 320, dim=33)
    shifted = torch.empty(64 * 33 + 1)[1:].view(64, 33).copy_(images.values)
    identical(streamed_ranks(Encoding(shifted), texts, dot, owner), streamed_ranks(images, texts, dot, owner))


def test_float64_encodings_stay_float64() -> None:
    images = torch.eye(2, dtype=torch.float64)
    texts = torch.tensor([[1.0, 1.0 + 1e-12], [1.0, 1.0 + 1e-12]], dtype=torch.float64)
    ranks = streamed_ranks(Encoding(images), Encoding(texts), dot, [0, 1])
    assert ranks.t2i.tolist() == [2, 1]
    assert ranks.i2t_top_scores.dtype == np.float64


def test_wrong_calls_raise() -> None:
    images, texts, owner = vectors(6, 12)
    with pytest.raises(ValueError, match="rank 2"):
        streamed_ranks(images, texts, dot, owner, rank=2, world_size=2)
    with pytest.raises(ValueError, match="at least one item"):
        streamed_ranks(images, texts, dot, owner, image_tile=0)
    with pytest.raises(ValueError, match="the scorer returned"):
        streamed_ranks(images, texts, lambda a, b: dot(a, b).T, owner, image_tile=2, text_tile=4)
    with pytest.raises(ValueError, match="image 5 has no caption"):
        streamed_ranks(images, texts, dot, np.arange(12) % 5)
    with pytest.raises(ValueError, match="nothing to score"):
        ScoreTiles(images[0:0], texts, dot)
