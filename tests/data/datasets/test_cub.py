"""CUB in Reed et al.'s layout; with it, what all data sets in that layout share."""

from __future__ import annotations

import shutil
from pathlib import Path

import fakes
import numpy as np
import pytest
from PIL import Image

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data.datasets import CUB

ANI, ALBATROSS = "004.Groove_billed_Ani", "001.Black_footed_Albatross"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fakes.write_cub(tmp_path)


def complaint(folder: Path) -> str:
    with pytest.raises(BadInput) as raised:
        CUB().read(folder.parent)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def missing(folder: Path) -> str:
    with pytest.raises(MissingInput) as raised:
        CUB().read(folder.parent)
    return str(raised.value)


def test_folders_and_lists_become_a_corpus(folder: Path) -> None:
    corpus = CUB().read(folder.parent)
    assert corpus.name == "cub" and corpus.source == str(folder)
    split_of = {name: split for split, names in fakes.BIRDS.items() for name in names}
    # The fake numbers its images in the order of the lists, the corpus goes by name.
    first = {name: 2 * i + 1 for i, name in enumerate(split_of)}
    rows = [(name, first[name] + k) for name in sorted(split_of) for k in range(2)]
    assert corpus.image_ids == tuple(f"{name}/image_{row:05d}" for name, row in rows)
    assert corpus.split.tolist() == [split_of[name] for name, _ in rows]
    pairs = [(i, row, k) for i, (_, row) in enumerate(rows) for k in range(3 if row == 1 else 2)]
    assert corpus.caption_image.tolist() == [i for i, _, _ in pairs]
    assert corpus.captions == tuple(fakes.caption(row, k) for _, row, k in pairs)
    assert corpus.caption_ids == tuple(f"{corpus.image_ids[i]}#{k}" for i, _, k in pairs)
    assert corpus.labels is not None and corpus.identities is not None
    assert corpus.labels.names == tuple(sorted(split_of))
    assert [corpus.labels.names[label] for label in corpus.labels.values] == [name for name, _ in rows]
    assert corpus.identities.tolist() == corpus.labels.values.tolist()
    assert corpus.labels.rule == "species, split by trainclasses.txt, valclasses.txt and testclasses.txt"
    assert corpus.images is not None
    for i, (_, row) in enumerate(rows):
        # JPEG changes the noise and not the grey.
        assert abs(np.asarray(corpus.images[i]).mean() - fakes.pixels(row).mean()) < 2


def test_validation_classes_may_join_training(folder: Path) -> None:
    apart, joined = CUB().read(folder.parent), CUB(train_on="trainval").read(folder.parent)
    counts = [[corpus.counts()[split]["images"] for split in corpus.counts()] for corpus in (apart, joined)]
    assert counts == [[6, 6, 6], [12, 0, 6]]
    assert joined.image_rows("test").tolist() == apart.image_rows("test").tolist()
    assert joined.fingerprint != apart.fingerprint


def test_what_no_list_names_and_hidden_files_are_left_out(folder: Path) -> None:
    corpus = CUB().read(folder.parent)
    shutil.copytree(folder / "text_c10" / ANI, folder / "text_c10" / "011.Rusty_Blackbird")
    (folder / "trainvalclasses.txt").write_text("011.Rusty_Blackbird\n")
    (folder / "text_c10" / ANI / "._image_00001.txt").write_bytes(b"\x00\xff")
    (folder / "text_c10" / f"{ANI}.h5").write_bytes(b"\x89HDF")
    (folder / "images" / ANI / "._image_00001.jpg").write_bytes(b"\x00\xff")
    assert CUB().read(folder.parent).fingerprint == corpus.fingerprint


def test_captions_of_any_number_line_end_and_language(folder: Path) -> None:
    text = folder / "text_c10" / ANI / "image_00001.txt"
    text.write_bytes("\ufeffa bird of Zürich \r\n  東京\u2028🐦\r\nred\r\nblue\r\n\r\n \r\n".encode())
    corpus = CUB().read(folder.parent)
    assert corpus.captions is not None
    rows = np.flatnonzero(corpus.caption_image == corpus.image_ids.index(f"{ANI}/image_00001"))
    assert [corpus.captions[row] for row in rows] == ["a bird of Zürich", "東京\u2028🐦", "red", "blue"]


def test_lists_may_hold_blank_lines_and_windows_line_ends(folder: Path) -> None:
    corpus = CUB().read(folder.parent)
    path = folder / "trainclasses.txt"
    path.write_bytes("\r\n\r\n".join(reversed(fakes.BIRDS["train"])).encode("utf-8-sig"))
    assert CUB().read(folder.parent).fingerprint == corpus.fingerprint


# ---- what goes wrong --------------------------------------------------------------------------------------


