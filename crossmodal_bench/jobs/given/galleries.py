"""A user's input to be scored: vectors, encodings with a scorer, or a matrix of scores."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding, Scorer, VectorSimilarity
from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.core.npy import load_npy, map_npy
from crossmodal_bench.similarity.vectors import cosine_similarity, dot_product, negative_euclidean

Array = NDArray[Any] | Tensor

SIMILARITIES: Mapping[VectorSimilarity, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine_similarity,
    "dot": dot_product,
    "euclidean": negative_euclidean,
}
"""Similarities by name; ``euclidean`` is the negative distance."""

_BLOCK = 2**22  # values processed at a time
_SHORTEST = 1e-12  # below this norm, torch's normalisation does not yield unit vectors
_EXACT = 2**24  # integers up to here are exact in single precision


@dataclass(frozen=True)
class GivenGalleries:
    """N images and M texts with their scorer, in the order of evaluation.

    Attributes:
        images: N encodings; for a matrix, its row numbers.
        texts: M encodings; for a matrix, its column numbers.
        score: the scorer.
        how: what is scored and how, as stated in records and tables.
        scores: the matrix, if one was given.
        custom: whether the scorer is code, which has no checksum.
    """

    images: Encoding
    texts: Encoding
    score: Scorer
    how: str
    scores: Array | None = field(default=None, repr=False)
    custom: bool = False

    def reordered(self, images: NDArray[np.int64], texts: NDArray[np.int64]) -> GivenGalleries:
        """The galleries with only these rows, in this order."""

        def taken(encoding: Encoding, rows: NDArray[np.int64]) -> Encoding:
            if np.array_equal(rows, np.arange(len(encoding))):
                return encoding
            return encoding.take(torch.from_numpy(rows).to(encoding.values.device))

        return GivenGalleries(
            taken(self.images, images),
            taken(self.texts, texts),
            self.score,
            self.how,
            self.scores,
            self.custom,
        )

    def checksum(self) -> str:
        """SHA-256 of the vectors or of the matrix, in the order of evaluation."""
        digest = hashlib.sha256()
        if self.scores is not None:
            rows, columns = (_numbers_of(side) for side in (self.images, self.texts))
            digest.update(f"scores {len(rows)} {len(columns)} {self.scores.dtype}".encode())
            step = max(1, _BLOCK // len(columns))
            for start in range(0, len(rows), step):
                digest.update(_part(self.scores, rows[start : start + step], columns).tobytes())
            return digest.hexdigest()
        for side in (self.images, self.texts):
            digest.update(f"vectors {tuple(side.values.shape)} {side.values.dtype}".encode())
            for block in _blocks(side.values):
                digest.update(np.ascontiguousarray(_as_numpy(block)).tobytes())
            if side.lengths is not None:
                digest.update(side.lengths.cpu().numpy().tobytes())
        return digest.hexdigest()


def galleries_of_vectors(
    images: Array | Path, texts: Array | Path, similarity: str = "cosine"
) -> GivenGalleries:
    """Vectors of equal width, compared by a similarity.

    Args:
        images: (N, D) in float16, float32 or float64, or a ``.npy`` file with them.
        texts: (M, D), likewise.
        similarity: one of SIMILARITIES.

    Raises:
        BadInput: another shape or type, different widths, a non-finite value or, for cosine, a zero vector;
            the message names the file and the row.
    """
    if similarity not in SIMILARITIES:
        raise BadInput(f"similarity '{similarity}' is unknown{nearest(similarity, SIMILARITIES)}")
    names = {"images": _name(images, "images"), "texts": _name(texts, "texts")}
    sides = {side: _vectors(given, names[side]) for side, given in (("images", images), ("texts", texts))}
    widths = {side: values.shape[1] for side, values in sides.items()}
    if widths["images"] != widths["texts"]:
        raise BadInput(
            f"{names['images']} has vectors of width {widths['images']}, but {names['texts']} of width "
            f"{widths['texts']}; give vectors from one common space"
        )
    for side, values in sides.items():
        _check_vectors(values, names[side], cosine=similarity == "cosine")
    compare = SIMILARITIES[similarity]  # type: ignore[index]

    def score(left: Encoding, right: Encoding) -> Tensor:
        return compare(left.values, right.values)

    how = f"{similarity} of given vectors, {widths['images']} wide"
    return GivenGalleries(Encoding(sides["images"]), Encoding(sides["texts"]), score, how)


def galleries_of_encodings(
    images: Array | Encoding, texts: Array | Encoding, scorer: Scorer
) -> GivenGalleries:
    """Encodings of any kind with their own scorer; BadInput for non-finite values."""
    sides = []
    for name, given in (("images", images), ("texts", texts)):
        if not isinstance(given, Encoding):
            given = Encoding(torch.as_tensor(given))
        if not len(given):
            raise BadInput(f"{name} has no items; give at least one")
        if given.values.is_floating_point() and not torch.isfinite(given.values).all():
            raise BadInput(f"{name} has non-finite values; fix the encoder")
        sides.append(Encoding(given.values.detach(), given.lengths))
    kind = getattr(scorer, "__qualname__", type(scorer).__name__)
    return GivenGalleries(sides[0], sides[1], scorer, f"given encodings under the scorer {kind}", custom=True)


def galleries_of_scores(scores: Array | Path) -> GivenGalleries:
    """A matrix of scores, read one tile at a time.

    Args:
        scores: (N, M), higher is better, in float16, float32 or float64; or a ``.npy`` file with them, which
            is memory-mapped and never read as a whole.

    Raises:
        BadInput: another shape or type. Non-finite values are found when their tile is read.
    """
    name = _name(scores, "scores")
    matrix = map_npy(scores) if isinstance(scores, Path) else scores
    if isinstance(matrix, Tensor):
        matrix = matrix.detach()
    _check_type(matrix, name)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise BadInput(
            f"{name} has shape {tuple(matrix.shape)}; give (N, M): one row per image and one column per text"
        )
    if max(matrix.shape) >= _EXACT:
        raise BadInput(f"{name} has {max(matrix.shape):,} rows or columns; give fewer than {_EXACT:,}")
    double = matrix.dtype in (torch.float64, np.dtype(np.float64))

    def score(images: Encoding, texts: Encoding) -> Tensor:
        part = _part(matrix, _numbers_of(images), _numbers_of(texts))
        return torch.from_numpy(part.astype(np.float64 if double else np.float32, copy=False))

    def numbered(count: int) -> Encoding:
        return Encoding(torch.arange(count, dtype=torch.float64 if double else torch.float32)[:, None])

    n_images, n_texts = matrix.shape
    return GivenGalleries(numbered(n_images), numbered(n_texts), score, "given scores", scores=matrix)


def _name(given: Any, otherwise: str) -> str:
    return str(given) if isinstance(given, Path) else otherwise


def _vectors(given: Array | Path, name: str) -> Tensor:
    array = load_npy(given) if isinstance(given, Path) else given
    if isinstance(array, Encoding):
        raise BadInput(f"{name} is an Encoding; give a scorer too, or vectors instead")
    _check_type(array, name)
    if array.ndim != 2 or 0 in array.shape:
        raise BadInput(f"{name} has shape {tuple(array.shape)}; give (N, D): one row per item")
    if isinstance(array, Tensor):
        return array.detach()
    # Torch accepts neither foreign byte order nor negative strides.
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def _check_type(array: Any, name: str) -> None:
    if isinstance(array, Tensor):
        usable = array.is_floating_point()
    elif isinstance(array, np.ndarray):
        usable = array.dtype.kind == "f" and array.dtype.itemsize in (2, 4, 8)
    else:
        raise BadInput(f"{name} is a {type(array).__name__}; give a NumPy array or a tensor")
    if not usable:
        raise BadInput(
            f"{name} is {array.dtype}; give float32 (or float16, float64): array.astype('float32')"
        )


def _check_vectors(values: Tensor, name: str, *, cosine: bool) -> None:
    """Raise BadInput for the first row with a non-finite value or, for cosine, without a direction."""
    first = 0
    for block in _blocks(values):
        finite = torch.isfinite(block).all(1)
        if not finite.all():
            row = first + int((~finite).int().argmax())
            raise BadInput(f"{name}: row {row} has a non-finite value; fix whatever produced it")
        if cosine:
            # In the similarity's own precision: what overflows or vanishes there has no direction.
            precise = block if block.dtype == torch.float64 else block.float()
            length = precise.norm(dim=1)
            wrong = ~torch.isfinite(length) | (length < _SHORTEST)
            if wrong.any():
                row = int(wrong.int().argmax())
                what = "all zeros" if not block[row].any() else f"of length {float(length[row]):.1e}"
                raise BadInput(
                    f"{name}: row {first + row} is {what}, so its cosine with anything is undefined; "
                    "fix whatever produced it, or choose another similarity"
                )
        first += len(block)


def _blocks(values: Tensor) -> Iterator[Tensor]:
    yield from values.split(max(1, _BLOCK // max(1, math.prod(values.shape[1:]))))


def _as_numpy(values: Tensor) -> NDArray[Any]:
    # NumPy has no bfloat16.
    return (values.float() if values.dtype == torch.bfloat16 else values).cpu().numpy()


def _numbers_of(items: Encoding) -> NDArray[np.int64]:
    return items.values[:, 0].long().cpu().numpy()


def _part(matrix: Array, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[Any]:
    """(rows, columns) of the matrix, copied; consecutive ones are read as slices."""
    # Slice first: slices cost nothing, and what is gathered afterwards is small.
    across, down = _run(columns), _run(rows)
    part = matrix if across is None else matrix[:, across]
    part = part[_index(matrix, rows)] if down is None else part[down]
    part = part[:, _index(matrix, columns)] if across is None else part
    array = _as_numpy(part) if isinstance(part, Tensor) else part
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def _index(matrix: Array, rows: NDArray[np.int64]) -> Any:
    return torch.from_numpy(rows).to(matrix.device) if isinstance(matrix, Tensor) else rows


def _run(numbers: NDArray[np.int64]) -> slice | None:
    """The numbers as a slice if they are consecutive."""
    first = int(numbers[0])
    return slice(first, first + len(numbers)) if (np.diff(numbers) == 1).all() else None
