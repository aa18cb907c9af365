"""The keys below ``data.images``."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data import ImageSettings


@pytest.mark.parametrize("size", [0, -224])
def test_a_picture_has_at_least_one_pixel(size: int) -> None:
    with pytest.raises(BadInput, match=rf"data\.images\.size is {size}; it must be at least 1"):
        ImageSettings(size=size)


def test_a_data_module_default_cannot_be_changed_for_all() -> None:
    with pytest.raises(FrozenInstanceError):
        ImageSettings().network = "vgg19"  # type: ignore[misc]
