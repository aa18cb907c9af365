from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.evaluation import Ranks, hit_at_k, retrieval_ranks

GOLDEN = Path(__file__).parents[2] / "golden" / "retrieval_eval.npz"


def naive(scores: NDArray[np.float64], owner: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Query by query, counting competitors that are at least as good as the best positive."""
    n_images, n_texts = scores.shape
    i2t = []
    for image in range(n_images):
        best = max(scores[image, j] for j in range(n_texts) if owner[j] == image)
        i2t.append(1 + sum(scores[image, j] >= best for j in range(n_texts) if owner[j] != image))
    t2i = []
    for text in range(n_texts):
        own = scores[owner[text], text]
        t2i.append(1 + sum(scores[i, text] >= own for i in range(n_images) if i != owner[text]))
    return i2t, t2i


def problem(seed: int, n_images: int = 9, n_texts: int = 31) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Coarse scores (many ties) and an unsorted, uneven caption map."""
    generator = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(n_images), generator.integers(0, n_images, n_texts - n_images)])
    generator.shuffle(owner)
    return generator.integers(0, 6, (n_images, n_texts)).astype(np.float64), owner


def naive_by_identity(
    scores: NDArray[np.float64], owner: NDArray[np.int64], identity: NDArray[np.int64]
) -> dict[str, list[float]]:
    """Query by query: the rank of the best positive, and its mean over random orders of the ties."""
    found: dict[str, list[float]] = {"i2t": [], "t2i": [], "i2t_expected": [], "t2i_expected": []}
    for side, matrix, own, others in (
        ("i2t", scores, identity, identity[owner]),
        ("t2i", scores.T, identity[owner], identity),
    ):
        for row, mine in zip(matrix, own, strict=True):
            right = [score for score, other in zip(row, others, strict=True) if other == mine]
            wrong = [score for score, other in zip(row, others, strict=True) if other != mine]
            above = sum(score > max(right) for score in wrong)
            tied = sum(score == max(right) for score in wrong)
            found[side].append(1 + above + tied)
            found[f"{side}_expected"].append(1 + above + tied / (right.count(max(right)) + 1))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_positives_by_identity_agree_with_a_loop_over_queries(seed: int) -> None:
    scores, owner = problem(seed)
    identity = np.random.default_rng(seed).choice([-3, 7, 2**40, 5], 9)
    ranks = retrieval_ranks(scores, owner, image_identity=identity).arrays()
    for name, expected in naive_by_identity(scores, owner, identity).items():
        np.testing.assert_allclose(ranks[name], expected, err_msg=name)


def test_any_image_of_the_described_person_is_right() -> None:
    # Images 0 and 2 show one person; caption 0 describes image 0 and scores image 2 best.
    scores = np.array([[0.1, 0.2, 0.7], [0.5, 0.6, 0.4], [0.9, 0.8, 0.3]])
    by_image = retrieval_ranks(scores, [0, 1, 2])
    by_person = retrieval_ranks(scores, [0, 1, 2], image_identity=[4, 9, 4])
    assert by_image.t2i.tolist() == [3, 2, 3]
    assert by_person.t2i.tolist() == [1, 2, 1]
    assert by_image.i2t.tolist() == [3, 1, 3]
    assert by_person.i2t.tolist() == [1, 1, 1]
    # Captions of persons in the order of 4, 4, 9: images 0, 2, 1.
    tied = retrieval_ranks(np.zeros((3, 3)), [0, 1, 2], image_identity=[4, 9, 4])
    assert tied.t2i_top[0].tolist() == tied.i2t_top[0].tolist() == [0, 2, 1]
    assert tied.t2i.tolist() == [2, 3, 2]
    np.testing.assert_allclose(tied.t2i_expected, [1 + 1 / 3, 2, 1 + 1 / 3])


def test_an_identity_for_each_image_changes_nothing() -> None:
    scores, owner = problem(3)
    alone = retrieval_ranks(scores, owner, image_identity=np.arange(9) * 2)
    for name, values in retrieval_ranks(scores, owner).arrays().items():
        np.testing.assert_array_equal(alone.arrays()[name], values)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_a_loop_over_queries(seed: int) -> None:
    scores, owner = problem(seed)
    ranks = retrieval_ranks(scores, owner)
    i2t, t2i = naive(scores, owner)
    assert ranks.i2t.tolist() == i2t
    assert ranks.t2i.tolist() == t2i
    assert ranks.i2t.dtype == ranks.t2i.dtype == np.int64


@pytest.mark.parametrize(("positives", "rivals"), [(1, 1), (1, 4), (2, 3), (3, 2), (2, 0)])
def test_expected_rank_is_the_mean_over_every_order_of_the_ties(positives: int, rivals: int) -> None:
    tied = [True] * positives + [False] * rivals
    orders = list(itertools.permutations(tied))
    mean = sum(1 + 1 + order.index(True) for order in orders) / len(orders)
    # Image 0 also has a worse positive and one strictly better rival; image 1 owns the rivals.
    scores = np.array([[0.5] * (positives + rivals) + [0.1, 0.9], [0.0] * (positives + rivals + 2)])
    owner = [0] * positives + [1] * rivals + [0, 1]
    ranks = retrieval_ranks(scores, owner)
    assert ranks.i2t_expected[0] == pytest.approx(mean)
    assert ranks.i2t[0] == 2 + rivals


