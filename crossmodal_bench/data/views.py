"""What a method can ask for, as functions from corpus rows to tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from crossmodal_bench.data.batch import ImageBatch, PairBatch, TextBatch, long_tensor
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.loader import BatchRows
from crossmodal_bench.data.text import Vocabulary

VIEWS = ("pixels", "regions", "features", "words", "wordpieces", "bow", "labels")
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
Rows = NDArray[np.int64]


@dataclass
class Views:
    """The views of one corpus that a method requires; the others stay None and cost nothing."""

    corpus: Corpus
    image_size: int = 224
    features: Any = None
    """(N, D) array or memory map."""
    regions: Callable[[int], NDArray[np.float32]] | None = None
    bow: Any = None
    """(M, D) array or sparse matrix."""
    vocabulary: Vocabulary | None = None
    tokenizer: Any = None
    labels: NDArray[np.int64] | None = None
    pixels: bool = False
    _ids: dict[int, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    def images(self, rows: Rows) -> ImageBatch:
        """The images ``rows`` with every view of theirs."""
        return ImageBatch(
            index=long_tensor(rows),
            pixels=self._pixels(rows) if self.pixels else None,
            regions=None
            if self.regions is None
            else torch.from_numpy(np.stack([self.regions(int(i)) for i in rows])),
            features=None if self.features is None else _float_rows(self.features, rows),
            labels=self._labels(rows),
        )

    def texts(self, rows: Rows) -> TextBatch:
        """The captions ``rows`` with every view of theirs."""
        words, lengths = self._words(rows) if self.vocabulary is not None else (None, None)
        pieces, mask = self._wordpieces(rows) if self.tokenizer is not None else (None, None)
        return TextBatch(
            index=long_tensor(rows),
            image=long_tensor(self.corpus.caption_image[rows]),
            words=words,
            lengths=lengths,
            wordpieces=pieces,
            wordpiece_mask=mask,
            bow=None if self.bow is None else _float_rows(self.bow, rows),
            labels=self._labels(self.corpus.caption_image[rows]),
        )

    def _pixels(self, rows: Rows) -> Tensor:
        assert self.corpus.images is not None
        return torch.stack([normalised_pixels(self.corpus.images[int(row)], self.image_size) for row in rows])

    def _labels(self, image_rows: Rows) -> Tensor | None:
        if self.labels is None:
            return None
        labels = torch.from_numpy(self.labels[image_rows])
        return labels.float() if labels.ndim == 2 else labels

    def _words(self, rows: Rows) -> tuple[Tensor, Tensor]:
        assert self.vocabulary is not None and self.corpus.captions is not None
        for row in rows:
            if int(row) not in self._ids:
                self._ids[int(row)] = self.vocabulary.encode(self.corpus.captions[row])
        ids = [self._ids[int(row)] for row in rows]
        lengths = torch.tensor([len(one) for one in ids])
        padded = torch.zeros(len(ids), int(lengths.max()), dtype=torch.int64)
        for line, one in zip(padded, ids, strict=True):
            line[: len(one)] = torch.from_numpy(one)
        return padded, lengths

    def _wordpieces(self, rows: Rows) -> tuple[Tensor, Tensor]:
        assert self.corpus.captions is not None
        encoded = self.tokenizer(
            [self.corpus.captions[row] for row in rows], padding=True, truncation=True, return_tensors="pt"
        )
        return encoded["input_ids"], encoded["attention_mask"]


def normalised_pixels(image: Image.Image, size: int) -> Tensor:
    """(3, size, size): shorter side to ``size`` (bilinear), centre crop, ImageNet mean and deviation."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    array = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
    return (torch.from_numpy(array).permute(2, 0, 1) - IMAGENET_MEAN) / IMAGENET_STD


def _float_rows(array: Any, rows: Rows) -> Tensor:
    picked = array[rows]
    if hasattr(picked, "toarray"):
        picked = picked.toarray()
    return torch.from_numpy(np.ascontiguousarray(picked, dtype=np.float32))


class PairDataset(Dataset[PairBatch]):
    """Training pairs, a whole batch per item.

    ``caption`` sampling: each caption with its image, so an image counts once per caption. ``image``
    sampling: each image once an epoch, with one of its captions drawn by (seed, epoch, image).
    """

    def __init__(self, views: Views, split: str, sampling: str, seed: int) -> None:
        self.views, self.sampling, self.seed = views, sampling, seed
        corpus = views.corpus
        self.rows = corpus.caption_rows(split) if sampling == "caption" else corpus.image_rows(split)
        if sampling == "image":
            order = np.argsort(corpus.caption_image, kind="stable")
            starts = np.searchsorted(corpus.caption_image[order], np.arange(len(corpus.image_ids) + 1))
            self.captions_of = [order[a:b] for a, b in pairwise(starts)]

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
        return PairBatch(self.views.images(self.views.corpus.caption_image[rows]), self.views.texts(rows))


class ImageDataset(Dataset[ImageBatch]):
    """The images of a split, once each."""

    def __init__(self, views: Views, split: str) -> None:
        self.views, self.rows = views, views.corpus.image_rows(split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: BatchRows) -> ImageBatch:
        return self.views.images(self.rows[batch.rows])


class TextDataset(Dataset[TextBatch]):
    """The captions of a split, once each."""

    def __init__(self, views: Views, split: str) -> None:
        self.views, self.rows = views, views.corpus.caption_rows(split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: BatchRows) -> TextBatch:
        return self.views.texts(self.rows[batch.rows])
