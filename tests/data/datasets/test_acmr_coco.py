"""ACMR's part of MS-COCO: the images of train2014, drawn into train and test."""

from __future__ import annotations

from pathlib import Path

import fakes
import numpy as np
import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data import Corpus
from crossmodal_bench.data.datasets import AcmrCoco, Karpathy


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    fakes.write_coco(path, train=12, restval=6, val=3, test=4)
    return path


def drawn(root: Path, seed: int = 0) -> Corpus:
    return AcmrCoco(train=9, test=3, draw_seed=seed).read(root)


def test_only_train2014_is_used(root: Path) -> None:
    corpus = drawn(root)
    assert corpus.name == "acmr_coco"
    assert {name.split("/")[0] for name in corpus.image_ids} == {"train2014"}
    assert corpus.counts() == {
        "train": {"images": 9, "captions": 18},
        "val": {"images": 0, "captions": 0},
        "test": {"images": 3, "captions": 6},
    }


def test_images_and_captions_stay_together(root: Path) -> None:
    corpus, whole = drawn(root), Karpathy("coco").read(root)
    assert corpus.captions is not None and corpus.images is not None
    assert whole.captions is not None and whole.images is not None
    for row, image in enumerate(corpus.caption_image):
        name = corpus.image_ids[image]
        assert f"picture number {int(name[-8:-4])}." in corpus.captions[row]
    for row, name in enumerate(corpus.image_ids):
        old = whole.image_ids.index(name)
        assert np.array_equal(np.asarray(corpus.images[row]), np.asarray(whole.images[old]))


def test_the_draw_depends_on_its_seed_only(root: Path) -> None:
    tests = [frozenset(drawn(root, seed).image_rows("test").tolist()) for seed in (0, 0, 1, 2, 3)]
    assert tests[0] == tests[1] and len(set(tests)) > 1
    assert drawn(root, 0).fingerprint == drawn(root, 0).fingerprint != drawn(root, 1).fingerprint


def test_another_number_of_images_is_refused(root: Path) -> None:
    with pytest.raises(BadInput) as raised:
        AcmrCoco().read(root)
    assert str(raised.value) == (
        f"{root / 'coco' / 'dataset_coco.json'}: 12 images have the filepath 'train2014', but 82783 "
        "are needed; use Karpathy's dataset_coco.json"
    )
