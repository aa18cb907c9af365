"""What a method can request, as functions from corpus rows to tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from crossmodal_bench.core.batch import GroupBatch, ImageBatch, PairBatch, TextBatch, long_tensor
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.language.tokens import NamedTokens, TokenRows
from crossmodal_bench.data.loader import BatchRows, Phase
from crossmodal_bench.data.pixels import (
    Augmentation,
    ImageFit,
    augmented_pixels,
    normalised_pixels,
    small_picture,
)
from crossmodal_bench.data.regions import RegionSource
from crossmodal_bench.data.text import Vocabulary

VIEWS = ("pixels", "pictures", "regions", "features", "words", "wordpieces", "bow", "labels", "identities")
Rows = NDArray[np.int64]


@dataclass
class Views:
    """The views of one corpus that a method requires; the others stay None and cost nothing."""

    corpus: Corpus
    image_size: int = 224
    image_fit: ImageFit = "crop"
    features: Any = None
    """(N, D) array or memory map."""
    regions: RegionSource | None = None
    bow: Any = None
    """(M, D) array or sparse matrix."""
    vocabulary: Vocabulary | None = None
    tokens: NamedTokens | None = None
    """The words of all captions, split as the vocabulary's are, if they have been split already."""
    wordpieces: TokenRows | None = None
    labels: NDArray[np.int64] | None = None
    identities: NDArray[np.int64] | None = None
    pixels: bool = False
    pictures: bool = False
    """Small ones for a generator to imitate; only in training pairs, nothing else reads them."""

    @cached_property
    def words(self) -> TokenRows | None:
        """The captions as ids of the vocabulary."""
        if self.vocabulary is None:
            return None
        assert self.corpus.captions is not None
        tokens = self.tokens or NamedTokens.split(self.corpus.captions, self.vocabulary.split)
        return self.vocabulary.encode_all(tokens)

    def images(self, rows: Rows, augment: Callable[[int, Image.Image], Tensor] | None = None) -> ImageBatch:
        """The images ``rows`` with all their views.

        ``augment`` makes the pixels, given a position in ``rows`` and its picture; without it, they are not
        augmented.
        """
        pixels, pictures = self._decoded(rows, augment)
        return ImageBatch(
            index=long_tensor(rows),
            pixels=pixels,
            pictures=pictures,
            regions=None if self.regions is None else torch.from_numpy(self.regions.batch(rows)),
            features=None if self.features is None else float_rows(self.features, rows),
            labels=self._labels(rows),
            identities=None if self.identities is None else long_tensor(self.identities[rows]),
        )

    def texts(self, rows: Rows) -> TextBatch:
        """The captions ``rows`` with all their views."""
        words, lengths = (None, None) if self.words is None else self.words.padded(rows)
        pieces, mask, piece_lengths = None, None, None
        if self.wordpieces is not None:
            pieces, piece_lengths = self.wordpieces.padded(rows)
            mask = token_mask(pieces, piece_lengths)
        return TextBatch(
            index=long_tensor(rows),
            image=long_tensor(self.corpus.caption_image[rows]),
            words=words,
            lengths=lengths,
            wordpieces=pieces,
            wordpiece_mask=mask,
            wordpiece_lengths=piece_lengths,
            bow=None if self.bow is None else float_rows(self.bow, rows),
            labels=self._labels(self.corpus.caption_image[rows]),
        )

    def pixels_of(self, row: int) -> Tensor:
        """(3, H, W) of the image ``row``."""
        assert self.corpus.images is not None
        return self._pixels(self.corpus.images[row])

    def _pixels(self, image: Image.Image) -> Tensor:
        return normalised_pixels(image, self.image_size, self.image_fit)

    def _decoded(
        self, rows: Rows, augment: Callable[[int, Image.Image], Tensor] | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Pixels and small pictures of the images ``rows``, as far as requested, decoding each once."""
        with_pictures = self.pictures and augment is not None
        if not (self.pixels or with_pictures):
            return None, None
        source = self.corpus.images
        assert source is not None
        pixels: list[Tensor] = []
        pictures: list[Tensor] = []
        for position, row in enumerate(rows):
            image = source[int(row)]
            if self.pixels:
                pixels.append(self._pixels(image) if augment is None else augment(position, image))
            if with_pictures:
                pictures.append(small_picture(image, self.image_fit))
        return torch.stack(pixels) if pixels else None, torch.stack(pictures) if pictures else None

    def _labels(self, image_rows: Rows) -> Tensor | None:
        if self.labels is None:
            return None
        labels = torch.from_numpy(self.labels[image_rows])
        return labels.float() if labels.ndim == 2 else labels


def token_mask(ids: Tensor, lengths: Tensor) -> Tensor:
    """(B, L), 1 where there is a token among (B, L) ids."""
    return (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def float_rows(array: Any, rows: Rows) -> Tensor:
    """(B, D) in single precision: rows of an array or of a sparse matrix."""
    picked = array[rows]
    if hasattr(picked, "toarray"):
        picked = picked.toarray()
    return torch.from_numpy(np.ascontiguousarray(picked, dtype=np.float32))


class PairDataset(Dataset[PairBatch]):
    """Training pairs, a whole batch per item.

    ``caption`` sampling: each caption with its image, so an image counts once per caption. ``image``
    sampling: each image once per epoch, with one of its captions, drawn by (seed, epoch, image). Pixels are
    augmented by (seed, epoch, caption).
    """

    def __init__(
        self, views: Views, split: str, sampling: str, seed: int, augmentation: Augmentation = "none"
    ) -> None:
        self.views = views
        self.sampling = sampling
        self.seed = seed
        self.augmentation = augmentation
        corpus = views.corpus
        self.rows = corpus.caption_rows(split) if sampling == "caption" else corpus.image_rows(split)
        if sampling == "image":
            self.captions_of = _captions_of(corpus)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: BatchRows) -> PairBatch:
        rows = self.rows[batch.rows]
        if self.sampling == "image":
            rows = np.array(
                [
                    np.random.default_rng([self.seed, batch.epoch, int(row)]).choice(self.captions_of[row])
                    for row in rows
                ]
            )
        images = self.views.corpus.caption_image[rows]

        def augmented(position: int, image: Image.Image) -> Tensor:
            rng = np.random.default_rng([self.seed, batch.epoch, int(rows[position]), 1])
            return augmented_pixels(
                image,
                self.views.image_size,
                self.views.image_fit,
                self.augmentation,
                rng,
            )

        return PairBatch(self.views.images(images, augmented), self.views.texts(rows))


def _captions_of(corpus: Corpus) -> list[Rows]:
    """The captions of each image."""
    order = np.argsort(corpus.caption_image, kind="stable")
    starts = np.searchsorted(corpus.caption_image[order], np.arange(len(corpus.image_ids) + 1))
    return [order[a:b] for a, b in pairwise(starts)]


class GroupDataset(Dataset[GroupBatch]):
    """Training images with all their captions, a whole batch per item.

    One caption of each image is drawn by (seed, epoch, image). Pixels are not augmented.
    """

    def __init__(self, views: Views, split: str, seed: int) -> None:
        self.views, self.seed = views, seed
        self.rows = views.corpus.image_rows(split)
        self.captions_of = _captions_of(views.corpus)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: BatchRows) -> GroupBatch:
        rows = self.rows[batch.rows]
        captions = [self.captions_of[row] for row in rows]
        counts = np.array([len(rows_of_image) for rows_of_image in captions])
        chosen = [
            np.random.default_rng([self.seed, batch.epoch, int(row), 2]).integers(count)
            for row, count in zip(rows, counts, strict=True)
        ]
        return GroupBatch(
            self.views.images(rows),
            self.views.texts(np.concatenate(captions)),
            counts=long_tensor(counts),
            chosen=long_tensor(np.cumsum(counts) - counts + chosen),
        )


class PhasedDataset(Dataset[PairBatch | GroupBatch]):
    """The training data of an epoch's phases; each batch comes from the phase that its rows belong to."""

    def __init__(
        self, views: Views, phases: Sequence[Phase], sampling: str, seed: int, augmentation: Augmentation
    ) -> None:
        self.parts: dict[Phase, PairDataset | GroupDataset] = {
            phase: PairDataset(views, "train", sampling, seed, augmentation)
            if phase == "pairs"
            else GroupDataset(views, "train", seed)
            for phase in phases
        }

    def __getitem__(self, batch: BatchRows) -> PairBatch | GroupBatch:
        return self.parts[batch.phase][batch]


class ImageDataset(Dataset[ImageBatch]):
    """The images of a split, each once."""

    def __init__(self, views: Views, split: str) -> None:
        self.views, self.rows = views, views.corpus.image_rows(split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: BatchRows) -> ImageBatch:
        return self.views.images(self.rows[batch.rows])


class TextDataset(Dataset[TextBatch]):
    """The captions of a split, each once."""

    def __init__(self, views: Views, split: str) -> None:
        self.views, self.rows = views, views.corpus.caption_rows(split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: BatchRows) -> TextBatch:
        return self.views.texts(self.rows[batch.rows])
