"""Where the regions of images come from: memory-mapped arrays, or a renderer."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.npy import map_npy

RegionChoice = Literal["auto", "grid", "detector"]
"""The data set's own regions, or which kind to extract; see crossmodal_bench.data.image_settings."""
CHECKED_ROWS = 3
"""Rows at either end of a file that are checked for NaN: the whole file may have 60 GB."""


class RegionSource(Protocol):
    """A sequence of (R, D) float32 arrays, one per image.

    Attributes:
        count: R.
        dim: D.
        origin: the folder where they were found, for records; empty if the data set draws them itself.
    """

    @property
    def count(self) -> int: ...

    @property
    def dim(self) -> int: ...

    @property
    def origin(self) -> str: ...

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        """(R, D) of the image ``row``; BadInput names the file and row if they are not finite."""

    def batch(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, R, D) of the images ``rows``, writable; raises as for ``__getitem__``."""

    def subset(self, rows: NDArray[np.int64]) -> RegionSource:
        """The regions of the images ``rows``, in that order."""

    def fingerprint(self) -> str:
        """Changes when the regions do; empty if the images' fingerprint covers them."""


class RegionFiles:
    """Regions in ``.npy`` files of (n, R, D) floats, which are memory-mapped and never read whole.

    Args:
        paths: the files; all with the same R and D.
        files: (N,) which of them holds each image.
        rows: (N,) and in which row.

    Raises:
        BadInput: a file that is missing or not such an array, or files that differ in R or D.
    """

    def __init__(self, paths: Sequence[Path], files: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        self.paths = tuple(paths)
        self.files = files
        self.rows = rows
        self.maps = [map_regions(path) for path in self.paths]
        self.count, self.dim = (int(size) for size in self.maps[0].shape[1:])
        self.origin = self.paths[0].parent.name
        for path, array in zip(self.paths, self.maps, strict=True):
            if array.shape[1:] != (self.count, self.dim):
                raise BadInput(
                    f"{path} has {array.shape[1]} regions of width {array.shape[2]}, but "
                    f"{self.paths[0].name} has {self.count} of width {self.dim}; use one detector for all"
                )

    @classmethod
    def whole(cls, path: Path) -> RegionFiles:
        """All rows of one file, in order."""
        n = len(map_regions(path))
        return cls([path], np.zeros(n, np.int64), np.arange(n))

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memory map would send the whole file to each loader process.
        return RegionFiles, (self.paths, self.files, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        regions = self._read(row)
        if not np.isfinite(regions).all():
            raise _not_finite(self.paths[self.files[row]], int(self.rows[row]))
        return regions

    def batch(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, R, D) of the images ``rows``, with one access per file."""
        files, places = self.files[rows], self.rows[rows]
        if (files == files[:1]).all():
            regions = _float32_rows(self.maps[files[0]], places)
        else:
            regions = np.empty((len(rows), self.count, self.dim), dtype=np.float32)
            for file in np.unique(files):
                chosen = files == file
                regions[chosen] = _float32_rows(self.maps[file], places[chosen])
        with np.errstate(over="ignore", invalid="ignore"):
            total = regions.sum()
        # A single non-finite value makes the sum non-finite, which is twice as fast to check as every value;
        # but a sum may also overflow by itself.
        if not np.isfinite(total):
            for row, found in zip(rows, regions, strict=True):
                if not np.isfinite(found).all():
                    raise _not_finite(self.paths[self.files[row]], int(self.rows[row]))
        return regions

    def _read(self, row: int) -> NDArray[np.float32]:
        return _float32(self.maps[self.files[row]][self.rows[row]])

    def check_rows(self) -> None:
        """Check the regions of every image, which reads the files from end to end.

        Raises:
            BadInput: NaN or infinite values; names the first such row, and says how many there are.
        """
        bad = [row for row in range(len(self)) if not np.isfinite(self._read(row)).all()]
        if bad:
            raise _not_finite(self.paths[self.files[bad[0]]], int(self.rows[bad[0]]), len(bad))

    def subset(self, rows: NDArray[np.int64]) -> RegionFiles:
        """The regions of the images ``rows``, in that order."""
        return RegionFiles(self.paths, self.files[rows], self.rows[rows])

    def fingerprint(self) -> str:
        """Shapes of all files, content of their first and last rows, and each image's row."""
        digest = hashlib.sha256()
        for path, array in zip(self.paths, self.maps, strict=True):
            digest.update(f"{path.name}:{array.shape}{array.dtype}\n".encode())
            digest.update(array[0].tobytes() + array[-1].tobytes())
        digest.update(self.files.astype(np.int64).tobytes() + self.rows.astype(np.int64).tobytes())
        return digest.hexdigest()


def map_regions(path: Path) -> NDArray[Any]:
    """The read-only memory map of an (n, R, D) array of floats.

    Raises:
        BadInput: missing, truncated, pickled, of another shape or type, empty, or NaN in its first or last
            rows.
    """
    if not path.is_file():
        raise MissingInput(f"{path} is missing; put the file of (images, regions, width) floats there")
    if zipfile.is_zipfile(path):
        raise BadInput(f"{path} is an archive of arrays; save the one array with numpy.save")
    array = map_npy(path)
    if array.dtype.kind != "f":
        raise BadInput(f"{path} holds {array.dtype} values; save it with .astype('float32')")
    if array.ndim != 3:
        raise BadInput(f"{path} has shape {array.shape}; it must have 3 dimensions: images, regions, width")
    for items, size in zip(("images", "regions", "values in a region"), array.shape, strict=True):
        if size == 0:
            raise BadInput(f"{path} has shape {array.shape}, so no {items}; extract it again")
    n = len(array)
    for row in chain(range(min(CHECKED_ROWS, n)), range(max(n - CHECKED_ROWS, 0), n)):
        if not np.isfinite(_float32(array[row])).all():
            raise _not_finite(path, row)
    return array


def _not_finite(path: Path, row: int, count: int = 1) -> BadInput:
    others = f" ({count} such images in all)" if count > 1 else ""
    return BadInput(f"{path} holds NaN or infinite values in row {row}; extract that image again{others}")


def _float32_rows(array: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """A float32 copy of some rows of a memory map, in one access; see ``_float32``."""
    with np.errstate(over="ignore"):
        # Indexing by an array has already made a copy.
        return np.asarray(array[rows], dtype=np.float32)


def _float32(regions: NDArray[Any]) -> NDArray[np.float32]:
    """A float32 copy; values that overflow become infinite, which the caller checks for."""
    with np.errstate(over="ignore"):
        return np.array(regions, dtype=np.float32)
