"""Which texts and images belong together, and the order in which the two galleries are ranked."""

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
"""(n_images,): an integer for whom or what each image shows; images with the same number belong together."""


@dataclass(frozen=True)
class PositivePairs:
    """Which texts are correct for which images, pair by pair: any set of pairs.

    Attributes:
        image, text: (n_pairs,) int64 rows of the two galleries, by image and then by text, each pair once.
        asked_images, asked_texts: (n_images,), (n_texts,) whether an item is a query. None: all that are in a
            pair. An item that is not a query is still an answer to others, right or wrong.
        absent: (n_images,) int64, the number of further texts that are correct for an image but missing from
            the gallery: they count among what there is to find. None: there are none.
        left_out: (n_texts,) whether a text is excluded from the gallery that images search; None: none is.
    """

    image: NDArray[np.int64]
    text: NDArray[np.int64]
    asked_images: NDArray[np.bool_] | None = None
    asked_texts: NDArray[np.bool_] | None = None
    absent: NDArray[np.int64] | None = None
    left_out: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, pairs: NDArray[Any], n_images: int, n_texts: int) -> PositivePairs:
        """From (n_pairs, 2) integers (image row, text row), in any order; duplicates count once.

        An item without a pair is not a query: it counts in no metric of its direction.

        Raises:
            ValueError: another shape or type, no pairs, or a row that is not in the gallery.
        """
        given = np.asarray(pairs)
        if given.ndim != 2 or given.shape[1] != 2 or not len(given):
            raise ValueError(f"positives must be (n_pairs, 2) rows of images and texts, got {given.shape}")
        if not np.issubdtype(given.dtype, np.integer):
            raise ValueError(f"positives must hold integers, got {given.dtype}")
        for column, (items, count) in enumerate((("images", n_images), ("texts", n_texts))):
            outside = np.flatnonzero((given[:, column] < 0) | (given[:, column] >= count))
            if len(outside):
                row = int(outside[0])
                raise ValueError(
                    f"positive pair {row} names row {given[row, column]} of {count} {items}, counted from 0"
                )
        image, text = np.unique(given.astype(np.int64), axis=0).T
        return cls(image, text)

    def asking(
        self,
        images: NDArray[np.bool_],
        texts: NDArray[np.bool_],
        *,
        absent: NDArray[np.int64] | None = None,
        left_out: NDArray[np.bool_] | None = None,
    ) -> PositivePairs:
        """The same pairs with only these queries; arguments are the attributes.

        Raises:
            ValueError: a query without a pair, or a text in a pair that is excluded.
        """
        for items, asked, paired in (("image", images, self.image), ("text", texts, self.text)):
            unanswerable = np.setdiff1d(np.flatnonzero(asked), paired)
            if len(unanswerable):
                raise ValueError(f"{items} {unanswerable[0]} is a query but is in no positive pair")
        if left_out is not None and left_out[self.text].any():
            text = self.text[left_out[self.text]][0]
            raise ValueError(f"text {text} is correct for an image but excluded from the gallery")
        return PositivePairs(self.image, self.text, images, texts, absent, left_out)

    def __len__(self) -> int:
        return len(self.image)

    def among(self, images: slice, texts: NDArray[np.int64]) -> PositivePairs:
        """The pairs inside a block of images and some texts (ascending), numbered as rows of these."""
        position = np.searchsorted(texts, self.text).clip(max=len(texts) - 1)
        inside = (self.image >= images.start) & (self.image < images.stop) & (texts[position] == self.text)
        return PositivePairs(
            self.image[inside] - images.start,
            position[inside],
            asked_images=None if self.asked_images is None else self.asked_images[images],
            asked_texts=None if self.asked_texts is None else self.asked_texts[texts],
            absent=None if self.absent is None else self.absent[images],
            left_out=None if self.left_out is None else self.left_out[texts],
        )

    def counts(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(queries, positives) in both directions, with images as queries and with texts.

        Positives are those that the queries can find in their gallery, summed over the queries.
        """
        sides = []
        for rows, asked in ((self.image, self.asked_images), (self.text, self.asked_texts)):
            own = rows if asked is None else rows[asked[rows]]
            sides.append((len(np.unique(own)), len(own)))
        return sides[0], sides[1]


@dataclass(frozen=True)
class Galleries:
    """Both galleries in an order that puts positives close to the diagonal, and their positive pairs.

    image_order, text_order: (n_images,), (n_texts,); the caller's row of each position. Images are in the
        caller's order within an identity, and texts in the order of their images.
    positive_image, positive_text: (n_pairs,) positions of each positive pair.
    asked_images, asked_texts: (n_images,), (n_texts,) whether the item at each position is a query; None: all
        that are in a pair.
    absent: (n_images,) int64, the number of further texts that are correct for the image at each position but
        missing; None: there are none.
    left_out: (n_texts,) whether the text at each position is excluded from the gallery; None: none is.
    """

    image_order: NDArray[np.int64]
    text_order: NDArray[np.int64]
    positive_image: NDArray[np.int64]
    positive_text: NDArray[np.int64]
    asked_images: NDArray[np.bool_] | None = None
    asked_texts: NDArray[np.bool_] | None = None
    absent: NDArray[np.int64] | None = None
    left_out: NDArray[np.bool_] | None = None


def galleries(
    caption_image: CaptionImage | None,
    image_identity: Identities | None,
    n_images: int,
    n_texts: int,
    positives: PositivePairs | None = None,
) -> Galleries:
    """The galleries' order and positives; without ``image_identity``, every image is its own identity.

    With ``positives``, exactly these pairs are correct; ``caption_image`` may then be None, and texts are
    taken in the order of their first positive image.

    Raises ValueError for an image without a caption, a caption of no image, entries that are not one integer
    per item, and identities in addition to pairs.
    """
    if positives is not None:
        return _galleries_of_pairs(positives, caption_image, image_identity, n_images, n_texts)
    if caption_image is None:
        raise ValueError("captions need the rows of their images, or positive pairs")
    owner = caption_owners(caption_image, n_images, n_texts)
    identity = np.arange(n_images)
    if image_identity is not None:
        given = _whole_numbers("image_identity", image_identity, n_images, "images")
        identity = np.unique(given, return_inverse=True)[1].astype(np.int64)
    image_order = np.argsort(identity, kind="stable")
    text_order = np.argsort(_positions(image_order)[owner], kind="stable")
    # An identity's images are adjacent, so that a text's positives are a contiguous range of positions.
    text_identity = identity[owner[text_order]]
    counts = np.bincount(identity)
    runs = counts[text_identity]
    first = (np.cumsum(counts) - counts)[text_identity]
    within = np.arange(runs.sum()) - np.repeat(np.cumsum(runs) - runs, runs)
    return Galleries(
        image_order,
        text_order,
        positive_image=np.repeat(first, runs) + within,
        positive_text=np.repeat(np.arange(n_texts), runs),
    )


def _galleries_of_pairs(
    positives: PositivePairs,
    caption_image: CaptionImage | None,
    image_identity: Identities | None,
    n_images: int,
    n_texts: int,
) -> Galleries:
    if image_identity is not None:
        raise ValueError("positives are either pairs or by identity, not both")
    if not len(positives):
        raise ValueError("no image and text in the galleries form a positive pair")
    if caption_image is None:
        # Texts that are correct for no image come last.
        owner = np.full(n_texts, n_images)
        np.minimum.at(owner, positives.text, positives.image)
    else:
        owner = caption_owners(caption_image, n_images, n_texts)
    text_order = np.argsort(owner, kind="stable")
    return Galleries(
        np.arange(n_images),
        text_order,
        positives.image,
        _positions(text_order)[positives.text],
        asked_images=positives.asked_images,
        asked_texts=None if positives.asked_texts is None else positives.asked_texts[text_order],
        absent=positives.absent,
        left_out=None if positives.left_out is None else positives.left_out[text_order],
    )


def _positions(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The position of each of the caller's rows."""
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return position


def caption_owners(caption_image: CaptionImage, n_images: int, n_texts: int) -> NDArray[np.int64]:
    """``caption_image`` as (n_texts,) int64, checked: each caption has an image, and each image a caption."""
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
        raise ValueError(f"{name} must hold integers, got {given.dtype}")
    return given.astype(np.int64)
