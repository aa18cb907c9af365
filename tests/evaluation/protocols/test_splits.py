from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest

from crossmodal_bench.evaluation import PROTOCOLS, KnownSplit, SplitItems, split_hash
from crossmodal_bench.evaluation.protocols.splits import (
    IdScheme,
    _members,
    canonical_caption_id,
    canonical_id,
    describe,
    image_named_by,
)

COCO = Path(__file__).parents[2] / "golden" / "coco_karpathy_test.txt.gz"
"""Karpathy's 5,000 test images in his order, from the package eccv-caption 0.1.0 (MIT)."""


def in_fives(ids: list[str]) -> SplitItems:
    return SplitItems(ids, np.repeat(np.arange(len(ids)), 5))


def described(split: SplitItems, **changes: object) -> KnownSplit:
    return describe(split, "flickr").model_copy(update=changes)


@pytest.mark.parametrize(
    ("scheme", "spellings", "one"),
    [
        (
            "coco",
            [
                "COCO_val2014_000000391895.jpg",
                "val2014/COCO_val2014_000000391895.jpg",
                "images\\val2014\\COCO_val2014_000000391895.JPG",
                "COCO_val2014_000000391895",
                "000000391895.jpg",
                "val2017/000000391895.jpg",
                "391895",
                "coco:391895",
                "testall/391895",
            ],
            "391895",
        ),
        (
            "flickr",
            [
                "1000092795.jpg",
                "flickr30k-images/1000092795.jpg",
                "1000092795",
                "flickr30k:1000092795",
                "test/1000092795",
                "1000092795_693b08cb0e.jpg",
                "1000092795_693b08cb0e_b.jpg",
            ],
            "1000092795",
        ),
        ("names", ["a/b/bird_01.png", "bird_01.jpeg", "bird_01", "cub:bird_01"], "bird_01"),
        ("exact", ["a/b.jpg"], "a/b.jpg"),
        ("coco", ["my_photo.jpg"], "my_photo"),
    ],
)
def test_an_image_has_one_spelling(scheme: IdScheme, spellings: list[str], one: str) -> None:
    assert {canonical_id(name, scheme) for name in spellings} == {one}


def test_ids_that_would_become_the_same_stay_as_they_are() -> None:
    split = in_fives(["a/1.jpg", "b/1.jpg"])
    assert split.canonical("names") == ["a/1.jpg", "b/1.jpg"]
    assert split_hash(split) != split_hash(in_fives(["a/1.jpg", "b/2.jpg"]))


def test_the_hash_is_of_images_and_their_numbers_of_captions_in_any_order() -> None:
    split = SplitItems(["5.jpg", "6.jpg"], np.array([0, 0, 1]))
    assert split_hash(split) == split_hash(SplitItems(["x/6", "x/5"], np.array([1, 0, 1])))
    assert split_hash(split) != split_hash(SplitItems(["5.jpg", "6.jpg"], np.array([0, 1, 1])))


def photos(known: int, foreign: int, unknown: int) -> list[str]:
    """Flickr30K's file names: of known test images, of images known to be others, and of neither."""
    photos = _members("flickr30k_photos.txt.gz")
    names = sorted(photos.members)[:known] + sorted(photos.others)[:foreign]
    return [f"{name}.jpg" for name in names] + [f"{9_000_000_000 + i}.jpg" for i in range(unknown)]


FLICKR30K = PROTOCOLS["flickr30k-1k"].split


def test_the_list_of_flickr30k_is_whole() -> None:
    photos = _members("flickr30k_photos.txt.gz")
    assert len(photos.members) == 243 and len(photos.others) == 7235
    assert not photos.members.keys() & photos.others


@pytest.mark.parametrize("spelling", ["{}", "flickr30k-images/{}", "test/{}"])
def test_a_split_that_agrees_with_the_list_is_flickr30ks(spelling: str) -> None:
    names = [spelling.format(name) for name in photos(243, 0, 757)]
    assert FLICKR30K.faults(in_fives(names), ordered=False) == []
    assert (
        FLICKR30K.faults(in_fives([name.removesuffix(".jpg") for name in names[::-1]]), ordered=False) == []
    )


