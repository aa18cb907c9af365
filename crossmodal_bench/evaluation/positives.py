"""Which texts and images belong together, and in which order the two galleries are ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

CaptionImage = NDArray[Any] | Tensor | Sequence[int]
"""(n_texts,): the row of the image that each caption describes."""

Identities = NDArray[Any] | Tensor | Sequence[int]
"""(n_images,): a whole number for whom or what each image shows; images of one number belong together."""


@dataclass(frozen=True)
class Galleries:
    """Both galleries in the order of their identities, so that positives lie in blocks along the diagonal.

    image_order, text_order: (n_images,), (n_texts,); the caller's row of each position. Images are in the
        caller's order within an identity, and texts in the order of their images.
    image_identity, text_identity: identities by position, ascending from 0 without a gap; image and text are
        positives of each other where the two are equal.
    """

    image_order: NDArray[np.int64]
    text_order: NDArray[np.int64]
    image_identity: NDArray[np.int64]
    text_identity: NDArray[np.int64]


def galleries(
    caption_image: CaptionImage, image_identity: Identities | None, n_images: int, n_texts: int
) -> Galleries:
    """The galleries' order; without ``image_identity`` every image is an identity of its own.

    Raises ValueError for an image without a caption, a caption of no image, and entries that are not one
    whole number for each item.
    """
    owner = caption_owners(caption_image, n_images, n_texts)
    identity = np.arange(n_images)
    if image_identity is not None:
        given = _whole_numbers("image_identity", image_identity, n_images, "images")
        identity = np.unique(given, return_inverse=True)[1].astype(np.int64)
    image_order = np.argsort(identity, kind="stable")
    position = np.empty_like(image_order)
    position[image_order] = np.arange(n_images)
    text_order = np.argsort(position[owner], kind="stable")
    return Galleries(image_order, text_order, identity[image_order], identity[owner[text_order]])


def caption_owners(caption_image: CaptionImage, n_images: int, n_texts: int) -> NDArray[np.int64]:
    """``caption_image`` as (n_texts,) int64, checked: each caption has an image and each image a caption."""
    owner = _whole_numbers("caption_image", caption_image, n_texts, "texts")
    outside = np.flatnonzero((owner < 0) | (owner >= n_images))
    if len(outside):
        first = int(outside[0])
        raise ValueError(f"caption {first} describes image {owner[first]}, but there are {n_images} images")
    alone = np.flatnonzero(np.bincount(owner, minlength=n_images) == 0)
    if len(alone):
        raise ValueError(f"image {alone[0]} has no caption ({len(alone)} such images)")
    return owner


def _whole_numbers(
    name: str, values: NDArray[Any] | Tensor | Sequence[int], count: int, items: str
) -> NDArray[np.int64]:
    given = values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if given.shape != (count,):
        raise ValueError(f"{name} must have one entry for each of {count} {items}, got {given.shape}")
    if not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"{name} must hold whole numbers, got {given.dtype}")
    return given.astype(np.int64)
