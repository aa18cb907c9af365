"""``.npy`` and ``.npz`` files whose headers are trusted only as far as the bytes that follow them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import first_line

ALWAYS, AT_MOST = 2**29, 100
"""An array in a compressed file may take 512 MiB, or up to AT_MOST times the file's size."""
MOST_EMPTY = 2**20
"""Rows of zero width."""


def load_npy(path: Path) -> NDArray[Any]:
    """The array of a ``.npy``, in memory; BadInput as for ``map_npy``."""
    with _sentences(path, ".npy"), path.open("rb") as stream:
        _check_header(stream, path.stat().st_size)
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)


def map_npy(path: Path) -> NDArray[Any]:
    """The read-only memory map of a ``.npy``.

    Raises:
        BadInput: truncated, pickled or missing.
    """
    with _sentences(path, ".npy"):
        with path.open("rb") as stream:
            _check_header(stream, path.stat().st_size)
        return np.lib.format.open_memmap(path, mode="r")


def names_in_npz(path: Path) -> list[str]:
    """The names of a ``.npz``'s arrays; BadInput if it is not an archive."""
    with _sentences(path, ".npz"), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def load_npz(path: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """Some arrays of a ``.npz``.

    Raises:
        BadInput: truncated or missing, an object array, or one that expands out of all proportion.
    """
    with _sentences(path, ".npz"), zipfile.ZipFile(path) as archive:
        arrays = {}
        for name in names:
            member = archive.getinfo(f"{name}.npy")
            check_expansion(path, name, member.file_size)
            with archive.open(member) as stream:
                _check_header(stream, member.file_size)
            with archive.open(member) as stream:
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
        return arrays


def check_expansion(path: Path, name: str, expanded: int) -> None:
    """Raise BadInput if ``expanded`` bytes for an array are implausibly many for its file's size."""
    size = path.stat().st_size
    if expanded > max(ALWAYS, AT_MOST * size):
        raise BadInput(
            f"{path}:{name} takes {expanded:,} bytes in memory and the file has {size:,}; "
            "save it uncompressed, with numpy.save"
        )


def is_pickled(path: Path) -> BadInput:
    """The exception for a file that only Python's pickle could read, which would run any code in it."""
    return BadInput(
        f"{path} is a pickle or an object array, which can run code; save it with "
        "numpy.save(path, array.astype('float32'))"
    )


@contextmanager
def _sentences(path: Path, suffix: str) -> Iterator[None]:
    try:
        # Reading a pipe would block.
        if path.exists() and not path.is_file():
            raise BadInput(f"{path} cannot be read (it is not a regular file); put the file there")
        yield
    except BadInput:
        raise
    # A damaged header can raise almost any exception, from NumPy, zipfile or Python's own parser.
    except Exception as error:
        if isinstance(error, _ObjectArray) or "allow_pickle" in str(error):
            raise is_pickled(path) from error
        raise BadInput(
            f"{path} is truncated or not a {suffix} file ({first_line(error)}); copy it again"
        ) from error


class _ObjectArray(Exception):
    """A header that promises Python objects."""


def _check_header(stream: IO[bytes], size: int) -> None:
    """Raise if the header promises more than the ``size`` bytes of the file hold."""
    start = stream.read(6)
    if start[:1] == b"\x80":
        raise _ObjectArray
    if start != np.lib.format.MAGIC_PREFIX:
        raise ValueError("its first bytes are not those of a .npy" if start else "it is empty")
    version = (*stream.read(2),)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise _ObjectArray
    wanted, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if any(length < 0 for length in shape) or wanted > there:
        raise ValueError(f"its shape {shape} needs {wanted:,} bytes, but only {there:,} follow")
    # Callers allocate something per row.
    if len(shape) and shape[0] > MOST_EMPTY and not wanted:
        raise ValueError(f"its shape {shape} holds no values")
