"""Matrices in MATLAB files (up to version 7), via SciPy, which trusts them more than it should."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.core.files import first_line
from crossmodal_bench.core.npy import check_expansion

BYTES = {"double": 8, "single": 4, "logical": 1, "sparse": 8} | {
    f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)
}
"""Matrix classes, and the bytes per element of each."""
HEADER = 128
"""Bytes before the first part of a file; the last two give the byte order."""
BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {b"IM": "little", b"MI": "big"}
COMPRESSED = 15
"""The type of a zlib-compressed part."""
CHUNK = 2**14
"""Compressed bytes to unpack at a time."""


def load_mat(path: Path, key: str) -> NDArray[Any]:
    """The matrix ``key``; a sparse one is converted to dense.

    Raises:
        BadInput: truncated or missing, no matrix of that name, one of objects, or one that expands out of
            all proportion.
    """
    import scipy.io
    import scipy.sparse

    try:
        _check_compressed(path)
        matrices = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(path)}
        if key not in matrices:
            raise BadInput(
                f"{path} has no array '{key}'{nearest(key, matrices) or '; save it under that name'}"
            )
        shape, kind = matrices[key]
        if kind not in BYTES:
            raise BadInput(f"{path}:{key} is a MATLAB {kind}; save it as one numeric matrix")
        if any(size < 0 for size in shape):
            raise ValueError(f"a matrix of {shape}")
        check_expansion(path, key, math.prod(shape) * BYTES[kind])
        matrix = scipy.io.loadmat(path, variable_names=[key])[key]
        if not scipy.sparse.issparse(matrix):
            return np.asarray(matrix)
        # Unchecked, SciPy writes wherever the file's indices point.
        if matrix.format in ("csc", "csr"):
            matrix.check_format(full_check=True)
        return np.asarray(matrix.toarray())
    except BadInput:
        raise
    except NotImplementedError as error:
        raise BadInput(
            f"{path} is a MATLAB 7.3 file; save it again with save(..., '-v7') or as .npz"
        ) from error
    # A damaged file can raise almost any exception.
    except Exception as error:
        raise BadInput(
            f"{path} is truncated or not a .mat file ({first_line(error)}); copy it again"
        ) from error


def _check_compressed(path: Path) -> None:
    """Reject compressed parts that expand out of all proportion, before SciPy unpacks them."""
    with path.open("rb") as stream:
        order = BYTE_ORDERS.get(stream.read(HEADER)[126:])
        while order is not None and len(tag := stream.read(8)) == 8:
            kind = int.from_bytes(tag[:4], order)
            size = int.from_bytes(tag[4:], order)
            following = stream.tell() + size
            if kind == COMPRESSED:
                expanded = 0
                unpack = zlib.decompressobj()
                while packed := stream.read(max(0, min(following - stream.tell(), CHUNK))):
                    expanded += len(unpack.decompress(packed))
                    check_expansion(path, "its compressed part", expanded)
            stream.seek(following)
