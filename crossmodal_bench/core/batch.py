"""Typed batches: exactly the views that a method asked for, as tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from crossmodal_bench.core.host import sent

B = TypeVar("B", bound="_Batch")


@dataclass(frozen=True)
class _Batch:
    """Tensors that move together.

    Attributes:
        on_host: names of those that stay in the host's memory whatever device the batch is on: what decides
            shapes and which rows are taken. A step that had to read them back would wait for the device.
            Where the device needs them, they are sent (crossmodal_bench.core.host).
    """

    on_host: ClassVar[frozenset[str]] = frozenset()

    def _map(self: B, function: Callable[[Any], Any], *, without: frozenset[str] = frozenset()) -> B:
        changed = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, (Tensor, _Batch)) and item.name not in without:
                changed[item.name] = function(value)
        return replace(self, **changed)

    def to(self: B, device: torch.device | str) -> B:
        """The batch on another device, but for what stays ``on_host``; without waiting until it is there."""
        where = torch.device(device)
        return self._map(
            lambda value: value.to(where) if isinstance(value, _Batch) else sent(value, where),
            without=self.on_host,
        )

    def pin_memory(self: B) -> B:
        """The batch in page-locked memory."""
        return self._map(lambda value: value.pin_memory())


@dataclass(frozen=True)
class ImageBatch(_Batch):
    """B images. ``index`` (B,) are corpus rows, on the host; a view that was not asked for is None.

    pixels (B, 3, H, W) normalised; pictures (B, 3, 64, 64) from -1 to 1, of training pairs alone; regions
    (B, R, D); features (B, D); labels (B,) int64 or (B, C) float32; identities (B,), below
    ``DataSpec.n_identities`` in training.
    """

    on_host = frozenset({"index"})

    index: Tensor
    pixels: Tensor | None = None
    pictures: Tensor | None = None
    regions: Tensor | None = None
    features: Tensor | None = None
    labels: Tensor | None = None
    identities: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class TextBatch(_Batch):
    """B captions. ``index`` (B,) are corpus rows, ``image`` (B,) the images that they describe; on the host.

    words (B, L) ids padded with 0 to the batch's longest, lengths (B,) with start and end tokens counted, on
    the host; wordpieces (B, L) with mask (B, L) and lengths (B,), these on the host; bow (B, D) bag of words
    or the data set's own text features; labels as the image's.
    """

    on_host = frozenset({"index", "image", "lengths", "wordpiece_lengths"})

    index: Tensor
    image: Tensor
    words: Tensor | None = None
    lengths: Tensor | None = None
    wordpieces: Tensor | None = None
    wordpiece_mask: Tensor | None = None
    wordpiece_lengths: Tensor | None = None
    bow: Tensor | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class PairBatch(_Batch):
    """B image-caption pairs: row b of ``texts`` describes row b of ``images``."""

    images: ImageBatch
    texts: TextBatch

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class GroupBatch(_Batch):
    """B images and all their captions, image after image.

    counts: (B,) captions of each image. chosen: (B,) the row in ``texts`` of one of them, drawn at random.
    Both are on the host.
    """

    on_host = frozenset({"counts", "chosen"})

    images: ImageBatch
    texts: TextBatch
    counts: Tensor
    chosen: Tensor

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class DataSpec:
    """What a method must know of the data before it can be built.

    Sizes are 0 where the view was not asked for; ``region_count`` is R and ``region_dim`` D of the view
    ``regions``. ``tokenizer`` is the name or path behind the word pieces (None: fitted on the captions).
    ``network`` and ``weights`` are the data module's, and so is ``text_network``, whose vectors of captions
    the view ``bow`` has (None: bags of words, or the data set's own). ``weights_root`` is the data root,
    below which pre-trained weights are looked for; None where a checkpoint brings all weights.
    ``dataset_fingerprint`` is the corpus's.
    """

    n_train_images: int
    n_train_captions: int
    n_labels: int = 0
    multi_label: bool = False
    feature_dim: int = 0
    region_dim: int = 0
    region_count: int = 0
    bow_dim: int = 0
    vocabulary_size: int = 0
    wordpiece_vocabulary_size: int = 0
    longest_wordpieces: int = 0
    n_identities: int = 0
    tokenizer: str | None = None
    network: str | None = None
    weights: str = "auto"
    text_network: str | None = None
    weights_root: str | None = None
    dataset_fingerprint: str = ""


def require(view: Tensor | None, name: str) -> Tensor:
    """The view, or an error for a method that reads a view it did not declare in ``requires``."""
    if view is None:
        raise RuntimeError(f"the batch has no view '{name}'; declare it in the method's `requires`")
    return view


def long_tensor(rows: Any) -> Tensor:
    """Corpus rows as a tensor."""
    return torch.as_tensor(rows, dtype=torch.int64)
