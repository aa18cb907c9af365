"""Pictures from files: read in RGB, named where they cannot be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import fakes
import numpy as np
import pytest
from PIL import Image, ImageFile

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data.images import ImageFiles, unreadable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for row, name in enumerate(("a.png", "b.jpg", "c.png", "d.jpg")):
        Image.fromarray(fakes.pixels(row)).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def files(folder: Path) -> ImageFiles:
    return ImageFiles.within(folder, ["a.png", "b.jpg", "c.png", "d.jpg"])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_kind_of_picture_comes_in_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    picture = Image.fromarray(fakes.pixels(3))
    picture = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
    picture.save(path)
    read = ImageFiles([path])[0]
    assert read.mode == "RGB" and read.size == (24, 20)


def test_a_lossless_picture_keeps_its_pixels(files: ImageFiles) -> None:
    assert len(files) == 4
    assert np.array_equal(np.asarray(files[2]), fakes.pixels(2))


def test_the_first_missing_picture_is_named_with_the_fix(folder: Path) -> None:
    with pytest.raises(MissingInput) as raised:
        ImageFiles.within(folder, ["a.png", "sub/z.jpg", "y.jpg"])
    assert str(raised.value).startswith(f"{folder / 'sub/z.jpg'} is missing; put the data set's images there")
    with pytest.raises(MissingInput, match=r"a\.png is missing"):
        ImageFiles.within(folder / "nowhere", ["a.png"])


def test_pictures_in_folders_below(folder: Path) -> None:
    (folder / "train2014").mkdir()
    shutil.copy(folder / "a.png", folder / "train2014" / "e.png")
    files = ImageFiles.within(folder, ["train2014/e.png", "b.jpg"])
    assert np.array_equal(np.asarray(files[0]), fakes.pixels(0))


def damage(folder: Path) -> None:
    fakes.truncate(folder / "b.jpg", 0.7)
    (folder / "c.png").write_text("404 not found")
    (folder / "d.jpg").write_bytes(b"")


@pytest.mark.parametrize("lenient", [False, True])
def test_unreadable_pictures_are_found_and_named(
    folder: Path, files: ImageFiles, monkeypatch: pytest.MonkeyPatch, lenient: bool
) -> None:
    damage(folder)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    bad = unreadable(files)
    assert list(bad) == [1, 2, 3]
    for row, message in bad.items():
        assert message.startswith(f"{files.paths[row]} cannot be read as an image (")
        assert message.endswith("; replace it, or pass --on-bad-image skip")
    assert lenient is ImageFile.LOAD_TRUNCATED_IMAGES


def test_reading_an_unreadable_picture_raises(folder: Path, files: ImageFiles) -> None:
    damage(folder)
    for row in (1, 2, 3):
        with pytest.raises(BadInput, match="cannot be read as an image"):
            files[row]


def test_a_picture_too_large_to_be_honest_is_refused(
    files: ImageFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadInput, match=r"a\.png cannot be read as an image \(.*decompression bomb"):
        files[0]


def test_a_subset_is_in_the_order_asked_for(files: ImageFiles) -> None:
    subset = files.subset(np.array([2, 0]))
    assert [path.name for path in subset.paths] == ["c.png", "a.png"]


def test_the_fingerprint_follows_names_and_sizes_and_not_the_place(folder: Path, files: ImageFiles) -> None:
    before = files.fingerprint()
    copy = folder.parent / f"{folder.name}-elsewhere"
    shutil.copytree(folder, copy)
    moved = ImageFiles.within(copy, [path.name for path in files.paths])
    os.utime(copy / "a.png", (0, 0))
    assert moved.fingerprint() == before
    assert files.subset(np.array([1, 0, 2, 3])).fingerprint() != before
    fakes.truncate(copy / "a.png", 0.9)
    assert moved.fingerprint() != before
