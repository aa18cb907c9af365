"""Where pixels come from: files on disk, or a renderer."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.files import first_line, is_path_below, shown
from crossmodal_bench.data.decoding import VERSION, as_shown

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
"""Not all formats that Pillow knows: for some, it starts another program."""
LARGEST = 50_000_000
"""Pixels of a picture: 150 MB in RGB, however small the file is."""
LONGEST = 100
"""Maximal aspect ratio: the shorter side is enlarged to what a network reads."""
BAD_IMAGE = "replace it, or pass --on-bad-image skip"


class ImageSource(Protocol):
    """A sequence of RGB pictures."""

    def __len__(self) -> int:
        """Number of pictures."""

    def __getitem__(self, row: int) -> Image.Image:
        """Picture ``row`` in RGB, as a viewer shows it; BadInput names it if it cannot be read."""

    def subset(self, rows: NDArray[np.int64]) -> ImageSource:
        """The pictures ``rows``, in that order."""

    def fingerprint(self) -> str:
        """Changes when the pictures do."""


class ImageFiles:
    """Pictures in files, opened on access."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    @classmethod
    def within(cls, folder: Path, names: list[str]) -> ImageFiles:
        """The files ``names`` below ``folder``.

        Raises:
            BadInput: a name that leads out of the folder; MissingInput for the first missing file.
        """
        present = _files_in(folder) if folder.is_dir() else set()
        for name in names:
            if not is_path_below(name):
                raise BadInput(f"{folder}: file {shown(name)} leads out of it; give a path below it")
            if name not in present and not (folder / name).is_file():
                raise MissingInput(
                    f"{folder / name} is missing; put the data set's images there "
                    "(or remove the entry from its JSON)"
                )
        return cls([folder / name for name in names])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Image.Image:
        path = self.paths[row]
        try:
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path, image.size)
                return as_shown(image)
        except BadInput:
            raise
        # A damaged picture can raise almost any exception.
        except Exception as error:
            raise BadInput(f"{path} cannot be read as an image ({first_line(error)}); {BAD_IMAGE}") from error

    def subset(self, rows: NDArray[np.int64]) -> ImageFiles:
        """The files ``rows``, in that order."""
        return ImageFiles([self.paths[int(row)] for row in rows])

    def fingerprint(self) -> str:
        """Names and sizes of all files, and the rules by which they are decoded."""
        digest = hashlib.sha256(f"{VERSION}\n".encode())
        for path in self.paths:
            digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
        return digest.hexdigest()


def _files_in(folder: Path) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file()}


def _check_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if not min(size):
        raise BadInput(f"{path} has {width} x {height} pixels; {BAD_IMAGE}")
    if width * height > LARGEST:
        raise BadInput(f"{path} has {width} x {height} pixels, more than {LARGEST:,}; shrink or {BAD_IMAGE}")
    if max(size) > LONGEST * min(size):
        raise BadInput(
            f"{path} has {width} x {height} pixels, one side more than {LONGEST} times the other; crop or "
            f"{BAD_IMAGE}"
        )


def unreadable(images: ImageSource) -> dict[int, str]:
    """Rows that cannot be decoded, with the reason as a sentence; decodes every picture."""
    truncated, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    bad = {}
    try:
        for row in range(len(images)):
            try:
                images[row]
            except BadInput as error:
                bad[row] = str(error)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated
    return bad
