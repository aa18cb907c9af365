"""Pascal Sentence and NUS-WIDE-10K as feature and label arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data import Corpus
from crossmodal_bench.data.datasets import NUSWide10K, PascalSentence

SUFFIXES = [".npy", ".npz", ".mat"]
COUNTS = {"train": 12, "test": 8}
READERS = {"pascal_sentence": PascalSentence, "nuswide10k": NUSWide10K}


def read(root: Path, arrays: fakes.Arrays, suffix: str = ".npy", key: str | None = None) -> Corpus:
    fakes.write_feature_arrays(root, "pascal_sentence", suffix, arrays, key)
    return PascalSentence().read(root)


def complaint(root: Path, changes: dict[str, Any], suffix: str = ".npy") -> str:
    arrays = {**fakes.feature_arrays(COUNTS), **changes}
    with pytest.raises(BadInput) as raised:
        read(root, {name: array for name, array in arrays.items() if array is not None}, suffix)
    message = str(raised.value)
    assert "\n" not in message and message.startswith(str(root / "pascal_sentence"))
    return message.removeprefix(str(root / "pascal_sentence")).lstrip("/")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("key", [None, "data"])
def test_arrays_in_every_format_become_the_same_corpus(
    tmp_path: Path, name: str, suffix: str, key: str | None
) -> None:
    arrays = fakes.feature_arrays(COUNTS)
    folder = fakes.write_feature_arrays(tmp_path, name, suffix, arrays, key)
    corpus = READERS[name]().read(tmp_path)
    assert corpus.name == name and corpus.source == str(folder)
    assert corpus.counts()["train"] == {"images": 12, "captions": 12}
    assert corpus.counts()["test"] == {"images": 8, "captions": 8}
    assert corpus.caption_image.tolist() == list(range(20))
    for found, what in ((corpus.image_features, "images"), (corpus.text_features, "texts")):
        expected = np.concatenate([arrays[f"train_{what}"], arrays[f"test_{what}"]]).astype(np.float32)
        assert found is not None and found.dtype == np.float32 and np.array_equal(found, expected)
    assert corpus.labels is not None and corpus.labels.values.dtype == np.int64
    assert corpus.labels.values.tolist() == [i % 4 for i in range(12)] + [i % 4 for i in range(8)]
    assert corpus.labels.rule == "4 classes of the label arrays"


def test_a_validation_split_of_its_own(tmp_path: Path) -> None:
    corpus = read(tmp_path, fakes.feature_arrays({"train": 12, "val": 4, "test": 8}))
    assert [corpus.counts()[split]["images"] for split in ("train", "val", "test")] == [12, 4, 8]
    assert len(set(corpus.image_ids)) == 24


def with_labels(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    return {**fakes.feature_arrays(COUNTS), "train_labels": train, "test_labels": test}


TRAIN, TEST = np.arange(12) % 4, np.arange(8) % 4
FORMS = {
    "row": (TRAIN[None], TEST[None]),
    "column": (TRAIN[:, None], TEST[:, None]),
    "floats": (TRAIN.astype(float), TEST.astype(float)),
    "from one": (TRAIN + 1, TEST + 1),
    "with gaps": (TRAIN * 10 - 7, TEST * 10 - 7),
    "one-hot": (np.eye(4)[TRAIN], np.eye(4)[TEST]),
    "small type": (TRAIN.astype(np.uint8), TEST.astype(np.uint8)),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("train", "test"), FORMS.values(), ids=FORMS)
def test_class_numbers_in_every_form_are_the_same_labels(
    tmp_path: Path, train: np.ndarray, test: np.ndarray, suffix: str
) -> None:
    labels = read(tmp_path, with_labels(train, test), suffix).labels
    assert labels is not None and labels.values.dtype == np.int64
    assert labels.values.tolist() == [*TRAIN, *TEST]


@pytest.mark.parametrize("dtype", ["int64", "float64", "bool", "uint8"])
def test_multi_hot_labels(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    train, test = (rng.random((n, 5)) < 0.4 for n in (12, 8))
    corpus = read(tmp_path, with_labels(train.astype(dtype), test.astype(dtype)))
    assert corpus.labels is not None and corpus.labels.multi_label and corpus.labels.count == 5
    assert corpus.labels.values.dtype == np.int64
    assert np.array_equal(corpus.labels.values, np.concatenate([train, test]))
    assert corpus.labels.rule == "5 classes of the label arrays"


# ---- what goes wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("stem", ["train_images", "test_texts", "test_labels"])
def test_a_missing_array_says_what_to_give(tmp_path: Path, stem: str, suffix: str) -> None:
    assert complaint(tmp_path, {stem: None}, suffix) == (
        f"{stem}.npy (or .npz, .mat) is missing; give image features, text features and labels of "
        "each split as .npy, .npz or .mat"
    )


@pytest.mark.parametrize("name", READERS)
def test_a_missing_folder_says_what_belongs_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingInput) as raised:
        READERS[name]().read(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path / name} is missing; put {{train,test}}_{{images,texts,labels}}.npy (or .npz, .mat) there"
    )


ARRAYS = fakes.feature_arrays(COUNTS)
NAN = ARRAYS["test_texts"].copy()
NAN[5, 2] = np.inf
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "captions for other images": (
        {"train_texts": ARRAYS["train_texts"][:-1]},
        "train_texts.npy has 11 rows, but 12 are needed; the counts must agree",
    ),
    "too few labels": (
        {"test_labels": np.zeros(7, int)},
        ": test_labels has 7 rows for 8 images; the counts must agree",
    ),
    "infinite": (
        {"test_texts": NAN},
        "test_texts.npy holds NaN or infinite values, first in row 5; fix that row",
    ),
    "one dimension": (
        {"train_images": np.zeros(12)},
        "train_images.npy has shape (12,); it must have 2 dimensions",
    ),
    "two widths": (
        {"test_images": np.zeros((8, 3))},
        ": the splits' images have different widths ((12, 12), (8, 3)); use one width",
    ),
    "two kinds of labels": (
        {"test_labels": np.eye(4)[TEST]},
        ": the splits' labels have different widths ((12,), (8, 4)); use one width",
    ),
    "fractions": (
        {"train_labels": TRAIN + 0.5},
        ": train_labels has shape (12,) or fractions; give (n,) class",
    ),
    "three dimensions": (
        {"train_labels": np.zeros((12, 2, 2))},
        ": train_labels has shape (12, 2, 2) or fractions; give (n,) class numbers or (n, C) zeros and ones",
    ),
    "a matrix of counts": (
        {"train_labels": np.arange(24).reshape(12, 2)},
        ": train_labels is a matrix with values other than 0 and 1; use zeros and ones",
    ),
    "names": (
        {"train_labels": np.array(["cat"] * 12)},
        "train_labels.npy holds <U3 values; save it with a real numeric dtype",
    ),
    "a single number": (
        {"train_labels": np.int64(3)},
        "train_labels.npy is a single value, not an array; save one row per item",
    ),
    "an empty split": (
        {name: array[:0] for name, array in ARRAYS.items() if name.startswith("test")},
        ": the split 'test' is empty; assign at least one image to 'test'",
    ),
}


@pytest.mark.parametrize(("changes", "expected"), BROKEN.values(), ids=BROKEN)
def test_arrays_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert complaint(tmp_path, changes).startswith(expected)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_array_is_named(tmp_path: Path, suffix: str) -> None:
    folder = fakes.write_feature_arrays(tmp_path, suffix=suffix)
    path = fakes.truncate(folder / f"train_images{suffix}", 0.5)
    with pytest.raises(BadInput) as raised:
        PascalSentence().read(tmp_path)
    assert str(raised.value).startswith(f"{path} is truncated or not a {suffix} file (")


def test_an_archive_under_another_key(tmp_path: Path) -> None:
    folder = fakes.write_feature_arrays(tmp_path, suffix=".npz", key="features")
    with pytest.raises(BadInput) as raised:
        PascalSentence().read(tmp_path)
    assert str(raised.value) == f"{folder / 'train_images.npz'} has no array 'data'; choose one of features"


def test_a_matlab_7_3_file(tmp_path: Path) -> None:
    fakes.write_matlab_73(fakes.write_feature_arrays(tmp_path, suffix=".mat") / "train_texts.mat")
    with pytest.raises(BadInput, match=r"train_texts\.mat is a MATLAB 7\.3 file; save it again"):
        PascalSentence().read(tmp_path)


def test_the_files_that_dscmr_and_its_followers_share(tmp_path: Path) -> None:
    arrays = fakes.feature_arrays({**COUNTS, "val": 6})
    plain = read(tmp_path / "plain", arrays)
    names = {"images": "img", "texts": "txt", "labels": "img_lab"}
    theirs = {}
    for stem, array in arrays.items():
        part, _, what = stem.partition("_")
        theirs[f"{part}_{names[what]}"] = array
    shared = read(tmp_path / "shared", theirs, ".mat")
    assert shared.fingerprint == plain.fingerprint
    (tmp_path / "shared" / "pascal_sentence" / "test_img_lab.mat").unlink()
    with pytest.raises(MissingInput, match=r"test_img_lab\.npy \(or \.npz, \.mat\) is missing"):
        PascalSentence().read(tmp_path / "shared")
