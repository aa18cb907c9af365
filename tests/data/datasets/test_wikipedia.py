"""The Wikipedia set from its lists and its array file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data.datasets import Wikipedia
from crossmodal_bench.data.datasets.wikipedia import CATEGORIES


def complaint(root: Path, **settings: Any) -> str:
    with pytest.raises(BadInput) as raised:
        Wikipedia(**settings).read(root)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("stem", "suffix"), [("raw_features", ".mat"), ("deep_features", ".npz"), ("deep_features", ".mat")]
)
def test_lists_and_arrays_become_a_corpus(tmp_path: Path, stem: str, suffix: str) -> None:
    folder = fakes.write_wikipedia(tmp_path, 22, 11, stem, suffix)
    corpus = Wikipedia(features=stem).read(tmp_path)
    arrays = fakes.wikipedia_arrays(22, 11)
    assert corpus.counts()["train"] == {"images": 22, "captions": 22}
    assert corpus.counts()["test"] == {"images": 11, "captions": 11}
    assert corpus.image_rows("train").tolist() == list(range(22))
    assert corpus.caption_image.tolist() == list(range(33))
    assert corpus.image_ids[1] == "text-00001/image000001" == corpus.caption_ids[1]
    assert corpus.image_features is not None and corpus.text_features is not None
    for found, keys in ((corpus.image_features, ("I_tr", "I_te")), (corpus.text_features, ("T_tr", "T_te"))):
        assert found.dtype == np.float32
        assert np.array_equal(found, np.concatenate([arrays[key] for key in keys]).astype(np.float32))
    assert corpus.labels is not None and corpus.labels.values.tolist() == [i % 10 for i in range(33)]
    assert corpus.labels.names == CATEGORIES and corpus.labels.count == 10
    assert corpus.captions is None and corpus.images is None and corpus.source == str(folder)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough items for a draw of 1,300."""
    root = tmp_path_factory.mktemp("data")
    fakes.write_wikipedia(root, 1000, 330, arrays=fakes.wikipedia_arrays(1000, 330, 2, 2))
    return root


def test_a_draw_is_seeded_and_mixes_the_official_splits(large: Path) -> None:
    official = Wikipedia().read(large)
    drawn = {seed: Wikipedia(split="draw", draw_seed=seed).read(large) for seed in (0, 1)}
    for corpus in drawn.values():
        assert [corpus.counts()[split]["images"] for split in ("train", "val", "test")] == [1300, 0, 30]
        assert corpus.image_ids == official.image_ids
        assert corpus.labels is not None and official.labels is not None
        assert (corpus.labels.values == official.labels.values).all()
        assert 0 < (corpus.image_rows("test") < 1000).sum() < 30
    assert (drawn[0].split == Wikipedia(split="draw", draw_seed=0).read(large).split).all()
    assert (drawn[0].split != drawn[1].split).any()
    assert len({official.fingerprint, drawn[0].fingerprint, drawn[1].fingerprint}) == 3


def test_draws_of_each_seed_are_the_same_splits_under_a_name_of_their_own(large: Path) -> None:
    for seed in (0, 1):
        reader = Wikipedia(split="draws", draw_seed=seed)
        assert reader.redrawn
        drawn, own = Wikipedia(split="draw", draw_seed=seed).read(large), reader.read(large)
        assert (own.split == drawn.split).all() and own.image_ids == drawn.image_ids
        assert (drawn.name, own.name) == ("wikipedia", "wikipedia-draws")
    assert not Wikipedia(split="draw").redrawn and not Wikipedia().redrawn


def test_too_few_items_to_draw_from(tmp_path: Path) -> None:
    fakes.write_wikipedia(tmp_path)
    assert complaint(tmp_path, split="draw") == (
        "wikipedia: 33 items are too few to draw 1300 for training; use split: official"
    )


# ---- what goes wrong --------------------------------------------------------------------------------------


def test_missing_files_say_where_they_come_from(tmp_path: Path) -> None:
    assert complaint(tmp_path / "no") == (
        f"{tmp_path / 'no'} is missing; set DATA_ROOT to the folder that holds 'wikipedia/' with "
        "raw_features.mat and the two *set_txt_img_cat.list files"
    )
    assert complaint(tmp_path).startswith(f"{tmp_path / 'wikipedia'} is missing; put raw_features.mat and")
    folder = fakes.write_wikipedia(tmp_path)
    assert complaint(tmp_path, features="deep_features").startswith(
        f"{folder / 'deep_features'}.npy (or .npz, .mat) is missing; deep features are not distributed"
    )
    (folder / "testset_txt_img_cat.list").unlink()
    with pytest.raises(
        MissingInput, match=r"testset_txt_img_cat\.list is missing; it comes with the Wikipedia"
    ):
        Wikipedia().read(tmp_path)


@pytest.mark.parametrize(
    "line", ["text image", "text image 11", "text image 0", "text image x", "text image ²", "", "a b c 4"]
)
def test_a_line_of_a_list_that_is_none(tmp_path: Path, line: str) -> None:
    path = fakes.write_wikipedia(tmp_path) / "trainset_txt_img_cat.list"
    lines = path.read_text().splitlines()
    lines[6] = line
    path.write_text("\n".join(lines), encoding="utf-8")
    assert complaint(tmp_path) == (
        f"{path}, line 7: '{line}' is not 'text id, image id, category 1..10'; fix it"
    )


def test_a_list_in_another_encoding(tmp_path: Path) -> None:
    path = fakes.write_wikipedia(tmp_path) / "testset_txt_img_cat.list"
    path.write_bytes("café image 3\n".encode("latin-1") * 11)
    assert complaint(tmp_path) == f"{path} is not UTF-8 (byte 3); save it as UTF-8"


