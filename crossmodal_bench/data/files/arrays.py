"""Arrays from users' files: read safely, and checked before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput, MissingInput, nearest
from crossmodal_bench.core.npy import load_npy, load_npz, names_in_npz
from crossmodal_bench.data.files.mat import load_mat

SUFFIXES = (".npy", ".npz", ".mat")


def find_array_file(folder: Path, stem: str, hint: str) -> Path:
    """``folder/stem`` with the first suffix of .npy, .npz, .mat that exists.

    Raises:
        MissingInput: none of them exists; ``hint`` ends the message.
    """
    for suffix in SUFFIXES:
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return path
    raise MissingInput(f"{folder / stem}.npy (or .npz, .mat) is missing; {hint}")


def load_array(
    path: Path, key: str = "", *, ndim: int | None = None, rows: int | None = None
) -> NDArray[Any]:
    """The array in a ``.npy``, or under ``key`` in a ``.npz`` or ``.mat``.

    Args:
        path: the file.
        key: name of the array inside an archive.
        ndim: required number of dimensions.
        rows: required number of rows.

    Raises:
        BadInput: missing, truncated, pickled or wrong-shaped file, unknown key, or a value that is NaN
            or infinite in float32.
    """
    if not path.is_file():
        raise MissingInput(f"{path} is missing; put the file there or correct the data root")
    if path.suffix in {".pkl", ".pickle"}:
        raise BadInput(
            f"{path} is a pickle, which can run code; save its array with numpy.save(path, array) instead"
        )
    array = _read(path, key)
    where = f"{path}:{key}" if key else str(path)
    if array.dtype.kind not in "biuf":
        raise BadInput(f"{where} holds {array.dtype} values; save it with a real numeric dtype")
    if array.ndim == 0:
        raise BadInput(f"{where} is a single value, not an array; save one row per item")
    if ndim is not None and array.ndim != ndim:
        raise BadInput(f"{where} has shape {array.shape}; it must have {ndim} dimension{'s' * (ndim > 1)}")
    if rows is not None and len(array) != rows:
        raise BadInput(f"{where} has {len(array)} rows, but {rows} are needed; the counts must agree")
    check_finite(array, where)
    return array


def check_finite(array: NDArray[Any], where: str) -> None:
    """Reject NaN, infinity, and values that overflow float32; arrays of integers always pass.

    Args:
        array: any shape, rows first.
        where: its name in the message, usually the file.

    Raises:
        BadInput: names the first such row.
    """
    if array.dtype.kind == "f" and array.size:
        rows = array.reshape(len(array), -1)
        for problem, passes in (
            ("NaN or infinite values", np.isfinite),
            ("values beyond float32", _is_float32),
        ):
            good = passes(rows).all(axis=1)
            if not good.all():
                raise BadInput(f"{where} holds {problem}, first in row {int(np.argmin(good))}; fix that row")


def _is_float32(values: NDArray[Any]) -> NDArray[np.bool_]:
    limit = np.finfo(np.float32).max
    return (values <= limit) & (values >= -limit)


def _read(path: Path, key: str) -> NDArray[Any]:
    if path.suffix == ".npy":
        # Truncation only shows when the bytes are read, so the memory map is not used here.
        return load_npy(path)
    if path.suffix == ".npz":
        names = names_in_npz(path)
        if key not in names:
            raise BadInput(f"{path} has no array '{key}'{nearest(key, names) or '; save it under that name'}")
        return load_npz(path, [key])[key]
    if path.suffix == ".mat":
        return load_mat(path, key)
    raise BadInput(f"{path} has the suffix '{path.suffix}'; use .npy, .npz or .mat")
