from __future__ import annotations

import numpy as np
import pytest
import torch

from crossmodal_bench.evaluation.positives import caption_owners, galleries


@pytest.mark.parametrize("identities", [None, 1, 3, 9])
def test_positives_lie_in_blocks_along_the_diagonal(identities: int | None) -> None:
    rng = np.random.default_rng(0)
    owner = rng.permutation(np.concatenate([np.arange(12), rng.integers(0, 12, 20)]))
    identity = None if identities is None else rng.integers(0, identities, 12) * 7 - 3
    found = galleries(owner, identity, 12, 32)
    assert sorted(found.image_order) == list(range(12)) and sorted(found.text_order) == list(range(32))
    for names in (found.image_identity, found.text_identity):
        assert sorted(set(names)) == list(range(len(set(names))))
        assert (np.diff(names) >= 0).all()
    own = np.arange(12) if identity is None else identity
    expected = own[found.image_order][:, None] == own[owner[found.text_order]][None, :]
    np.testing.assert_array_equal(found.image_identity[:, None] == found.text_identity[None, :], expected)


def test_the_callers_order_stays_within_identities_and_images() -> None:
    found = galleries([1, 0, 2, 1, 0], [5, 2, 5], 3, 5)
    assert found.image_order.tolist() == [1, 0, 2]
    assert found.text_order.tolist() == [0, 3, 1, 4, 2]
    assert found.image_identity.tolist() == [0, 1, 1]
    assert found.text_identity.tolist() == [0, 0, 1, 1, 1]


def test_maps_come_as_arrays_tensors_or_lists() -> None:
    for given in ([0, 1, 1], np.array([0, 1, 1], np.int32), torch.tensor([0, 1, 1])):
        owner = caption_owners(given, 2, 3)
        assert owner.tolist() == [0, 1, 1] and owner.dtype == np.int64
        assert galleries([0, 1, 2], given, 3, 3).image_identity.tolist() == [0, 1, 1]
