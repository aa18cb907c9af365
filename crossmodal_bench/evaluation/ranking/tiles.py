"""Scores of an image gallery against a text gallery, one tile of a fixed grid at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding, Scorer

_ALIGNMENT = 64  # bytes; a vector kernel may round differently for other alignments
_GRAIN = 16  # items; tile sizes are multiples of this, so that no item ends up in a kernel's remainder loop
_VECTOR_TILE = (512, 2048)
_FRAGMENT_TILE = (128, 128)  # a cross-attention scorer holds regions x words values per pair


class NonFiniteScore(ValueError):
    """A scorer returned NaN or infinity for the pair (``image``, ``text``), rows in the caller's order."""

    def __init__(self, image: int, text: int) -> None:
        super().__init__(f"the score of (row {image}, column {text}), image x text, is not finite")
        self.image = image
        self.text = text


class ScoreTiles:
    """The (n_images, n_texts) score matrix as a grid of tiles that are computed on demand.

    The grid depends only on the two lengths, never on the caller: whichever process computes a tile has the
    same operands in the same shapes, and so gets the same digits. Vectors at the edge are padded to the full
    tile by repeating the last item, so that equal items also get equal scores in different tiles.

    Scores are always fp32 (float64 encodings stay float64): half-precision encodings are widened, and
    autocast and reduced-precision matrix products are switched off.

    With ``image_order`` (n_images,), row i of the grid is image ``image_order[i]``; with ``text_order``
    (n_texts,), column j is text ``text_order[j]``.
    """

    def __init__(
        self,
        images: Encoding,
        texts: Encoding,
        score: Scorer,
        *,
        image_tile: int | None = None,
        text_tile: int | None = None,
        image_order: Tensor | None = None,
        text_order: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not len(images) or not len(texts):
            raise ValueError(f"nothing to score: {len(images)} images and {len(texts)} texts")
        self._pad = _is_vectors(images) and _is_vectors(texts)
        default = _VECTOR_TILE if self._pad else _FRAGMENT_TILE
        self._height, self.rows = _bounds(len(images), default[0] if image_tile is None else image_tile)
        self._width, self.columns = _bounds(len(texts), default[1] if text_tile is None else text_tile)
        double = torch.float64 in (images.values.dtype, texts.values.dtype)
        self.dtype = torch.float64 if double else torch.float32
        self.device = torch.device(device) if device is not None else images.values.device
        self._images = images
        self._texts = texts
        self._score = score
        self._orders = {"images": image_order, "texts": text_order}
        self._held: dict[str, tuple[int, Encoding]] = {}

    def __call__(self, row: int, column: int) -> Tensor:
        """Tile (row, column): (rows, columns) scores, all finite, on ``device``.

        Raises NonFiniteScore for the first offending pair, ValueError for a scorer of the wrong shape.
        """
        images, texts = self._tile("images", row), self._tile("texts", column)
        with full_precision(self.device.type):
            scores = self._score(images, texts)
        if scores.shape != (len(images), len(texts)):
            raise ValueError(
                f"the scorer returned {tuple(scores.shape)} for {len(images)} images and {len(texts)} texts"
            )
        (top, bottom), (left, right) = self.rows[row], self.columns[column]
        scores = scores.detach().to(self.dtype)[: bottom - top, : right - left]
        # A sum that includes NaN or infinity is never finite; only then search for the pair.
        if not torch.isfinite(scores.sum()):
            bad = torch.nonzero(~torch.isfinite(scores))
            if len(bad):
                image, text = bad[0].tolist()
                raise NonFiniteScore(
                    self._callers_row("images", top + image), self._callers_row("texts", left + text)
                )
        return scores

    def _callers_row(self, side: str, position: int) -> int:
        order = self._orders[side]
        return position if order is None else int(order[position])

    def _tile(self, side: str, index: int) -> Encoding:
        held = self._held.get(side)
        if held is not None and held[0] == index:
            return held[1]
        encoding, bounds = (self._images, self.rows) if side == "images" else (self._texts, self.columns)
        start, stop = bounds[index]
        order = self._orders[side]
        if order is None:
            tile = encoding[start:stop]
        else:
            tile = encoding.take(order[start:stop].to(encoding.values.device))
        tile = tile.to(self.device)
        values = tile.values if tile.values.dtype == torch.float64 else tile.values.float()
        missing = (self._height if side == "images" else self._width) - len(tile)
        if self._pad and missing:
            values = torch.cat([values, values[-1:].expand(missing, -1)])
        if values.data_ptr() % _ALIGNMENT:
            values = values.clone()
        tile = Encoding(values, tile.lengths)
        self._held[side] = (index, tile)
        return tile


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """No gradients, no autocast, no TF32 or bf16 inside fp32 matrix products; restored afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _is_vectors(encoding: Encoding) -> bool:
    return encoding.lengths is None and encoding.values.ndim == 2


def _bounds(length: int, tile: int) -> tuple[int, list[tuple[int, int]]]:
    """(size, tiles): tiles of equal size (the last may be shorter), as even as the grain allows."""
    if tile < 1:
        raise ValueError(f"a tile must hold at least one item, got {tile}")
    grain = math.gcd(tile, _GRAIN)
    size = math.ceil(length / math.ceil(length / tile))
    size = math.ceil(size / grain) * grain
    return size, [(start, min(start + size, length)) for start in range(0, length, size)]
