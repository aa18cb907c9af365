"""Regions of a folder ``*_precomp`` beside a JSON: each image gets its own, whatever the order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.datasets import AcmrCoco, Karpathy

COUNTS = {"train": 5, "restval": 2, "val": 2, "test": 3}
ROWS: dict[str, Sequence[int]] = {"train": [5, 2, 0, 6, 4, 3, 1], "dev": [8, 7], "test": [10, 11, 9]}


def write(root: Path, rows: dict[str, Sequence[int]] = ROWS, **settings: Any) -> Path:
    folder = fakes.write_karpathy(root, "mine", fakes.karpathy_entries(COUNTS, per_image=5), **settings)
    return fakes.write_precomputed(folder, "x_precomp", rows)


def complaint(root: Path) -> str:
    with pytest.raises(BadInput) as raised:
        Karpathy("mine").read(root)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_images_get_the_regions_whose_captions_are_theirs(tmp_path: Path) -> None:
    write(tmp_path)
    corpus = Karpathy("mine").read(tmp_path)
    assert corpus.name == "mine" and corpus.images is not None and corpus.regions is not None
    assert corpus.captions is not None and corpus.captions[0] == fakes.caption(0, 0), "the JSON's spelling"
    for row in range(12):
        assert corpus.image_ids[row] == f"{row:04d}.jpg"
        assert np.array_equal(corpus.regions[row], fakes.regions(row))


def test_without_the_folder_there_are_no_regions_and_the_fingerprint_stays(tmp_path: Path) -> None:
    fakes.write_karpathy(tmp_path / "bare", "mine", fakes.karpathy_entries(COUNTS, per_image=5))
    write(tmp_path / "full")
    bare, full = (Karpathy("mine").read(tmp_path / name) for name in ("bare", "full"))
    assert bare.regions is None and full.regions is not None
    assert bare.fingerprint == full.fingerprint, "what was measured without regions stays valid"


def test_pictures_are_not_needed_then(tmp_path: Path) -> None:
    folder = write(tmp_path, images=False).parent
    (folder / "images").rmdir()
    corpus = Karpathy("mine").read(tmp_path)
    assert corpus.images is None and corpus.regions is not None
    (folder / "images").mkdir()
    assert "images/0000.jpg is missing" in complaint(tmp_path)


def test_without_restval_its_rows_are_left_over(tmp_path: Path) -> None:
    write(tmp_path)
    corpus = Karpathy("mine", use_restval=False).read(tmp_path)
    assert corpus.regions is not None and len(corpus.image_ids) == len(corpus.regions) == 10
    for row, name in enumerate(corpus.image_ids):
        assert np.array_equal(corpus.regions[row], fakes.regions(int(name[:4])))


def test_a_shared_caption_is_outvoted(tmp_path: Path) -> None:
    entries = fakes.karpathy_entries(COUNTS, per_image=5)
    for row in (0, 1, 2):
        entries[row]["sentences"][4]["raw"] = "A dog."
    folder = fakes.write_karpathy(tmp_path, "mine", entries)
    precomputed = fakes.write_precomputed(folder, "x_precomp", ROWS)
    lines = (precomputed / "train_caps.txt").read_text().splitlines()
    for at, row in enumerate(ROWS["train"]):
        if row in (0, 1, 2):
            lines[5 * at + 4] = "a dog"
    (precomputed / "train_caps.txt").write_text("\n".join(lines))
    regions = Karpathy("mine").read(tmp_path).regions
    assert regions is not None
    assert all(np.array_equal(regions[row], fakes.regions(row)) for row in range(12))


def test_parts_of_it_keep_their_regions(tmp_path: Path) -> None:
    counts = {"train": 6, "restval": 2, "val": 1, "test": 2}
    places = {"train": "train2014"}
    entries = fakes.karpathy_entries(counts, 5, filepath=lambda split, _: places.get(split, "val2014"))
    folder = fakes.write_karpathy(tmp_path, "coco", entries)
    fakes.write_precomputed(folder, rows={"train": range(8), "dev": [8], "test": [10, 9]})
    corpus = AcmrCoco(train=4, test=2).read(tmp_path)
    assert corpus.regions is not None and len(corpus.regions) == 6
    for row, name in enumerate(corpus.image_ids):
        assert np.array_equal(corpus.regions[row], fakes.regions(int(name[-8:-4])))


def test_images_without_regions_are_counted_and_the_first_named(tmp_path: Path) -> None:
    folder = write(tmp_path, {**ROWS, "train": [5, 2, 0, 6, 3]})
    assert complaint(tmp_path) == (
        f"{folder} has no regions for 2 of 12 images of {folder.parent / 'dataset_mine.json'}; the first "
        "is '0001.jpg'; remove x_precomp/, or dataset_mine.json to use the precomputed split alone"
    )


@pytest.mark.parametrize(
    ("rows", "first"),
    [
        ({**ROWS, "train": [*ROWS["train"], 40]}, "train/7"),
        ({**ROWS, "train": [*ROWS["train"], 2]}, "train/7"),
        ({**ROWS, "dev": [8, 9], "test": [10, 11, 7]}, "dev/1"),
    ],
    ids=["nobody's", "twice", "another split's"],
)
def test_regions_that_belong_to_no_image(tmp_path: Path, rows: dict[str, Sequence[int]], first: str) -> None:
    folder = write(tmp_path, rows)
    message = complaint(tmp_path)
    n = 2 if first == "dev/1" else 1
    total = sum(map(len, rows.values()))
    assert message.startswith(f"{folder}: the captions of {n} of {total} images match no image of ")
    assert f"the first is '{first}'" in message
    assert message.endswith("remove x_precomp/, or dataset_mine.json to use the precomputed split alone")


def test_an_image_that_two_are_named_by_equally_is_unclear(tmp_path: Path) -> None:
    folder = write(tmp_path)
    lines = (folder / "test_caps.txt").read_text().splitlines()
    lines[2:5] = [fakes.caption(9, 0), fakes.caption(9, 1), "nobody says so"]
    (folder / "test_caps.txt").write_text("\n".join(lines))
    assert "1 of 12 images match no image" in complaint(tmp_path) and "'test/0'" in complaint(tmp_path)
