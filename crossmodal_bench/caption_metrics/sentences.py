"""Sentences as token ids: where each ends, and those of all images in flat tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

References = Tensor | Sequence[Tensor | Sequence[Sequence[int]]]
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Sentences:
    """S sentences of N images, image by image.

    ids: (T,) int32, one sentence after another. starts, lengths: (S,) of each sentence in ``ids``.
    firsts, counts: (N,) first sentence and number of sentences of each image.
    """

    ids: Tensor
    starts: Tensor
    lengths: Tensor
    firsts: Tensor
    counts: Tensor

    @classmethod
    def of(cls, references: References, name: str, eos_id: int | None, padding_id: int | None) -> Sentences:
        """Pack references as described in ``CiderD``; ``name`` is what error messages call them.

        Raises:
            ValueError: no image, an image without a sentence, or values other than ids from 0 to 2^31 - 1.
        """
        flat, widths, counts = _flat(references, name)
        if not len(counts) or not counts.all():
            fault = "are empty" if not len(counts) else f"has no sentence for image {int(counts.argmin())}"
            raise ValueError(f"{name} {fault}; every image needs at least one")
        inside = within(flat, widths, eos_id, padding_id)
        before = F.pad(inside.cumsum(0), (1, 0))
        starts = before[widths.cumsum(0) - widths]
        ids = flat[inside]
        check_range(ids, name)
        return cls(ids.int(), starts, before[widths.cumsum(0)] - starts, counts.cumsum(0) - counts, counts)

    def to(self, device: torch.device) -> Sentences:
        """The sentences on another device."""
        return Sentences(*(getattr(self, item.name).to(device) for item in fields(self)))

    def padded(self, rows: Tensor, real: Tensor, filler: int) -> tuple[Tensor, Tensor]:
        """Sentences (M, *rows.shape) padded to the longest with ``filler``, and their lengths.

        Where ``real`` is false, there is none: all filler, with length 0.
        """
        lengths = self.lengths[rows].masked_fill(~real, 0)
        position = torch.arange(longest(lengths), device=rows.device)
        position = position.view(-1, *(1 for _ in rows.shape))
        outside = position >= lengths
        places = (self.starts[rows] + position).masked_fill(outside, 0)
        return self.ids[places].masked_fill(outside, filler), lengths


def within(ids: Tensor, widths: Tensor, eos_id: int | None, padding_id: int | None) -> Tensor:
    """(T,) which ids belong to their sentence; rows of the given widths follow one another.

    A sentence is everything up to and including the first ``eos_id``, and before any ``padding_id``.
    """
    ends = torch.zeros_like(ids, dtype=torch.bool) if eos_id is None else ids == eos_id
    stops = ends if padding_id is None else ends | (ids == padding_id)
    before = F.pad(stops.cumsum(0), (1, 0))
    of_row = before[widths.cumsum(0) - widths].repeat_interleave(widths)
    return (before[:-1] == of_row) & (ends | ~stops)


def check_range(ids: Tensor, name: str) -> None:
    """Raise ValueError for an id that would not fit in an int32 next to the negative fillers."""
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) > LARGEST):
        raise ValueError(
            f"{name} contain an id outside 0 to {LARGEST} before the end of a sentence: "
            f"they range from {int(ids.min())} to {int(ids.max())}"
        )


def whole(tensor: Tensor) -> bool:
    """Whether its numbers are integers."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def described(tensor: Tensor) -> str:
    """Shape and type, for error messages."""
    return f"{tuple(tensor.shape)} of {tensor.dtype}"


def longest(lengths: Tensor) -> int:
    """The largest of the lengths, or 0 if there are none."""
    return int(lengths.max()) if lengths.numel() else 0


def _flat(references: References, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """All ids one after another, the width of each sentence, and the number of sentences of each image."""
    if isinstance(references, Tensor):
        if references.ndim != 3 or not whole(references):
            raise ValueError(f"{name} {described(references)} must be an (N, R, L) tensor of integers")
        images, each, width = references.shape
        flat = references.detach().cpu().long().reshape(-1)
        return flat, torch.full((images * each,), width), torch.full((images,), each)
    sentences: list[NDArray[np.int64]] = []
    counts = []
    for row, image in enumerate(references):
        own = _arrays(image)
        if own is None:
            raise ValueError(f"{name}: image {row} must be an (R, L) tensor, or sequences, of integers")
        sentences += own
        counts.append(len(own))
    widths = torch.tensor([len(sentence) for sentence in sentences], dtype=torch.int64)
    flat = torch.from_numpy(np.concatenate(sentences)) if sentences else torch.zeros(0, dtype=torch.int64)
    return flat, widths, torch.tensor(counts, dtype=torch.int64)


def _arrays(image: Tensor | Sequence[Sequence[int]]) -> list[NDArray[np.int64]] | None:
    """The sentences of an image; None if they are not ids."""
    if isinstance(image, Tensor):
        return list(image.cpu().long().numpy()) if image.ndim == 2 and whole(image) else None
    if not isinstance(image, Iterable):
        return None
    arrays = [np.asarray(sentence) for sentence in image]
    # An empty list becomes an array of floats.
    if any(array.ndim != 1 or (array.size and array.dtype.kind not in "iu") for array in arrays):
        return None
    return [array.astype(np.int64, copy=False) for array in arrays]
