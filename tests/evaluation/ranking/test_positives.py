from __future__ import annotations

import numpy as np
import pytest
import torch

from crossmodal_bench.evaluation.ranking.positives import PositivePairs, caption_owners, galleries


@pytest.mark.parametrize("identities", [None, 1, 3, 9])
def test_positives_lie_in_blocks_along_the_diagonal(identities: int | None) -> None:
    rng = np.random.default_rng(0)
    owner = rng.permutation(np.concatenate([np.arange(12), rng.integers(0, 12, 20)]))
    identity = None if identities is None else rng.integers(0, identities, 12) * 7 - 3
    found = galleries(owner, identity, 12, 32)
    assert sorted(found.image_order) == list(range(12)) and sorted(found.text_order) == list(range(32))
    own = np.arange(12) if identity is None else identity
    expected = own[found.image_order][:, None] == own[owner[found.text_order]][None, :]
    pairs = np.zeros((12, 32), dtype=int)
    np.add.at(pairs, (found.positive_image, found.positive_text), 1)
    np.testing.assert_array_equal(pairs, expected)
    # One run of images for each text, which never goes back.
    first, last = expected.argmax(0), 11 - expected[::-1].argmax(0)
    assert (np.diff(first) >= 0).all() and (last - first + 1 == expected.sum(0)).all()


def test_the_callers_order_stays_within_identities_and_images() -> None:
    found = galleries([1, 0, 2, 1, 0], [5, 2, 5], 3, 5)
    assert found.image_order.tolist() == [1, 0, 2]
    assert found.text_order.tolist() == [0, 3, 1, 4, 2]
    assert found.positive_text.tolist() == [0, 1, 2, 2, 3, 3, 4, 4]
    assert found.positive_image.tolist() == [0, 0, 1, 2, 1, 2, 1, 2]


def test_without_images_texts_stand_at_their_first_positive() -> None:
    pairs = PositivePairs.of(np.array([[2, 0], [0, 2], [1, 0], [2, 3]]), 3, 5)
    found = galleries(None, None, 3, 5, pairs)
    assert found.text_order.tolist() == [2, 0, 3, 1, 4]
    assert list(zip(found.positive_image, found.positive_text, strict=True)) == [
        (0, 0),
        (1, 1),
        (2, 1),
        (2, 2),
    ]


def test_a_block_of_the_galleries_has_its_own_pairs() -> None:
    pairs = PositivePairs.of(np.array([[0, 0], [1, 3], [1, 1], [2, 3], [2, 4]]), 3, 5)
    inside = pairs.among(slice(1, 3), np.array([1, 3]))
    assert list(zip(inside.image, inside.text, strict=True)) == [(0, 0), (0, 1), (1, 1)]


def test_maps_come_as_arrays_tensors_or_lists() -> None:
    for given in ([0, 1, 1], np.array([0, 1, 1], np.int32), torch.tensor([0, 1, 1])):
        owner = caption_owners(given, 2, 3)
        assert owner.tolist() == [0, 1, 1] and owner.dtype == np.int64
        assert galleries([0, 1, 2], given, 3, 3).positive_image.tolist() == [0, 1, 2, 1, 2]