def test_the_entities_split_is_another() -> None:
    # 1,000 images, of which 11 of 256 that can be checked are test images.
    (fault,) = FLICKR30K.faults(in_fives(photos(11, 245, 744)), ordered=False)
    assert fault == (
        "232 known test images are missing and 245 known training or validation images are among them"
    )


def test_one_image_swapped_is_another_split() -> None:
    (fault,) = FLICKR30K.faults(in_fives(photos(242, 1, 757)), ordered=False)
    assert fault == "1 known test images are missing and 1 known training or validation images are among them"
    split = in_fives([f"{number}.jpg" for number in range(7, 12)])
    other = in_fives([*split.image_ids[:-1], "99.jpg"])
    assert described(split).faults(split, ordered=False) == []
    (fault,) = described(split).faults(other, ordered=False)
    assert fault.startswith("its images are different (hash ")


def test_captions_of_flickr30k_that_describe_other_images_are_seen() -> None:
    names = photos(243, 0, 757)
    captions = [f"sentence {number}" for number in range(5000)]
    split = dataclasses.replace(in_fives(names), captions=captions)
    (fault,) = FLICKR30K.faults(split, ordered=False)
    assert fault == "the captions of 243 known test images are different or describe other images"


def test_other_numbers_of_captions_are_another_split() -> None:
    names = photos(243, 0, 757)
    owner = np.repeat(np.arange(1000), 5)
    owner[0] = 1
    (fault,) = FLICKR30K.faults(SplitItems(names, np.sort(owner)), ordered=False)
    assert fault == f"image '{names[0]}' has 4 captions, but every image of the split has 5"
    uneven = SplitItems(["5.jpg", "6.jpg"], np.array([0, 0, 1]))
    known = describe(uneven, "flickr")
    assert not known.captions_per_image and known.faults(uneven, ordered=True) == []
    moved = SplitItems(["5.jpg", "6.jpg"], np.array([0, 1, 1]))
    assert known.faults(moved, ordered=True) == ["its images have different numbers of captions"]


SENTENCES = ["A dog runs.", "Dogs!", "A red car", "Cars", "Snow falls", "It is snowing"]


def described_by(
    sentences: list[str], keys: list[str] | None = None, ids: list[str] | None = None
) -> SplitItems:
    return SplitItems(["5.jpg", "6.jpg", "7.jpg"], np.array([0, 0, 1, 1, 2, 2]), ids, sentences, keys)


def test_captions_are_recognised_in_every_tokenisation_and_order() -> None:
    known = describe(described_by(SENTENCES), "flickr")
    tokens = ["dogs !", "a dog runs .", "a red car", "cars", "snow falls", "it is snowing"]
    assert known.faults(described_by(tokens), ordered=True) == []
    # Where there are only features, the rest has to do.
    assert known.faults(dataclasses.replace(described_by(tokens), captions=None), ordered=True) == []


@pytest.mark.parametrize("order", [[2, 1, 0, 3, 4, 5], [2, 3, 0, 1, 4, 5], [5, 4, 3, 2, 1, 0]])
def test_permuted_captions_are_another_split(order: list[int]) -> None:
    known = describe(described_by(SENTENCES), "flickr")
    permuted = described_by([SENTENCES[row] for row in order])
    assert known.faults(permuted, ordered=False) == ["its captions are different or describe other images"]


def test_captions_that_name_their_image_must_be_given_to_it() -> None:
    known = describe(described_by(SENTENCES), "flickr")
    names = ["5.jpg#0", "5.jpg#1", "x/6#0", "6#1", "7.jpg#0", "7.jpg#1"]
    assert known.faults(described_by(SENTENCES, ids=names), ordered=True) == []
    swapped = [names[row] for row in (0, 2, 1, 3, 4, 5)]
    faults = known.faults(described_by(SENTENCES, ids=swapped), ordered=True)
    assert faults == ["caption 'x/6#0' is assigned to image '5.jpg'"]
    # Numbers of rows, or of annotations, are not images, even where one is spelled the same.
    numbers = [str(number) for number in range(6)]
    assert known.faults(described_by(SENTENCES, ids=numbers), ordered=True) == []


