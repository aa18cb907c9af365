"""Flowers in Reed et al.'s layout: as CUB, but all pictures lie in one folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import fakes
import numpy as np
import pytest
from PIL import Image

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data.datasets import Flowers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fakes.write_flowers(tmp_path)


def test_folders_and_lists_become_a_corpus(folder: Path) -> None:
    corpus = Flowers().read(folder.parent)
    assert corpus.name == "flowers" and corpus.source == str(folder)
    assert corpus.labels is not None and corpus.identities is not None
    assert corpus.labels.names == tuple(f"class_{i:05d}" for i in range(1, 10))
    assert corpus.labels.values.tolist() == corpus.identities.tolist() == [i // 2 for i in range(18)]
    assert corpus.image_ids[:3] == (
        "class_00001/image_00003",
        "class_00001/image_00004",
        "class_00002/image_00007",
    )
    for split, names in fakes.BLOSSOMS.items():
        assert {corpus.image_ids[row].split("/")[0] for row in corpus.image_rows(split)} == set(names)
    assert corpus.captions is not None and corpus.images is not None
    for name, caption in zip(corpus.caption_ids, corpus.captions, strict=True):
        row, k = int(name[-7:-2]), int(name[-1])
        assert caption == fakes.caption(row, k)
    for i, name in enumerate(corpus.image_ids):
        assert abs(np.asarray(corpus.images[i]).mean() - fakes.pixels(int(name[-5:])).mean()) < 2


def test_validation_classes_may_join_training(folder: Path) -> None:
    counts = Flowers(train_on="trainval").read(folder.parent).counts()
    assert [counts[split]["images"] for split in counts] == [12, 0, 6]


def test_captions_without_a_picture(folder: Path) -> None:
    (folder / "jpg" / "image_00003.jpg").unlink()
    with pytest.raises(MissingInput) as raised:
        Flowers().read(folder.parent)
    text = folder / "text_c10" / "class_00001" / "image_00003.txt"
    assert str(raised.value) == (
        f"{folder / 'jpg' / 'image_00003.jpg'} is missing, but {text} describes it; put the picture there"
    )


def test_pictures_of_other_classes_may_lie_there(folder: Path) -> None:
    corpus = Flowers().read(folder.parent)
    Image.fromarray(fakes.pixels(40)).save(folder / "jpg" / "image_00040.jpg")
    assert Flowers().read(folder.parent).fingerprint == corpus.fingerprint


def test_a_picture_of_two_classes(folder: Path) -> None:
    texts = folder / "text_c10"
    shutil.copy(texts / "class_00003" / "image_00001.txt", texts / "class_00004" / "image_00001.txt")
    with pytest.raises(BadInput) as raised:
        Flowers().read(folder.parent)
    assert str(raised.value) == (
        f"{folder / 'jpg' / 'image_00001.jpg'} has captions in two classes, "
        "text_c10/class_00003/image_00001.txt and text_c10/class_00004/image_00001.txt; keep one"
    )
