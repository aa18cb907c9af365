"""Arrays and lists of numbers from pickles, without running anything in them.

A pickle is a program. But what a user's own lab pickled years ago is usually just arrays, so it is read here
by an interpreter that knows lists, numbers, strings and NumPy's arrays, and builds these itself: no name in
the file is imported, and the file cannot call any function of NumPy, pickle or other code.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import first_line
from crossmodal_bench.core.npy import check_expansion

KIND = re.compile(r"[<>|=]?[biuf][1248]")
"""Number types, as NumPy writes them."""
MEMORY = ("PUT", "BINPUT", "LONG_BINPUT")
"""Opcodes that name a memo index; the memo grows to the largest one."""


def load_pickled(path: Path) -> NDArray[Any]:
    """The array in a pickle: itself, or a list of rows that are arrays or lists of numbers.

    Raises:
        BadInput: truncated or not a pickle, one that needs anything but numbers, rows of different widths, or
            one that expands out of all proportion. The message says how to convert the file.
    """
    content = path.read_bytes()
    try:
        _check_steps(content)
        value = _Reader(io.BytesIO(content), encoding="latin1").load()
        size = _size(value)
    # The pickle is a program, which can fail in any way.
    except Exception as error:
        raise _refused(path, first_line(error)) from error
    check_expansion(path, "its rows", 8 * size)
    try:
        array = np.asarray([np.asarray(row) for row in value] if isinstance(value, list) else value)
    except Exception as error:
        raise _refused(path, "its rows have different shapes") from error
    if array.dtype.kind not in "biuf" or not array.ndim:
        raise _refused(path, f"it holds {type(value).__name__}, not rows of numbers")
    return array


def _refused(path: Path, why: str) -> BadInput:
    return BadInput(
        f"{path} cannot be read as rows of numbers ({why}); on the machine where it was made, run: "
        "import numpy, pickle; "
        f"rows = pickle.load(open('{path.name}', 'rb'), encoding='latin1'); "
        f"numpy.save('{path.stem}.npy', numpy.asarray(rows))"
    )


def _check_steps(content: bytes) -> None:
    """Reject a pickle that needs more memo entries than it has bytes; genops detects truncation."""
    for step, argument, _ in pickletools.genops(content):
        if step.name in MEMORY and isinstance(argument, int) and argument > len(content):
            raise ValueError(f"it needs {argument:,} memo entries")


def _size(value: Any) -> int:
    """The count of numbers once the value is an array; a list may hold the same row a million times."""
    if isinstance(value, np.ndarray):
        return int(value.size)
    if not isinstance(value, list | tuple):
        return 1
    sizes: dict[int, int] = {}
    total = 0
    for row in value:
        if id(row) not in sizes:
            # Features are rows of numbers, so nesting is only counted one level deep.
            sizes[id(row)] = int(row.size) if isinstance(row, np.ndarray) else _length(row)
        total += sizes[id(row)]
    return total


def _length(row: Any) -> int:
    if not isinstance(row, list | tuple):
        return 1
    if any(isinstance(value, list | tuple | np.ndarray) and np.ndim(value) for value in row):
        raise ValueError("its lists are nested too deeply")
    return len(row)


class _Kind:
    """The stand-in for ``numpy.dtype``."""

    def __init__(self, code: Any, *flags: Any) -> None:
        if not isinstance(code, str) or not KIND.fullmatch(code):
            raise ValueError(f"values of type {str(code)[:20]!r}")
        self.code = code.lstrip("<>|=")
        self.order = code[0] if code[0] in "<>" else "<"

    def __setstate__(self, state: Any) -> None:
        if len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Array:
    """The stand-in for ``numpy.ndarray``, until its bytes are known."""

    def __init__(self, *arguments: Any) -> None:
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        self.array = _from_bytes(content, kind, shape, "F" if fortran else "C")


def _from_bytes(content: Any, kind: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    if isinstance(content, str):
        content = content.encode("latin1")
    if not isinstance(content, bytes | bytearray) or not isinstance(kind, _Kind):
        raise ValueError("an array of objects")
    if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError("an array without a shape")
    if math.prod(shape) * kind.dtype.itemsize != len(content):
        raise ValueError("an array with too many or too few bytes")
    array = np.frombuffer(content, kind.dtype).reshape(shape, order="F" if order == "F" else "C")
    return array.astype(array.dtype.newbyteorder("="))


def _scalar(kind: Any, content: Any) -> Any:
    return _from_bytes(content, kind, (1,))[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("an encoding other than Latin-1")
    return text.encode("latin1")


NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_bytes for core in ("core", "_core")},
}
"""The stand-in for each name in a pickle of arrays; no other name is accepted."""


class _Reader(pickle.Unpickler):
    """Pickle's interpreter, restricted to the names in NAMES."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise ValueError(f"it asks for {module}.{name}"[:100])
        return NAMES[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise ValueError("it refers to something outside itself")

    def load(self) -> Any:
        """The value, its arrays unwrapped."""
        return _unwrapped(super().load())


def _unwrapped(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.array is None:
            raise ValueError("an array without content")
        return value.array
    if isinstance(value, list | tuple):
        return [row.array if isinstance(row, _Array) else row for row in value]
    return value
