"""Pixels: how pictures of any shape become squares, and what augmentation may do to them."""

from __future__ import annotations

import fakes
import numpy as np
import pytest
import torch
from PIL import Image

from crossmodal_bench.data.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageFit,
    augmented_pixels,
    normalised_pixels,
    small_picture,
)


@pytest.mark.parametrize("shape", [(20, 24), (24, 20), (33, 90), (16, 16), (5, 40), (1, 1)])
@pytest.mark.parametrize("size", [16, 31])
def test_pixels_are_square_normalised_and_from_the_centre(shape: tuple[int, int], size: int) -> None:
    flat = Image.fromarray(np.full((*shape, 3), (255, 128, 0), np.uint8))
    pixels = normalised_pixels(flat, size)
    assert pixels.shape == (3, size, size) and pixels.dtype == torch.float32
    expected = (torch.tensor([1.0, 128 / 255, 0.0]).view(3, 1, 1) - IMAGENET_MEAN) / IMAGENET_STD
    torch.testing.assert_close(pixels, expected.expand_as(pixels))


def test_pixels_at_their_own_size_are_the_central_crop() -> None:
    array = fakes.pixels(5, height=16, width=25)
    pixels = normalised_pixels(Image.fromarray(array), 16)
    centre = torch.from_numpy(array[:, 4:20]).permute(2, 0, 1) / 255
    torch.testing.assert_close(pixels * IMAGENET_STD + IMAGENET_MEAN, centre)


def picture(height: int = 40, width: int = 20) -> Image.Image:
    """Brighter from left to right and from top to bottom."""
    ramp = np.linspace(0, 120, height)[:, None] + np.linspace(0, 120, width)[None, :]
    return Image.fromarray(np.repeat(ramp[:, :, None], 3, 2).astype(np.uint8))


def plain(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels * IMAGENET_STD + IMAGENET_MEAN)[0]


def test_a_squashed_picture_keeps_its_ends() -> None:
    image = picture()
    squashed, cropped = (plain(normalised_pixels(image, 20, fit)) for fit in ("squash", "crop"))  # type: ignore[arg-type]
    assert squashed.shape == cropped.shape == (20, 20)
    whole = np.asarray(image, dtype=np.float32)[:, :, 0] / 255
    assert float(squashed.min()) == pytest.approx(whole.min(), abs=0.02)
    assert float(squashed.max()) == pytest.approx(whole.max(), abs=0.02)
    assert float(cropped.max()) < whole.max() - 0.1


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("size", [7, 16, 32])
def test_a_flip_mirrors_every_other_time_and_changes_nothing_else(fit: str, size: int) -> None:
    before = normalised_pixels(picture(), size, fit)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    found = [augmented_pixels(picture(), size, fit, "flip", rng) for _ in range(40)]  # type: ignore[arg-type]
    mirrored = [torch.equal(one, before.flip(2)) for one in found]
    assert 10 < sum(mirrored) < 30
    assert all(torch.equal(one, before) for one, was in zip(found, mirrored, strict=True) if not was)


def test_a_random_crop_is_a_window_of_a_larger_picture() -> None:
    size = 14
    larger = plain(normalised_pixels(picture(60, 60), 16))
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = plain(augmented_pixels(picture(60, 60), size, "crop", "crop_flip", rng))
        places = [
            (top, left, flipped)
            for top in range(3)
            for left in range(3)
            for flipped in (False, True)
            if torch.allclose(
                found.flip(1) if flipped else found, larger[top : top + size, left : left + size], atol=1e-6
            )
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 18, "every window, mirrored or not"


def test_without_augmentation_nothing_is_drawn() -> None:
    rng = np.random.default_rng(0)
    assert torch.equal(augmented_pixels(picture(), 16, "crop", "none", rng), normalised_pixels(picture(), 16))
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("shape", [(64, 64), (90, 150), (20, 10)])
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_small_pictures_are_64_wide_and_from_minus_one_to_one(shape: tuple[int, int], fit: ImageFit) -> None:
    flat = Image.fromarray(np.full((*shape, 3), (255, 0, 51), np.uint8))
    found = small_picture(flat, fit)
    assert found.shape == (3, 64, 64) and found.dtype == torch.float32
    torch.testing.assert_close(found[:, 5, 60], torch.tensor([1.0, -1.0, -0.6]))
