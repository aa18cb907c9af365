"""Arrays that users bring: read as they are, or refused with a sentence that names file, field and fix."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data.files.arrays import find_array_file, load_array

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def sentence(path: Path, key: str = "", **expected: Any) -> str:
    """What load_array complains of."""
    with pytest.raises(BadInput) as raised:
        load_array(path, key, **expected)
    message = str(raised.value)
    assert "\n" not in message and message.startswith(str(path))
    return message.removeprefix(str(path))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8", "int64", "bool"])
def test_every_format_and_type_gives_the_same_array(tmp_path: Path, suffix: str, dtype: str) -> None:
    array = (ROWS > 4) if dtype == "bool" else ROWS.astype(dtype)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    elif dtype == "float16" and suffix == ".mat":
        array = array.astype(np.float32)  # MATLAB has no half precision
        fakes.write_archive(path, {"a": array})
    else:
        fakes.write_archive(path, {"other": np.zeros(2), "a": array})
    assert np.array_equal(load_array(path, "" if suffix == ".npy" else "a", ndim=2, rows=4), array)


def test_a_sparse_matlab_matrix_is_an_array_like_any_other(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "bow.mat", {"bow": scipy.sparse.csc_matrix(ROWS)})
    assert np.array_equal(load_array(tmp_path / "bow.mat", "bow", ndim=2, rows=4), ROWS)


def test_a_missing_file_is_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"x\.npy is missing; put the file there"):
        load_array(tmp_path / "x.npy")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.97])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    path, array = tmp_path / f"a{suffix}", np.random.default_rng(0).random((40, 30))
    if suffix == ".npy":
        np.save(path, array)
    else:
        fakes.write_archive(path, {"a": array})
    message = sentence(fakes.truncate(path, share), "a")
    assert f"is truncated or not a {suffix} file (" in message and message.endswith("; copy it again")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_a_text_file_with_the_suffix_is_no_array(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("<html>Your download has expired</html>\n" * 20)
    assert sentence(path, "a").endswith("; copy it again")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_an_object_array_is_refused_and_runs_nothing(tmp_path: Path, suffix: str) -> None:
    path, trace = tmp_path / f"a{suffix}", tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    array = np.array([Payload(), None], dtype=object)
    if suffix == ".npy":
        np.save(path, array, allow_pickle=True)
    else:
        np.savez(path, a=array)
    message = sentence(path, "a")
    assert message == (
        " is a pickle or an object array, which can run code; save it with "
        "numpy.save(path, array.astype('float32'))"
    )
    assert not trace.exists()


def test_a_matlab_cell_array_is_refused(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"a": np.array([[1, "x"]], dtype=object)})
    assert sentence(tmp_path / "a.mat", "a").startswith(":a is a MATLAB cell; save it")


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".npy"])
def test_a_pickle_is_refused_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pickle.dumps(ROWS))
    message = sentence(path)
    assert message.startswith(" is a pickle")
    assert "which can run code; save" in message and "numpy.save" in message


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    assert sentence(tmp_path / "a.csv") == " has the suffix '.csv'; use .npy, .npz or .mat"


def test_matlab_7_3_says_how_to_save_it_again(tmp_path: Path) -> None:
    fakes.write_matlab_73(tmp_path / "a.mat")
    assert sentence(tmp_path / "a.mat", "a") == (
        " is a MATLAB 7.3 file; save it again with save(..., '-v7') or as .npz"
    )


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
def test_an_unknown_key_names_the_nearest(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    fakes.write_archive(path, {"images": ROWS, "labels": ROWS})
    assert sentence(path, "image") == " has no array 'image'; did you mean 'images'?"
    assert sentence(path, "zzz") == " has no array 'zzz'; choose one of images, labels"


def test_shapes_and_counts_that_disagree(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, ROWS)
    assert sentence(path, ndim=1) == " has shape (4, 3); it must have 1 dimension"
    assert sentence(path, ndim=3) == " has shape (4, 3); it must have 3 dimensions"
    assert sentence(path, rows=5) == " has 4 rows, but 5 are needed; the counts must agree"
    np.save(path, np.float32(3))
    assert sentence(path) == " is a single value, not an array; save one row per item"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 3)])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_the_first_row_that_is_not_finite_is_named(
    tmp_path: Path, value: float, shape: tuple[int, ...], dtype: str
) -> None:
    array = np.zeros(shape, dtype)
    array[4].fill(value) if len(shape) > 1 else array.__setitem__(4, value)
    array[5] = np.nan
    np.save(tmp_path / "a.npy", array)
    assert sentence(tmp_path / "a.npy") == (" holds NaN or infinite values, first in row 4; fix that row")


@pytest.mark.parametrize("array", [np.array(["cat", "dog"]), np.array([1j]), np.array(["2020"], "M8[Y]")])
def test_values_that_are_no_real_numbers(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    assert sentence(tmp_path / "a.npy") == (f" holds {array.dtype} values; save it with a real numeric dtype")


def test_an_array_without_rows_is_left_to_the_caller(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((0, 5)))
    assert load_array(tmp_path / "a.npy", ndim=2, rows=0).shape == (0, 5)


def test_finding_a_file_prefers_npy_then_npz_then_mat_and_passes_the_hint_on(tmp_path: Path) -> None:
    with pytest.raises(MissingInput) as raised:
        find_array_file(tmp_path, "train_images", "run the converter")
    assert str(raised.value) == (
        f"{tmp_path / 'train_images'}.npy (or .npz, .mat) is missing; run the converter"
    )
    for suffix in (".mat", ".npz", ".npy"):
        (tmp_path / f"train_images{suffix}").touch()
        assert find_array_file(tmp_path, "train_images", "").suffix == suffix
