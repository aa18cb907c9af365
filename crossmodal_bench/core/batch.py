"""Typed batches: exactly the views that a method requested, as tensors."""

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
        on_host: names of the fields that stay in host memory whatever the batch's device, because they
            determine shapes and which rows to take; reading them back from the device would stall the step.
            Where the device needs them, they are copied there (crossmodal_bench.core.host).
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
        """The batch on another device, except for the fields in ``on_host``; doesn't wait for the copy."""
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
    """B images. ``index`` (B,) holds corpus rows, on the host; views that were not requested are None.

    pixels (B, 3, H, W) normalised; pictures (B, 3, 64, 64) from -1 to 1, only in training pairs; regions
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
    """B captions. ``index`` (B,) holds corpus rows, ``image`` (B,) the images they describe; on the host.

    words (B, L): ids padded with 0 to the longest caption of the batch, and lengths (B,), counting the start
    and end tokens, on the host; wordpieces (B, L) with mask (B, L) and lengths (B,), the latter on the host;
    bow (B, D): a bag of words or the data set's own text features; labels: those of the images.
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
    """B images and all their captions, grouped by image.

    counts: (B,) number of captions per image. chosen: (B,) for each image, the row in ``texts`` of one of its
    captions, drawn at random. Both are on the host.
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
    """What a method must know about the data before it can be built.

    Sizes are 0 for views that were not requested; ``region_count`` and ``region_dim`` are R and D of the view
    ``regions``. ``tokenizer`` is the name or path of the word-piece tokenizer (None: fitted on the captions).
    ``network``, ``weights`` and ``text_network`` are those of the data module; ``text_network`` produces the
    caption vectors in the view ``bow`` (None: bags of words, or the data set's own features).
    ``weights_root`` is the data root, where pre-trained weights are looked up; None if the checkpoint
    supplies all weights. ``dataset_fingerprint`` is the fingerprint of the corpus.
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
    """The view; raises an error for a method that reads a view missing from its ``requires``."""
    if view is None:
        raise RuntimeError(f"the batch has no view '{name}'; declare it in the method's `requires`")
    return view


def long_tensor(rows: Any) -> Tensor:
    """Corpus rows as a tensor."""
    return torch.as_tensor(rows, dtype=torch.int64)
