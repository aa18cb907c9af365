"""Numbers of identities: equal for one identity, training first."""

from __future__ import annotations

import fakes
import numpy as np

from crossmodal_bench.data.view_builders import identity_numbers

SPLITS = ("test", "train", "train", "val", "train", "train", "test")


def test_every_image_is_its_own_identity_where_none_are_given() -> None:
    numbers, n_train = identity_numbers(fakes.corpus(SPLITS))
    assert n_train == 4
    assert sorted(numbers.tolist()) == list(range(7))
    assert sorted(numbers[[1, 2, 4, 5]].tolist()) == [0, 1, 2, 3]


def test_images_of_one_identity_share_a_number() -> None:
    given = np.array([90, 5, 70, 3, 5, 2, 90])
    numbers, n_train = identity_numbers(fakes.corpus(SPLITS, identities=given))
    assert n_train == 3
    assert set(numbers[[1, 2, 4, 5]].tolist()) == {0, 1, 2}
    assert ((numbers[:, None] == numbers) == (given[:, None] == given)).all()