def test_captions_with_ids_of_their_own_are_recognised_by_them() -> None:
    split = described_by(SENTENCES, keys=["31", "30", "12", "13", "90", "91"])
    known = describe(split, "flickr").model_copy(update={"texts": ""})
    prefixed = described_by(SENTENCES, keys=["coco:31", "coco:30", "12", "13", "90", "91"])
    assert known.faults(prefixed, ordered=True) == []
    swapped = described_by(SENTENCES, keys=["31", "12", "30", "13", "90", "91"])
    faults = known.faults(swapped, ordered=True)
    assert faults == ["its captions, by their ids, are different or describe other images"]


def coco() -> list[str]:
    return gzip.decompress(COCO.read_bytes()).decode().split()


@pytest.mark.parametrize("spelling", ["{}", "coco:{}", "val2014/COCO_val2014_{:0>12}.jpg", "testall/{}"])
def test_cocos_split_is_recognised_under_every_spelling(spelling: str) -> None:
    split = in_fives([spelling.format(name) for name in coco()])
    for name in ("coco-5k", "coco-1k-5fold"):
        assert PROTOCOLS[name].split.faults(split, ordered=PROTOCOLS[name].folds > 1) == []
    # With ten captions more on some images.
    more = SplitItems(split.image_ids, np.sort(np.concatenate([split.caption_image, np.arange(10)])))
    assert PROTOCOLS["coco-5k"].split.faults(more, ordered=True) == []


def test_cocos_folds_in_another_order_are_others() -> None:
    ids = coco()
    for order in (sorted(ids), [*ids[1000:], *ids[:1000]], [ids[1000], *ids[1:1000], ids[0], *ids[1001:]]):
        assert PROTOCOLS["coco-5k"].split.faults(in_fives(order), ordered=False) == []
        (fault,) = PROTOCOLS["coco-1k-5fold"].split.faults(in_fives(order), ordered=True)
        assert fault == "its images are in another order, and folds are blocks of that order"


def test_numbers_of_rows_are_no_ids() -> None:
    for prefix in ("", "testall/"):
        split = in_fives([f"{prefix}{number}" for number in range(5000)])
        (fault,) = PROTOCOLS["coco-5k"].split.faults(split, ordered=False)
        assert fault == "its images are only numbered, and have no ids by which to recognise them"
        # Nor do they become any where somebody has described such a split.
        assert describe(split, "coco").faults(split, ordered=False) == [fault]


def test_one_image_of_coco_swapped_is_another_split() -> None:
    ids = coco()
    (fault,) = PROTOCOLS["coco-5k"].split.faults(in_fives([*ids[:-1], "1"]), ordered=False)
    assert fault.startswith("its images are different (hash ")


def test_ids_of_captions_name_their_images_in_one_spelling() -> None:
    assert image_named_by("1000.jpg#0") == "1000.jpg" and image_named_by("1000.jpg") is None
    spelled = "val2014/COCO_val2014_000000391895.jpg#2"
    assert canonical_caption_id(spelled, "coco") == canonical_caption_id("391895#2", "coco") == "391895#2"
    assert canonical_caption_id("coco:770337", "coco") == "770337"


def test_where_each_seed_has_a_split_of_its_own_any_of_them_is_verified() -> None:
    splits = [in_fives([f"{name}.jpg" for name in names]) for names in ("ab", "bc", "cd")]
    known = KnownSplit(draws=tuple(describe(split).images for split in splits[:2]), captions_per_image=5)
    assert known.verifiable
    assert [known.faults(split, ordered=False) for split in splits[:2]] == [[], []]
    (fault,) = known.faults(splits[2], ordered=False)
    assert fault.startswith("its images match none of the 2 draws (hash ")


def test_the_draws_of_wikipedia_begin_with_the_one_that_all_seeds_may_share() -> None:
    draws = PROTOCOLS["wikipedia-1300-draws-map"].split.draws
    assert draws[0] == PROTOCOLS["wikipedia-1300-map"].split.images
    assert len(set(draws)) == len(draws) == 10
    assert [name for name, protocol in PROTOCOLS.items() if protocol.redrawn] == ["wikipedia-1300-draws-map"]