@pytest.mark.parametrize("measure", ["cosine", "order_abs"])
def test_golden_ranks(measure: str) -> None:
    golden = np.load(GOLDEN)
    images, captions = golden["img"], golden["cap"]
    if measure == "cosine":
        scores = images @ captions.T
    else:
        violation = np.maximum(0, np.abs(captions)[None] - np.abs(images)[:, None])
        scores = -np.sqrt((violation**2).sum(2))
    ranks = retrieval_ranks(scores, np.arange(len(captions)) // 5)
    np.testing.assert_array_equal(ranks.i2t - 1, golden[f"{measure}/i2t_ranks"])
    np.testing.assert_array_equal(ranks.t2i - 1, golden[f"{measure}/t2i_ranks"])
    np.testing.assert_array_equal(ranks.i2t_top[:, 0], golden[f"{measure}/i2t_top1"])
    np.testing.assert_array_equal(ranks.t2i_top[:, 0], golden[f"{measure}/t2i_top1"])


def test_all_positives_are_masked_not_only_the_best() -> None:
    scores = np.array([[0.9, 0.8, 0.1], [0.1, 0.2, 0.85]])
    assert retrieval_ranks(scores, [0, 0, 1]).i2t.tolist() == [1, 1]
    assert retrieval_ranks(scores[:, [1, 2, 0]], [0, 1, 0]).i2t.tolist() == [1, 1]


def test_a_collapsed_embedding_is_last_and_hits_by_chance() -> None:
    ranks = retrieval_ranks(torch.ones(6, 30), np.arange(30) // 5)
    assert ranks.i2t.tolist() == [26] * 6
    assert ranks.t2i.tolist() == [6] * 30
    np.testing.assert_allclose(hit_at_k(ranks.of("i2t"), 1), 5 / 30)
    np.testing.assert_allclose(hit_at_k(ranks.of("t2i"), 1), 1 / 6)
    np.testing.assert_allclose(ranks.t2i_expected, 3.5)
    np.testing.assert_allclose(ranks.i2t_expected, 1 + 25 / 6)


def test_top_lists_are_descending_with_ties_in_gallery_order() -> None:
    scores, owner = problem(1)
    ranks = retrieval_ranks(scores, owner)
    by_image = np.argsort(owner, kind="stable")
    for image, row in enumerate(scores):
        expected = by_image[np.argsort(-row[by_image], kind="stable")][:10]
        np.testing.assert_array_equal(ranks.i2t_top[image], expected)
        np.testing.assert_array_equal(ranks.i2t_top_scores[image], row[expected])
    np.testing.assert_array_equal(ranks.t2i_top, np.argsort(-scores.T, axis=1, kind="stable"))
    assert ranks.i2t_top.shape == (9, 10)
    assert ranks.t2i_top.shape == (31, 9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_scores_raise_with_their_place(bad: float) -> None:
    scores = torch.rand(4, 20)
    scores[2, 7] = scores[3, 1] = bad
    with pytest.raises(ValueError, match=r"row 2, column 7"):
        retrieval_ranks(scores, np.arange(20) // 5)


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        ([0, 0, 2, 2], "image 1 has no caption"),
        ([0, 1, 2], "one entry for each of 4"),
        ([0, 1, 2, 3], "caption 3 describes image 3"),
        ([0, 1, 2, -1], "caption 3 describes image -1"),
        ([0.0, 1.0, 2.0, 2.0], "integers"),
    ],
)
def test_a_caption_map_that_does_not_fit_raises(owner: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(np.eye(3, 4), owner)


def test_identities_that_do_not_fit_raise() -> None:
    with pytest.raises(ValueError, match="image_identity must have one entry for each of 3 images"):
        retrieval_ranks(np.eye(3), [0, 1, 2], image_identity=[0, 1])
    with pytest.raises(ValueError, match="image_identity must hold integers"):
        retrieval_ranks(np.eye(3), [0, 1, 2], image_identity=np.array([0.0, 1.0, 1.0]))


def test_a_vector_of_scores_raises() -> None:
    with pytest.raises(ValueError, match="n_images, n_texts"):
        retrieval_ranks(np.ones(4), [0, 1, 2, 3])


def test_save_and_load_keep_every_array_and_id(tmp_path: Path) -> None:
    scores, owner = problem(2)
    ranks = retrieval_ranks(scores, owner)
    path = tmp_path / "ranks.npz"
    image_ids, caption_ids = [f"bild-ä{i}" for i in range(9)], [f"{j}" for j in range(31)]
    ranks.save(path, image_ids, caption_ids)
    for name, values in Ranks.load(path).arrays().items():
        np.testing.assert_array_equal(values, ranks.arrays()[name])
        assert values.dtype == ranks.arrays()[name].dtype
    assert Ranks.load_ids(path) == (image_ids, caption_ids)
    assert [file.name for file in tmp_path.iterdir()] == ["ranks.npz"]
    with np.load(path, allow_pickle=False) as stored:
        assert stored["image_ids"].dtype.kind == "U"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, owner = problem(2)
    path = tmp_path / "ranks.npz"
    ids = [str(i) for i in range(9)], [str(j) for j in range(31)]
    retrieval_ranks(scores, owner).save(path, *ids)
    before = path.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="no space"):
        retrieval_ranks(-scores, owner).save(path, *ids)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_wrong_number_of_ids_and_unusable_files_raise(tmp_path: Path) -> None:
    scores, owner = problem(2)
    with pytest.raises(ValueError, match="as many ids"):
        retrieval_ranks(scores, owner).save(tmp_path / "ranks.npz", ["a"], ["b"])
    with pytest.raises(MissingInput, match="is missing"):
        Ranks.load(tmp_path / "ranks.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(BadInput, match=r"not an \.npz"):
        Ranks.load(tmp_path / "text.npz")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(BadInput, match=r"not an \.npz"):
        Ranks.load(tmp_path / "torn.npz")
    np.savez(tmp_path / "other.npz", values=np.ones(3))
    with pytest.raises(BadInput, match="'i2t'"):
        Ranks.load(tmp_path / "other.npz")
