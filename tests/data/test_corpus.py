"""The data contract: what it refuses, what it derives, and what changes its fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data import Corpus
from crossmodal_bench.data.corpus import Labels
from crossmodal_bench.data.images import ImageFiles
from crossmodal_bench.data.regions import RegionFiles

UNEVEN = (1, 3, 2, 5, 1, 2, 4, 1, 2, 2, 3)


@pytest.fixture
def corpus() -> Corpus:
    n = len(UNEVEN)
    return fakes.corpus(
        per_image=UNEVEN,
        labels=Labels(np.arange(n) % 3, names=("a", "b", "c"), rule="by hand"),
        image_features=np.random.default_rng(0).random((n, 4)).astype(np.float32),
        text_features=np.random.default_rng(1).random((sum(UNEVEN), 5)).astype(np.float32),
    )


def test_captions_follow_their_images_whatever_the_order(corpus: Corpus) -> None:
    shuffled = np.random.default_rng(3).permutation(len(corpus.caption_ids))
    assert corpus.captions is not None
    mixed = replace(
        corpus,
        caption_ids=tuple(corpus.caption_ids[i] for i in shuffled),
        captions=tuple(corpus.captions[i] for i in shuffled),
        caption_image=corpus.caption_image[shuffled],
    )
    for split in ("train", "val", "test"):
        for one in (corpus, mixed):
            images = {one.image_ids[i] for i in one.image_rows(split)}
            assert images == {
                name for name, part in zip(one.image_ids, one.split, strict=True) if part == split
            }
            owners = [one.caption_ids[i].split("#")[0] for i in one.caption_rows(split)]
            assert set(owners) == images
            assert len(owners) == one.counts()[split]["captions"]
    assert (
        mixed.counts()
        == corpus.counts()
        == {
            "train": {"images": 6, "captions": 14},
            "val": {"images": 2, "captions": 5},
            "test": {"images": 3, "captions": 7},
        }
    )


def test_numbers_of_labels() -> None:
    single = Labels(np.arange(11) % 3)
    multi = Labels(np.eye(11, dtype=np.int64)[:, :7])
    assert (len(single), single.count, single.multi_label) == (11, 3, False)
    assert (len(multi), multi.count, multi.multi_label) == (11, 7, True)


def test_without_images_keeps_every_other_pair_together(corpus: Corpus) -> None:
    assert corpus.captions is not None and corpus.labels is not None
    assert corpus.image_features is not None and corpus.text_features is not None
    left = corpus.without_images([3, 0, 9])
    assert left.image_ids == tuple(name for name in corpus.image_ids if name not in ("i3", "i0", "i9"))
    assert left.counts()["train"] == {"images": 4, "captions": 8}
    assert left.captions is not None and left.labels is not None
    assert (left.labels.names, left.labels.rule) == (corpus.labels.names, corpus.labels.rule)
    assert left.image_features is not None and left.text_features is not None
    for row, name in enumerate(left.caption_ids):
        old = corpus.caption_ids.index(name)
        assert left.captions[row] == corpus.captions[old]
        assert left.image_ids[left.caption_image[row]] == name.split("#")[0]
        assert (left.text_features[row] == corpus.text_features[old]).all()
    for row, name in enumerate(left.image_ids):
        old = corpus.image_ids.index(name)
        assert left.split[row] == corpus.split[old] and left.labels.values[row] == corpus.labels.values[old]
        assert (left.image_features[row] == corpus.image_features[old]).all()


def test_regions_are_checked_follow_their_images_and_count_for_the_fingerprint(
    corpus: Corpus, tmp_path: Path
) -> None:
    n = len(corpus.image_ids)
    np.save(tmp_path / "a.npy", np.stack([fakes.regions(row) for row in range(n)]))
    regions = RegionFiles.whole(tmp_path / "a.npy")
    full = replace(corpus, regions=regions)
    assert full.fingerprint != corpus.fingerprint
    assert full.fingerprint != replace(corpus, regions=regions.subset(np.arange(n)[::-1])).fingerprint
    pictures = ImageFiles([tmp_path / "a.npy"] * n)
    with_pictures = [replace(one, images=pictures).fingerprint for one in (corpus, full)]
    assert with_pictures[0] == with_pictures[1], "a view of pictures that have a fingerprint of their own"
    left = full.without_images([3, 0])
    assert left.regions is not None and len(left.regions) == n - 2
    for row, name in enumerate(left.image_ids):
        assert np.array_equal(left.regions[row], fakes.regions(corpus.image_ids.index(name)))
    with pytest.raises(BadInput, match=rf"2 rows of regions for {n} items; the counts must agree"):
        replace(corpus, regions=regions.subset(np.arange(2)))


def test_without_images_may_not_empty_a_split(corpus: Corpus) -> None:
    with pytest.raises(BadInput, match="the split 'test' is empty"):
        corpus.without_images(corpus.image_rows("test").tolist())


# ---- validation -------------------------------------------------------------------------------------------


def labelled(counts: dict[int, int], test: int = 10) -> Corpus:
    labels = np.concatenate(
        [np.full(n, label) for label, n in counts.items()] + [np.arange(test) % len(counts)]
    )
    order = np.random.default_rng(0).permutation(len(labels))
    splits = np.array(["train"] * (len(labels) - test) + ["test"] * test)
    return fakes.corpus(splits[order].tolist(), labels=Labels(labels[order]))


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_validation_is_drawn_from_train_label_by_label_and_never_from_test(share: float) -> None:
    counts = {0: 40, 1: 20, 2: 10}
    corpus = labelled(counts)
    drawn = corpus.with_validation(share)
    assert drawn.labels is not None
    assert (drawn.image_rows("test") == corpus.image_rows("test")).all()
    assert (
        sorted([*drawn.image_rows("train"), *drawn.image_rows("val")]) == corpus.image_rows("train").tolist()
    )
    for label, n in counts.items():
        assert (drawn.labels.values[drawn.image_rows("val")] == label).sum() == share * n


def test_validation_depends_on_its_seed_only() -> None:
    corpus = labelled({0: 30, 1: 30})
    first = corpus.with_validation(0.2, seed=1)
    assert (first.split == corpus.with_validation(0.2, seed=1).split).all()
    assert (first.split != corpus.with_validation(0.2, seed=2).split).any()
    assert corpus.with_validation(0) is corpus


@pytest.mark.parametrize("labels", [None, "multi-hot"])
def test_validation_without_single_labels_is_drawn_from_all(labels: str | None) -> None:
    n = 50
    given = None if labels is None else Labels(np.random.default_rng(0).integers(0, 2, (n, 4)))
    drawn = fakes.corpus(("train",) * 40 + ("test",) * 10, labels=given).with_validation(0.25)
    assert drawn.counts()["val"]["images"] == 10 and drawn.counts()["test"]["images"] == 10


@pytest.mark.parametrize("share", [-0.1, 1.0, 3, float("nan")])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(BadInput, match=r"data\.validation is .*between 0 and 1"):
        labelled({0: 5, 1: 5}).with_validation(share)


def test_a_share_of_nothing_or_of_everything() -> None:
    with pytest.raises(BadInput, match=r"data\.validation is 0\.01: not one of the 10 training images"):
        labelled({0: 5, 1: 5}).with_validation(0.01)
    with pytest.raises(BadInput, match="the split 'train' is empty"):
        labelled({0: 5, 1: 5}).with_validation(0.99)


def test_validation_beside_one_of_the_data_sets_own(corpus: Corpus) -> None:
    with pytest.raises(BadInput, match=r"already has a validation split; set data\.validation to 0"):
        corpus.with_validation(0.1)


# ---- what is refused --------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "split names": (
        {"split": np.array(["train", "test"])},
        "2 split names for 11 images; give one per image",
    ),
    "unknown split": (
        {"split": np.array(["training"] * 8 + ["test"] * 3)},
        "unknown split 'training'; use train, val or test",
    ),
    "no train": (
        {"split": np.array(["val"] * 8 + ["test"] * 3)},
        "the split 'train' is empty; assign at least",
    ),
    "no test": ({"split": np.array(["train"] * 11)}, "the split 'test' is empty; assign at least"),
    "overlap": (
        {"image_ids": ("i0", *(f"i{i}" for i in range(1, 10)), "i0")},
        "image 'i0' is in splits 'train' and 'test'; keep it once",
    ),
    "twice": (
        {"image_ids": ("i0", "i0", *(f"i{i}" for i in range(2, 11)))},
        "image 'i0' is in split 'train' twice; keep it once",
    ),
    "caption twice": (
        {"caption_ids": ("c0", "c0", *(f"c{i}" for i in range(2, 22)))},
        "caption 'c0' is in split 'train' twice; keep it once",
    ),
    "no caption": (
        {"caption_image": np.array([0, 0, 0, 0, *np.repeat(np.arange(2, 11), 2)])},
        "image 'i1' has no caption; give it one or drop it",
    ),
    "owners": (
        {"caption_image": np.arange(11)},
        "22 caption ids, 22 captions and 11 entries of caption_image; the counts must agree",
    ),
    "captions": (
        {"captions": ("one", "two")},
        "22 caption ids, 2 captions and 22 entries of caption_image; the counts must agree",
    ),
    "owner too large": (
        {"caption_image": np.append(np.repeat(np.arange(11), 2)[:-1], 11)},
        "caption_image refers to images outside 0..10; correct it",
    ),
    "negative owner": (
        {"caption_image": np.append(-1, np.repeat(np.arange(11), 2)[1:])},
        "caption_image refers to images outside 0..10; correct it",
    ),
    "labels": (
        {"labels": Labels(np.zeros(10, np.int64))},
        "10 rows of labels for 11 items; the counts must agree",
    ),
    "features": ({"image_features": np.zeros((22, 3))}, "22 rows of image features for 11 items; the counts"),
    "texts": ({"text_features": np.zeros((11, 3))}, "11 rows of text features for 22 items; the counts"),
}


@pytest.mark.parametrize(("changes", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_corpus_that_contradicts_itself(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadInput) as raised:
        fakes.corpus(source="data/x.json", **changes)
    assert str(raised.value).startswith(f"data/x.json: {expected}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("blank", ["", "   ", "\n\t"])
def test_an_empty_caption_is_named(blank: str) -> None:
    captions = ("something",) * 5 + (blank,) + ("something",) * 16
    with pytest.raises(BadInput, match=r"fake: caption 'i2#1' is empty; write it or drop it"):
        fakes.corpus(captions=captions)


def test_half_a_character_is_no_caption_and_a_whole_one_is() -> None:
    captions = ("ein Häuschen 🏠",) * 21
    assert fakes.corpus(captions=(*captions, "日本")).fingerprint
    with pytest.raises(BadInput, match="caption 'i10#1' is not valid Unicode"):
        fakes.corpus(captions=(*captions, "half \ud83c"))


# ---- fingerprint ------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Corpus], dict[str, Any]]] = {
    "image id": lambda c: {"image_ids": ("other", *c.image_ids[1:])},
    "caption id": lambda c: {"caption_ids": ("other", *c.caption_ids[1:])},
    "caption": lambda c: {"captions": ("Another sentence.", *(c.captions or ())[1:])},
    "caption's image": lambda c: {"caption_image": np.append(c.caption_image[:-1], 9)},
    "split": lambda c: {"split": np.array(["val", *c.split[1:]])},
    "label": lambda c: {"labels": replace(c.labels, values=(c.labels.values + 1) % 3)},  # type: ignore[type-var, union-attr]
    "label name": lambda c: {"labels": replace(c.labels, names=("a", "b", "z"))},  # type: ignore[type-var]
    "image feature": lambda c: {"image_features": c.image_features * np.float32(1.0001)},  # type: ignore[operator]
    "text feature": lambda c: {"text_features": c.text_features * np.float32(1.0001)},  # type: ignore[operator]
    "feature type": lambda c: {"image_features": c.image_features.astype(np.float64)},  # type: ignore[union-attr]
    "feature shape": lambda c: {"text_features": c.text_features.reshape(len(c.caption_ids), -1, 1)},  # type: ignore[union-attr]
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_fingerprint_changes_with_everything_that_a_result_depends_on(
    corpus: Corpus, change: Callable[[Corpus], dict[str, Any]]
) -> None:
    assert replace(corpus, **change(corpus)).fingerprint != corpus.fingerprint


def test_the_fingerprint_is_that_of_the_content_not_of_the_place(corpus: Corpus) -> None:
    assert corpus.labels is not None
    elsewhere = replace(
        corpus,
        source="/another/folder/dataset.json",
        labels=replace(corpus.labels, rule="said otherwise"),
    )
    assert elsewhere.fingerprint == corpus.fingerprint
    assert len(corpus.fingerprint) == 16 and int(corpus.fingerprint, 16) >= 0


def test_an_identity_belongs_to_one_split() -> None:
    splits = ("train", "train", "train", "val", "test", "test")
    whole = fakes.corpus(splits, identities=np.array([7, 7, 3, 9, 4, 4]))
    assert whole.without_images([0]).identities is not None
    assert whole.without_images([0]).identities.tolist() == [7, 3, 9, 4, 4]  # type: ignore[union-attr]
    assert whole.fingerprint != replace(whole, identities=np.array([7, 8, 3, 9, 4, 4])).fingerprint
    with pytest.raises(BadInput, match=r"image 'i4' \(split 'test'\) is also that of 'i0' \(split 'train'\)"):
        fakes.corpus(splits, identities=np.array([7, 7, 3, 9, 7, 4]))
    with pytest.raises(BadInput, match="5 rows of identities for 6 items"):
        fakes.corpus(splits, identities=np.arange(5))


def test_validation_is_drawn_by_whole_identities() -> None:
    identities = np.repeat(np.arange(10), 3)
    corpus = fakes.corpus(("train",) * 27 + ("test",) * 3, identities=identities).with_validation(0.3)
    held_out = set(identities[corpus.split == "val"].tolist())
    assert len(held_out) == 3
    assert not held_out & set(identities[corpus.split == "train"].tolist())


def test_with_captions_keeps_some_and_every_image() -> None:
    whole = fakes.corpus(per_image=3)
    rows = np.flatnonzero(np.arange(len(whole.caption_ids)) % 3 != 1)
    fewer = whole.with_captions(rows)
    assert fewer.image_ids == whole.image_ids
    assert fewer.caption_ids == tuple(whole.caption_ids[row] for row in rows)
    assert fewer.captions is not None and whole.captions is not None
    assert fewer.captions[1] == whole.captions[2]
    np.testing.assert_array_equal(fewer.caption_image, whole.caption_image[rows])
    with pytest.raises(BadInput, match="has no caption"):
        whole.with_captions(rows[2:])
