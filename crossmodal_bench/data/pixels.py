"""From a picture to the pixels that a convolutional network reads, with or without augmentation."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crossmodal_bench.networks import classifiers

ImageFit = Literal["crop", "squash"]
Augmentation = Literal["none", "flip", "crop_flip"]
IMAGENET_MEAN = torch.tensor(classifiers.MEAN).view(3, 1, 1)
IMAGENET_STD = torch.tensor(classifiers.STD).view(3, 1, 1)
PICTURE = 64
"""Pixels per side of generated pictures (GXN, section 4.1)."""
MARGIN = 8 / 7
"""Random crops are taken from pictures this many times their size: 256 for 224, as usual for ImageNet."""


def normalised_pixels(image: Image.Image, size: int, fit: ImageFit = "crop") -> Tensor:
    """(3, size, size) with ImageNet's mean and deviation.

    Args:
        image: RGB.
        size: pixels per side.
        fit: ``crop``: resize the shorter side to ``size`` (bilinear) and crop the centre; ``squash``: resize
            both sides to ``size``, for pictures such as pedestrians, whose ends must not be lost.
    """
    resized = _resized(image, size, fit)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return _cut(resized, left, top, size)


def small_picture(image: Image.Image, fit: ImageFit = "crop") -> Tensor:
    """(3, 64, 64) between -1 and 1, like the pictures of a generator; ``fit`` as above."""
    resized = _resized(image, PICTURE, fit)
    left, top = (resized.width - PICTURE) // 2, (resized.height - PICTURE) // 2
    cut = np.asarray(resized.crop((left, top, left + PICTURE, top + PICTURE)), dtype=np.float32)
    return torch.from_numpy(cut / 127.5 - 1).permute(2, 0, 1)


def plain_pixels(image: Image.Image) -> Tensor:
    """(3, H, W) of an RGB picture at its own size, 0 to 1."""
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)


def augmented_pixels(
    image: Image.Image, size: int, fit: ImageFit, how: Augmentation, rng: np.random.Generator
) -> Tensor:
    """(3, size, size) like ``normalised_pixels``, but randomly augmented.

    Args:
        image: RGB.
        size, fit: as there.
        how: ``flip``: mirrored left to right with probability 1/2; ``crop_flip``: the same for a random
            window of a picture enlarged to 8/7 of the size; ``none``: unchanged.
        rng: the only source of randomness.
    """
    if how == "none":
        return normalised_pixels(image, size, fit)
    if how == "flip":
        pixels = normalised_pixels(image, size, fit)
    else:
        resized = _resized(image, round(MARGIN * size), fit)
        left = int(rng.integers(resized.width - size + 1))
        top = int(rng.integers(resized.height - size + 1))
        pixels = _cut(resized, left, top, size)
    return pixels.flip(2) if rng.random() < 0.5 else pixels


def _resized(image: Image.Image, size: int, fit: ImageFit) -> Image.Image:
    if fit == "squash":
        target = (size, size)
    else:
        scale = size / min(image.size)
        target = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
    return image if image.size == target else image.resize(target, Image.Resampling.BILINEAR)


def _cut(image: Image.Image, left: int, top: int, size: int) -> Tensor:
    array = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
    return (torch.from_numpy(array).permute(2, 0, 1) - IMAGENET_MEAN) / IMAGENET_STD