def test_missing_folders_say_what_belongs_there(folder: Path, tmp_path: Path) -> None:
    assert complaint(tmp_path / "no" / "cub") == (
        f"{tmp_path / 'no'} is missing; set DATA_ROOT to the folder that holds 'cub/' with text_c10/, "
        "images/ and the three *classes.txt"
    )
    (tmp_path / "empty").mkdir()
    assert complaint(tmp_path / "empty" / "cub") == (
        f"{tmp_path / 'empty' / 'cub'} is missing; put text_c10/, images/ and the three *classes.txt there"
    )
    (folder / "images").rename(folder / "pictures")
    assert missing(folder).startswith(f"{folder / 'images' / ALBATROSS / 'image_00007.jpg'} is missing, but ")
    (folder / "text_c10").rename(folder / "text")
    assert missing(folder) == (
        f"{folder / 'text_c10' / ALBATROSS} is missing, but valclasses.txt names that class; put its "
        "captions there"
    )


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_missing_or_empty_list(folder: Path, split: str) -> None:
    path = folder / f"{split}classes.txt"
    path.write_text("\n \n")
    assert complaint(folder) == f"{path} names no classes; write one class folder name per line"
    path.unlink()
    assert missing(folder) == (f"{path} is missing; it comes with text_c10/ (one class folder name per line)")


@pytest.mark.parametrize(("split", "line"), [("val", 5), ("test", 5), ("train", 5)])
def test_a_class_in_two_lists_or_twice_in_one(folder: Path, split: str, line: int) -> None:
    path = folder / f"{split}classes.txt"
    path.write_text(path.read_text() + f"\n{ANI}\n")
    assert complaint(folder) == (
        f"{path}, line {line}: class '{ANI}' is already in {folder / 'trainclasses.txt'}; keep each "
        "class in one list, once"
    )


@pytest.mark.parametrize(
    "name", ["..", "../cub", "/etc", "C:\\birds", f"{ANI}/x", f"x/../{ANI}", ".", "a\\..\\b"]
)
def test_a_class_that_is_no_folders_name(folder: Path, name: str) -> None:
    path = folder / "trainclasses.txt"
    path.write_text(f"{ANI}\n{name}\n")
    assert complaint(folder) == (f"{path}, line 2: '{name}' is not the name of a class folder; correct it")


def test_a_class_without_captions(folder: Path) -> None:
    for path in (folder / "text_c10" / ANI).iterdir():
        path.unlink()
    assert complaint(folder) == (
        f"{folder / 'text_c10' / ANI} holds no .txt file; add captions or remove the class from "
        "trainclasses.txt"
    )


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_a_file_without_a_caption(folder: Path, content: bytes) -> None:
    path = folder / "text_c10" / ANI / "image_00002.txt"
    path.write_bytes(content)
    assert complaint(folder) == (
        f"{path} holds no captions; write one per line, or remove it along with its picture"
    )


def test_a_blank_line_between_captions(folder: Path) -> None:
    path = folder / "text_c10" / ANI / "image_00002.txt"
    path.write_text("red bird\nblue bird\n \ngreen bird\n")
    assert complaint(folder) == f"{path}, line 3 is blank; write the caption or delete the line"


@pytest.mark.parametrize("name", [f"text_c10/{ANI}/image_00002.txt", "testclasses.txt"])
def test_a_file_in_another_encoding(folder: Path, name: str) -> None:
    (folder / name).write_bytes("a café\n".encode("latin-1"))
    assert complaint(folder) == f"{folder / name} is not UTF-8 (byte 5); save it as UTF-8"


def test_a_picture_without_captions_and_captions_without_a_picture(folder: Path) -> None:
    picture, text = folder / "images" / ANI / "image_00002", folder / "text_c10" / ANI / "image_00002"
    captions = text.with_suffix(".txt").read_bytes()
    text.with_suffix(".txt").unlink()
    assert complaint(folder) == (
        f"{picture}.jpg has no captions in {text}.txt; write them or remove the picture"
    )
    text.with_suffix(".txt").write_bytes(captions)
    picture.with_suffix(".jpg").unlink()
    assert missing(folder) == f"{picture}.jpg is missing, but {text}.txt describes it; put the picture there"


def test_the_same_name_in_two_classes_is_two_images(folder: Path) -> None:
    for kind, suffix in (("images", ".jpg"), ("text_c10", ".txt")):
        shutil.copy(
            folder / kind / ANI / f"image_00001{suffix}", folder / kind / ALBATROSS / f"image_00001{suffix}"
        )
    Image.fromarray(fakes.pixels(12)).save(folder / "images" / ALBATROSS / "image_00001.jpg")
    corpus = CUB().read(folder.parent)
    assert {f"{ANI}/image_00001", f"{ALBATROSS}/image_00001"} <= set(corpus.image_ids)
    assert corpus.images is not None
    found = corpus.images[corpus.image_ids.index(f"{ALBATROSS}/image_00001")]
    assert abs(np.asarray(found).mean() - fakes.pixels(12).mean()) < 2
