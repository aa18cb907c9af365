"""Regions in files: mapped into memory, row for row, and refused where they are none."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import fakes
import numpy as np
import pytest

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data.regions import RegionFiles, map_regions


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    for name, rows in (("a", (0, 1, 2)), ("b", (3, 4))):
        np.save(tmp_path / f"{name}.npy", np.stack([fakes.regions(row) for row in rows]))
    return [tmp_path / "a.npy", tmp_path / "b.npy"]


@pytest.fixture
def source(paths: list[Path]) -> RegionFiles:
    return RegionFiles(paths, np.array([1, 0, 0, 1]), np.array([1, 2, 0, 0]))


def test_each_image_has_its_row_of_its_file(source: RegionFiles) -> None:
    assert (len(source), source.count, source.dim) == (4, 4, 7)
    for image, row in enumerate((4, 2, 0, 3)):
        assert source[image].dtype == np.float32
        assert np.array_equal(source[image], fakes.regions(row))
    subset = source.subset(np.array([3, 1]))
    assert len(subset) == 2
    assert np.array_equal(subset[0], fakes.regions(3)) and np.array_equal(subset[1], fakes.regions(2))


def test_a_batch_is_its_rows_whichever_files_they_are_in(source: RegionFiles) -> None:
    for rows in ([0, 1, 2, 3], [3, 3, 0], [2], [1, 2]):
        batch = source.batch(np.array(rows))
        assert batch.dtype == np.float32 and batch.flags.writeable and not isinstance(batch, np.memmap)
        assert np.array_equal(batch, np.stack([source[row] for row in rows]))
    batch[:] = 0
    assert np.array_equal(source.batch(np.array([1]))[0], fakes.regions(2)), "a copy"


def test_a_batch_names_the_row_that_is_not_finite_and_forgives_large_numbers(tmp_path: Path) -> None:
    regions = np.full((12, 4, 7), 3e38, np.float32)
    np.save(tmp_path / "large.npy", regions)
    assert np.array_equal(RegionFiles.whole(tmp_path / "large.npy").batch(np.arange(12)), regions)
    regions[5, 1, 1] = np.nan
    np.save(tmp_path / "bad.npy", regions)
    source = RegionFiles.whole(tmp_path / "bad.npy")
    source.batch(np.array([4, 6]))
    with pytest.raises(BadInput, match=r"bad\.npy holds NaN or infinite values in row 5"):
        source.batch(np.array([4, 5, 6]))


def test_half_precision_in_a_batch(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.stack([fakes.regions(row) for row in range(5)]).astype(np.float16))
    source = RegionFiles.whole(tmp_path / "a.npy")
    batch = source.batch(np.array([4, 0]))
    assert batch.dtype == np.float32 and np.array_equal(batch, np.stack([source[4], source[0]]))


def test_files_are_mapped_and_a_row_is_a_copy(source: RegionFiles) -> None:
    assert all(isinstance(one, np.memmap) and not one.flags.writeable for one in source.maps)
    row = source[0]
    assert not isinstance(row, np.memmap)
    row[:] = 0
    assert np.array_equal(source[0], fakes.regions(4))


def test_a_loaders_process_gets_the_paths_and_not_the_content(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((500, 4, 100), np.float32))
    source = RegionFiles.whole(tmp_path / "a.npy")
    pickled = pickle.dumps(source.subset(np.array([7, 3])))
    assert len(pickled) < 2000
    assert np.array_equal(pickle.loads(pickled)[1], source[3])


def test_half_precision_comes_out_in_single(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", fakes.regions(0)[None].astype(np.float16))
    found = RegionFiles.whole(tmp_path / "a.npy")[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, fakes.regions(0), atol=1e-3)


def test_the_fingerprint_follows_content_and_order_and_not_the_place(
    paths: list[Path], source: RegionFiles
) -> None:
    first = source.fingerprint()
    assert source.subset(np.arange(4)).fingerprint() == first
    assert source.subset(np.array([1, 0, 2, 3])).fingerprint() != first
    moved = [path.rename(path.parent.parent / path.name) for path in paths]
    assert RegionFiles(moved, source.files, source.rows).fingerprint() == first
    array = np.load(moved[1])
    np.save(moved[1], array + 1)
    assert RegionFiles(moved, source.files, source.rows).fingerprint() != first


def test_files_of_two_detectors(paths: list[Path]) -> None:
    np.save(paths[1], np.ones((2, 4, 9), np.float32))
    with pytest.raises(BadInput, match=r"b\.npy has 4 regions of width 9, but a\.npy has 4 of width 7"):
        RegionFiles(paths, np.zeros(1, np.int64), np.zeros(1, np.int64))


def with_nan(row: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        array = np.ones((20, 4, 7), np.float32)
        array[row, 1, 2] = np.nan
        np.save(path, array)

    return write


def write_cut(path: Path) -> None:
    np.save(path, np.ones((20, 4, 7), np.float32))
    fakes.truncate(path)


def write_archive(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), a=np.ones((2, 4, 7), np.float32))
    path.with_suffix(".npz").rename(path)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "is missing; put the file"),
    "text": (lambda path: path.write_text("<html> a page, no array"), "is truncated or not a .npy file ("),
    "pickle": (lambda path: path.write_bytes(pickle.dumps([1])), "is a pickle or an object array"),
    "objects": (
        lambda path: np.save(path, np.array([[["a", 1]]], dtype=object), allow_pickle=True),
        "is a pickle or an object array, which can run code; save it with numpy.save",
    ),
    "truncated": (write_cut, "is truncated or not a .npy file ("),
    "empty": (lambda path: path.write_bytes(b""), "is truncated or not a .npy file ("),
    "archive": (write_archive, "is an archive of arrays"),
    "two dimensions": (
        lambda path: np.save(path, np.ones((3, 7), np.float32)),
        "has shape (3, 7); it must have 3 dimensions: images, regions, width",
    ),
    "whole numbers": (
        lambda path: np.save(path, np.ones((3, 4, 7), np.int64)),
        "holds int64 values; save it with .astype('float32')",
    ),
    "no image": (lambda path: np.save(path, np.ones((0, 4, 7), np.float32)), "(0, 4, 7), so no images"),
    "no region": (lambda path: np.save(path, np.ones((3, 0, 7), np.float32)), "(3, 0, 7), so no regions"),
    "no width": (lambda path: np.save(path, np.ones((3, 4, 0), np.float32)), "so no values in a region"),
    "NaN in row 0": (with_nan(0), "holds NaN or infinite values in row 0; extract that image again"),
    "NaN in row 2": (with_nan(2), "infinite values in row 2"),
    "NaN in row 19": (with_nan(19), "infinite values in row 19"),
}


@pytest.mark.parametrize(("write", "expected"), WRONG.values(), ids=WRONG)
def test_files_that_are_none(tmp_path: Path, write: Callable[[Path], object], expected: str) -> None:
    path = tmp_path / "a.npy"
    write(path)
    with pytest.raises(BadInput) as raised:
        map_regions(path)
    assert str(raised.value).startswith(str(path)) and expected in str(raised.value)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, MissingInput) == ("is missing" in expected)
