"""SCAN's folders of regions and captions, as people have them and as they go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import fakes
import numpy as np
import pytest

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data.datasets import Precomputed
from crossmodal_bench.data.datasets.precomputed import precomputed_folder
from crossmodal_bench.jobs.experiments import dataset_settings


def complaint(root: Path, **settings: Any) -> str:
    with pytest.raises(BadInput) as raised:
        Precomputed("f30k_precomp", **settings).read(root)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("ids", [None, "image", "caption"])
@pytest.mark.parametrize("repeated", [False, True])
def test_a_folder_becomes_a_corpus(
    tmp_path: Path, repeated: bool, ids: Literal["image", "caption"] | None
) -> None:
    folder = fakes.write_precomputed(tmp_path, repeated=repeated, ids=ids)
    corpus = Precomputed("f30k_precomp").read(tmp_path)
    assert corpus.name == "flickr30k" and corpus.source == str(folder)
    assert corpus.split.tolist() == ["train"] * 6 + ["val"] * 2 + ["test"] * 3
    assert corpus.images is None and corpus.image_features is None
    assert corpus.regions is not None and corpus.captions is not None
    assert len(corpus.regions) == 11 and corpus.regions.origin == "f30k_precomp"
    assert corpus.caption_image.tolist() == np.repeat(np.arange(11), 5).tolist()
    for row in range(11):
        assert np.array_equal(corpus.regions[row], fakes.regions(row))
        for k in range(5):
            assert corpus.captions[5 * row + k] == fakes.caption(row, k).lower()[:-1]
            assert corpus.caption_ids[5 * row + k] == f"{corpus.image_ids[row]}#{k}"
    named = [f"{row:04d}.jpg" for row in range(11)]
    counted = [f"{split}/{i}" for split, n in (("train", 6), ("dev", 2), ("test", 3)) for i in range(n)]
    assert list(corpus.image_ids) == (named if ids else counted)


def test_captions_per_image_are_what_the_ids_or_the_setting_say(tmp_path: Path) -> None:
    fakes.write_precomputed(tmp_path, per_image=lambda row: 1 + row % 3, ids="caption", repeated=True)
    corpus = Precomputed("f30k_precomp").read(tmp_path)
    assert np.bincount(corpus.caption_image).tolist() == [1 + row % 3 for row in range(11)]
    assert corpus.regions is not None
    assert all(np.array_equal(corpus.regions[row], fakes.regions(row)) for row in range(11))
    fakes.write_precomputed(tmp_path, "two_precomp", per_image=2)
    two = Precomputed("two_precomp", captions_per_image=2).read(tmp_path)
    assert two.name == "two_precomp" and len(two.image_ids) == 11 and len(two.caption_ids) == 22
    fakes.write_precomputed(tmp_path, "three_precomp", per_image=3, ids="image")
    assert len(Precomputed("three_precomp").read(tmp_path).caption_ids) == 33
    with pytest.raises(BadInput, match="captions_per_image is 0"):
        Precomputed("two_precomp", captions_per_image=0)


def test_ids_that_only_count_may_start_again_in_every_split(tmp_path: Path) -> None:
    folder = fakes.write_precomputed(tmp_path)
    for split, rows in fakes.PRECOMPUTED.items():
        lines = [str(i) for i in range(len(rows)) for _ in range(5)]
        (folder / f"{split}_ids.txt").write_text("\n".join(lines))
    ids = Precomputed("f30k_precomp").read(tmp_path).image_ids
    assert ids[:2] == ("train/0", "train/1") and ids[-1] == "test/2"


def test_an_image_in_two_splits_is_found_by_its_id(tmp_path: Path) -> None:
    fakes.write_precomputed(tmp_path, rows={"train": [0, 1], "test": [1, 2]}, ids="image")
    assert "image '0001.jpg' is in splits 'train' and 'test'" in complaint(tmp_path)


def test_coco_is_tested_on_all_five_thousand(tmp_path: Path) -> None:
    rows = {"train": range(6), "dev": range(6, 8), "test": range(8, 10), "testall": range(8, 12)}
    fakes.write_precomputed(tmp_path, "coco_precomp", rows)
    corpus = Precomputed("coco_precomp").read(tmp_path)
    assert corpus.name == "coco" and corpus.counts()["test"] == {"images": 4, "captions": 20}
    assert corpus.regions is not None and np.array_equal(corpus.regions[11], fakes.regions(11))


@pytest.mark.parametrize("val", ["dev", "val", ""])
def test_the_validation_split_has_either_name_or_none(tmp_path: Path, val: str) -> None:
    rows: dict[str, range] = {"train": range(4), "test": range(4, 6)} | ({val: range(6, 9)} if val else {})
    fakes.write_precomputed(tmp_path, rows=rows)
    found = Precomputed("f30k_precomp").read(tmp_path).counts()
    assert found["val"]["images"] == (3 if val else 0) and found["train"]["images"] == 4


@pytest.mark.parametrize("name", ["mine/f30k_precomp", "mine", "mine_precomp", "mine/precomp"])
def test_the_files_may_lie_in_a_folder_of_their_own(tmp_path: Path, name: str) -> None:
    fakes.write_precomputed(tmp_path, name)
    folder = name.split("/")[0]
    corpus = Precomputed(folder).read(tmp_path)
    assert corpus.name == folder and corpus.source == str(tmp_path / name)


def test_captions_are_text_whose_lines_end_in_newlines_only(tmp_path: Path) -> None:
    folder = fakes.write_precomputed(tmp_path)
    lines = (folder / "test_caps.txt").read_text().splitlines()
    lines[0], lines[1] = "deux garçons \u2028 à Zürich\x0bet un chien", "東京"
    (folder / "test_caps.txt").write_bytes("\r\n".join(lines).encode())
    captions = Precomputed("f30k_precomp").read(tmp_path).captions
    assert captions is not None and len(captions) == 55
    assert captions[40:42] == (lines[0], "東京") and captions[42] == lines[2]
    assert not any(caption.startswith("b'") for caption in captions)


def test_blank_lines_at_the_end_and_bytes_as_python_prints_them_are_read(tmp_path: Path) -> None:
    folder = fakes.write_precomputed(tmp_path)
    plain = Precomputed("f30k_precomp").read(tmp_path).captions
    for path in folder.glob("*_caps.txt"):
        lines = [str(line.encode()) for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines) + "\n\n \n")
    assert Precomputed("f30k_precomp").read(tmp_path).captions == plain
    (folder / "dev_caps.txt").write_text("\n".join([r"b'a dog \xff'"] * 10))
    with pytest.raises(BadInput, match=r"written as Python bytes .* cannot be decoded \('utf-8' codec"):
        Precomputed("f30k_precomp").read(tmp_path)


@pytest.mark.parametrize("place", ["f30k_precomp/f30k_precomp_vocab.json", "vocab/f30k_precomp_vocab.json"])
def test_captions_may_be_numbers_of_words(tmp_path: Path, place: str) -> None:
    folder = fakes.write_precomputed(tmp_path)
    plain = Precomputed("f30k_precomp").read(tmp_path).captions
    assert plain is not None
    words = ["<pad>", "<start>", "<end>", "<unk>", *sorted({word for line in plain for word in line.split()})]
    for path in folder.glob("*_caps.txt"):
        lines = path.read_text().splitlines()
        numbers = [[1, *(words.index(word) for word in line.split()), 2] for line in lines]
        text = "\n".join(",".join(map(str, line)) for line in numbers)
        (folder / path.name.replace("caps", "precaps_stan")).write_text(text)
        path.unlink()
    with pytest.raises(
        MissingInput, match=r"_caps\.txt is missing, and .*_precaps_stan\.txt holds word numbers"
    ):
        Precomputed("f30k_precomp").read(tmp_path)
    vocabulary = tmp_path / place
    vocabulary.parent.mkdir(exist_ok=True)
    vocabulary.write_text(json.dumps({"idx2word": dict(enumerate(words)), "idx": len(words)}))
    captions = Precomputed("f30k_precomp").read(tmp_path).captions
    assert captions is not None and [caption.strip() for caption in captions] == list(plain)
    vocabulary.write_text(json.dumps({"idx2word": {"1": "<start>"}}))
    with pytest.raises(BadInput, match=r"precaps_stan\.txt, line 1: '\d+' is not a number of its vocabulary"):
        Precomputed("f30k_precomp").read(tmp_path)
    vocabulary.write_text("[]")
    with pytest.raises(BadInput, match="has no object 'idx2word' of words"):
        Precomputed("f30k_precomp").read(tmp_path)


@pytest.mark.parametrize(
    ("place", "dataset"),
    [
        ("f30k_precomp", "flickr30k"),
        ("f30k/precomp", "flickr30k"),
        ("coco_precomp", "coco"),
        ("coco/precomp", "coco"),
    ],
)
def test_regions_are_found_where_their_authors_put_them(tmp_path: Path, place: str, dataset: str) -> None:
    fakes.write_precomputed(tmp_path, place)
    settings = dataset_settings(dataset, tmp_path)
    reader = settings["data"]["dataset"]
    assert reader["class_path"].endswith("Precomputed")
    corpus = Precomputed(**reader["init_args"]).read(tmp_path)
    assert corpus.name == dataset and corpus.source == str(tmp_path / place)


def test_the_fingerprint_follows_the_regions(tmp_path: Path) -> None:
    for where in ("a", "b"):
        folder = fakes.write_precomputed(tmp_path / where)
    read = Precomputed("f30k_precomp").read
    before = read(tmp_path / "a").fingerprint
    assert read(tmp_path / "b").fingerprint == before
    np.save(folder / "train_ims.npy", np.load(folder / "train_ims.npy") + 1)
    assert read(tmp_path / "b").fingerprint != before


def test_without_images_keeps_the_regions_of_the_others(tmp_path: Path) -> None:
    fakes.write_precomputed(tmp_path)
    left = Precomputed("f30k_precomp").read(tmp_path).without_images([0, 6])
    assert left.regions is not None and len(left.regions) == 9
    assert np.array_equal(left.regions[0], fakes.regions(1))
    assert np.array_equal(left.regions[5], fakes.regions(7))


# ---- what is refused --------------------------------------------------------------------------------------


def save(name: str, array: Any) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, array)


def write(name: str, text: str | bytes) -> Callable[[Path], object]:
    content = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / name).write_bytes(content)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def break_line(folder: Path) -> None:
    lines = (folder / "dev_caps.txt").read_text().split("\n")
    (folder / "dev_caps.txt").write_text("\n".join([*lines[:3], "  ", *lines[4:]]))


def uneven_rows(folder: Path) -> None:
    rows = np.load(folder / "train_ims.npy").repeat(5, axis=0)
    rows[29] += 1
    np.save(folder / "train_ims.npy", rows)


def own_ids(folder: Path) -> None:
    rows = np.load(folder / "train_ims.npy").repeat(5, axis=0)
    np.save(folder / "train_ims.npy", rows)
    (folder / "train_ids.txt").write_text("\n".join(f"annotation{i}" for i in range(30)))


def both_names(folder: Path) -> None:
    (folder / "val_caps.txt").write_text("a dog\n" * 5)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "rows": (
        save("train_ims.npy", np.ones((7, 4, 7), np.float32)),
        "train_ims.npy has 7 rows, but train_caps.txt has 30 captions of 6 images; give one row per image",
    ),
    "width": (save("dev_ims.npy", np.ones((2, 4, 9), np.float32)), "dev_ims.npy has 4 regions of width 9"),
    "no regions": (save("dev_ims.npy", np.ones((2, 0, 7), np.float32)), "dev_ims.npy has shape (2, 0, 7)"),
    "no width": (save("dev_ims.npy", np.ones((2, 4, 0), np.float32)), "dev_ims.npy has shape (2, 4, 0)"),
    "dimensions": (save("test_ims.npy", np.ones((3, 7), np.float32)), "test_ims.npy has shape (3, 7)"),
    "type": (save("test_ims.npy", np.ones((3, 4, 7), np.int32)), "test_ims.npy holds int32 values"),
    "NaN": (save("test_ims.npy", np.full((3, 4, 7), np.nan, np.float32)), "test_ims.npy holds NaN"),
    "objects": (save("test_ims.npy", np.array([[[None]]])), "test_ims.npy is a pickle or an object array"),
    "no train": (remove("train_ims.npy"), "train_ims.npy is missing"),
    "no test": (remove("test_ims.npy"), "test_ims.npy is missing; put the file"),
    "no captions": (remove("dev_caps.txt"), "dev_caps.txt is missing; give a caption per line"),
    "empty split": (write("dev_caps.txt", ""), "dev_caps.txt is empty; give a caption per line, or remove"),
    "empty line": (break_line, "dev_caps.txt, line 4 is empty; write a caption there"),
    "not UTF-8": (write("dev_caps.txt", "a café\n".encode("latin-1") * 10), "dev_caps.txt is not UTF-8"),
    "not fives": (
        write("dev_caps.txt", "a dog\n" * 9),
        "dev_caps.txt has 9 captions, not a multiple of 5 per image; correct captions_per_image",
    ),
    "ids": (
        write("dev_ids.txt", "a\nb\nc\n"),
        "dev_ids.txt has 3 ids, but dev_caps.txt has 10 captions; give one id per image, or one per caption",
    ),
    "rows of one image": (uneven_rows, "train_ims.npy: rows 25 and 29 differ, but both belong to image"),
    "ids of captions": (
        own_ids,
        "train_ims.npy repeats its rows, but train_ids.txt gives each of them",
    ),
    "two names": (both_names, "holds both dev_* and val_*; keep one"),
}


@pytest.mark.parametrize(("spoil", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_named(tmp_path: Path, spoil: Callable[[Path], object], expected: str) -> None:
    folder = fakes.write_precomputed(tmp_path)
    spoil(folder)
    message = complaint(tmp_path)
    assert message.startswith(str(folder)) and expected in message


def test_a_folder_without_such_files_and_one_with_several(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert precomputed_folder(tmp_path / "mine") is None is precomputed_folder(tmp_path / "x_precomp")
    with pytest.raises(BadInput, match=r"mine/train_ims\.npy is missing; put \{train,dev,test\}_ims\.npy"):
        Precomputed("mine").read(tmp_path)
    for name in ("a_precomp", "b_precomp"):
        fakes.write_precomputed(tmp_path / "mine", name)
    with pytest.raises(BadInput, match=r"mine holds several folders \*precomp \(a_precomp, b_precomp\)"):
        Precomputed("mine").read(tmp_path)
