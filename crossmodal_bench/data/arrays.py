"""Arrays from files that users bring: read safely, checked before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.errors import BadInput, MissingInput, nearest

SUFFIXES = (".npy", ".npz", ".mat")


def find_array_file(folder: Path, stem: str, hint: str) -> Path:
    """``folder/stem`` with the first suffix of .npy, .npz, .mat that is there."""
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
        ndim: number of dimensions that it must have.
        rows: number of rows that it must have.

    Raises:
        BadInput: missing, truncated, pickled or wrong-shaped file, unknown key, NaN or infinite value.
    """
    if not path.is_file():
        raise MissingInput(f"{path} is missing; put the file there or correct the data root")
    if path.suffix in {".pkl", ".pickle"}:
        raise BadInput(
            f"{path} is a pickle, which can run code; save its array with numpy.save(path, array) instead"
        )
    array = np.asarray(_read(path, key))
    where = f"{path}:{key}" if key else str(path)
    if array.dtype == object:
        raise BadInput(
            f"{where} is an object array (a pickle); save it with one numeric dtype, e.g. .astype('float32')"
        )
    if array.dtype.kind not in "biuf":
        raise BadInput(f"{where} holds {array.dtype} values; save it with a real numeric dtype")
    if array.ndim == 0:
        raise BadInput(f"{where} is a single value, not an array; save one row per item")
    if ndim is not None and array.ndim != ndim:
        raise BadInput(f"{where} has shape {array.shape}; it must have {ndim} dimension{'s' * (ndim > 1)}")
    if rows is not None and len(array) != rows:
        raise BadInput(f"{where} has {len(array)} rows where {rows} are needed; the counts must agree")
    check_finite(array, where)
    return array


def check_finite(array: NDArray[Any], where: str) -> None:
    """Raise BadInput that names the first row holding NaN or infinity."""
    if array.dtype.kind == "f" and array.size:
        finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        if not finite.all():
            raise BadInput(
                f"{where} holds NaN or infinite values, first in row {int(np.argmin(finite))}; mend that row"
            )


def _read(path: Path, key: str) -> Any:
    try:
        if path.suffix == ".npy":
            # Truncation shows only when the bytes are asked for, so the memory map is not used here.
            return np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                _check_key(path, key, archive.files)
                return archive[key]
        if path.suffix == ".mat":
            import scipy.io
            import scipy.sparse

            content = scipy.io.loadmat(path)
            _check_key(path, key, [name for name in content if not name.startswith("__")])
            return content[key].toarray() if scipy.sparse.issparse(content[key]) else content[key]
    except BadInput:
        raise
    except NotImplementedError as error:
        raise BadInput(
            f"{path} is a MATLAB 7.3 file; save it again with save(..., '-v7') or as .npz"
        ) from error
    except Exception as error:
        if "allow_pickle" in str(error):
            raise BadInput(
                f"{path} is a pickle or an object array; save it again with one numeric dtype"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"{path} is truncated or not a {path.suffix} file ({reason}); copy it again"
        ) from error
    raise BadInput(f"{path} has the suffix '{path.suffix}'; use .npy, .npz or .mat")


def _check_key(path: Path, key: str, names: list[str]) -> None:
    if key not in names:
        raise BadInput(f"{path} has no array '{key}'{nearest(key, names)}")