@pytest.mark.parametrize("name", ["I_tr", "T_tr", "I_te", "T_te"])
@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_arrays_that_do_not_fit_the_lists_or_are_damaged(tmp_path: Path, name: str, suffix: str) -> None:
    folder = fakes.write_wikipedia(tmp_path, suffix=suffix)
    path, arrays = folder / f"raw_features{suffix}", fakes.wikipedia_arrays(22, 11)
    rows = len(arrays[name])

    fakes.write_archive(path, {**arrays, name: arrays[name][:-1]})
    assert complaint(tmp_path) == (
        f"{path}:{name} has {rows - 1} rows, but {rows} are needed; the counts must agree"
    )
    spoilt = arrays[name].copy()
    spoilt[3, 1] = np.nan
    fakes.write_archive(path, {**arrays, name: spoilt})
    assert complaint(tmp_path) == f"{path}:{name} holds NaN or infinite values, first in row 3; fix that row"
    fakes.write_archive(path, {key: value for key, value in arrays.items() if key != name})
    assert complaint(tmp_path).startswith(f"{path} has no array '{name}'; did you mean '")
    fakes.write_archive(path, {**arrays, name: arrays[name][..., None].repeat(2, -1)})
    assert "dimensions" in complaint(tmp_path)


@pytest.mark.parametrize(("name", "what"), [("I_te", "image"), ("T_te", "text")])
def test_features_of_two_widths(tmp_path: Path, name: str, what: str) -> None:
    arrays = fakes.wikipedia_arrays(22, 11)
    width = arrays[name].shape[1]
    folder = fakes.write_wikipedia(tmp_path, arrays={**arrays, name: arrays[name][:, 1:]})
    assert complaint(tmp_path) == (
        f"{folder / 'raw_features.mat'}: the {what} features of train and test are {width} and "
        f"{width - 1} wide; use one width"
    )


def test_an_item_of_both_lists(tmp_path: Path) -> None:
    path = fakes.write_wikipedia(tmp_path) / "testset_txt_img_cat.list"
    lines = path.read_text().splitlines()
    lines[0] = "text-00004 image000004 5"
    path.write_text("\n".join(lines))
    assert "image 'text-00004/image000004' is in splits 'train' and 'test'" in complaint(tmp_path)


def test_a_matlab_7_3_file(tmp_path: Path) -> None:
    fakes.write_matlab_73(fakes.write_wikipedia(tmp_path) / "raw_features.mat")
    assert "is a MATLAB 7.3 file; save it again with save(..., '-v7') or as .npz" in complaint(tmp_path)


def write_pickles(folder: Path, train: int = 22, test: int = 11, first: int = 1) -> dict[str, Any]:
    """What ACMR's demonstration reads: lists of arrays, and labels from ``first`` on."""
    arrays = fakes.wikipedia_arrays(train, test)
    written = {}
    for part, (image_key, text_key), start, count in (
        ("train", ("I_tr", "T_tr"), 0, train),
        ("test", ("I_te", "T_te"), train, test),
    ):
        written[f"{part}_img_feats"] = list(arrays[image_key])
        written[f"{part}_txt_vecs"] = arrays[text_key]
        written[f"{part}_labels"] = [row % 10 + first for row in range(start, start + count)]
    for name, value in written.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(value, protocol=2))
    return written


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("lists", [True, False])
def test_the_pickles_of_acmrs_demonstration_are_read(tmp_path: Path, lists: bool, first: int) -> None:
    folder = fakes.write_wikipedia(tmp_path)
    shallow = Wikipedia().read(tmp_path)
    write_pickles(folder, first=first)
    if not lists:
        for path in folder.glob("*.list"):
            path.unlink()
    corpus = Wikipedia(features="deep_features").read(tmp_path)
    assert corpus.labels is not None and shallow.labels is not None
    assert np.array_equal(corpus.labels.values, shallow.labels.values)
    assert np.array_equal(corpus.image_features, shallow.image_features)
    assert np.array_equal(corpus.text_features, shallow.text_features)
    assert corpus.split.tolist() == shallow.split.tolist()
    assert corpus.image_ids == (
        shallow.image_ids
        if lists
        else tuple(f"train/{k}" for k in range(22)) + tuple(f"test/{k}" for k in range(11))
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("train_img_feats", None, r"train_img_feats\.pkl is missing; deep features are not distributed"),
        ("test_txt_vecs", np.ones((10, 6)), r"test_txt_vecs\.pkl has 10 rows, but test_labels\.pkl has 11"),
        ("train_txt_vecs", np.ones(22), r"train_txt_vecs\.pkl has shape \(22,\); it must have one row"),
        ("train_img_feats", np.full((22, 16), np.nan), r"train_img_feats\.pkl holds NaN"),
        (
            "train_labels",
            [1] * 22,
            r"train_labels\.pkl has labels that don't match those of trainset_txt_img_cat\.list, item",
        ),
        (
            "train_labels",
            [0, *range(2, 11), *range(1, 11), 1, 2],
            r"has labels that don't match",
        ),
    ],
)
def test_pickles_that_do_not_fit_are_refused(tmp_path: Path, name: str, value: Any, expected: str) -> None:
    folder = fakes.write_wikipedia(tmp_path)
    write_pickles(folder)
    path = folder / f"{name}.pkl"
    path.unlink()
    if value is not None:
        path.write_bytes(pickle.dumps(value))
    with pytest.raises(BadInput, match=expected):
        Wikipedia(features="deep_features").read(tmp_path)
