"""CUHK-PEDES from either of its annotation files, its followers, and all of them as they go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data.datasets import CuhkPedes, IcfgPedes, RstpReid

Entries = list[dict[str, Any]]
COUNTS = {"train": 3, "val": 2, "test": 2}


def complaint(root: Path, **settings: Any) -> str:
    with pytest.raises(BadInput) as raised:
        CuhkPedes(**settings).read(root)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_annotations_become_a_corpus(tmp_path: Path) -> None:
    entries = fakes.cuhk_pedes_entries(COUNTS, lambda person: 1 + person % 3)
    entries[4]["captions"] = ["One sentence on a red coat."]
    entries[5]["captions"] = [f"Sentence {k} on a blue coat." for k in range(4)]
    folder = fakes.write_cuhk_pedes(tmp_path, entries)
    corpus = CuhkPedes().read(tmp_path)
    assert corpus.name == "cuhk_pedes" and corpus.source == str(folder / "reid_raw.json")
    assert corpus.image_ids == tuple(entry["file_path"] for entry in entries)
    assert corpus.split.tolist() == [entry["split"] for entry in entries]
    pairs = [(row, k, text) for row, entry in enumerate(entries) for k, text in enumerate(entry["captions"])]
    assert corpus.caption_image.tolist() == [row for row, _, _ in pairs]
    assert corpus.captions == tuple(text for _, _, text in pairs)
    assert corpus.caption_ids == tuple(f"{entries[row]['file_path']}#{k}" for row, k, _ in pairs)
    assert corpus.labels is None
    assert corpus.images is not None
    for row in range(len(entries)):
        assert np.array_equal(np.asarray(corpus.images[row]), fakes.pixels(row, height=24, width=10))


def test_identities_are_numbered_by_ascending_id(tmp_path: Path) -> None:
    entries = fakes.cuhk_pedes_entries(COUNTS)
    ids = {1: 900, 2: 30, 3: 12000, 4: 7, 5: 8, 6: -2, 7: 10**30}
    for entry in entries:
        entry["id"] = ids[entry["id"]]
    fakes.write_cuhk_pedes(tmp_path, entries)
    identities = CuhkPedes().read(tmp_path).identities
    assert identities is not None and identities.dtype == np.int64
    order = sorted(ids.values())
    assert identities.tolist() == [order.index(entry["id"]) for entry in entries]


def test_without_a_split_persons_are_divided_by_number(tmp_path: Path) -> None:
    entries = fakes.cuhk_pedes_entries(COUNTS)
    for entry in entries:
        entry["id"] = 100 - entry["id"]
    folder = fakes.write_cuhk_pedes(tmp_path, entries, "caption_all.json")
    corpus = CuhkPedes(train_identities=3, val_identities=2).read(tmp_path)
    assert corpus.source == str(folder / "caption_all.json")
    by_id = dict(zip(range(93, 100), ["train"] * 3 + ["val"] * 2 + ["test"] * 2, strict=True))
    assert corpus.split.tolist() == [by_id[entry["id"]] for entry in entries]
    without = CuhkPedes(train_identities=5, val_identities=0).read(tmp_path)
    assert [without.counts()[split]["images"] for split in ("train", "val", "test")] == [10, 0, 4]


def test_too_few_persons_to_divide(tmp_path: Path) -> None:
    folder = fakes.write_cuhk_pedes(tmp_path, fakes.cuhk_pedes_entries(COUNTS), "caption_all.json")
    said = (
        f"{folder / 'caption_all.json'} has 7 distinct values of 'id', but train and val take {{}} and "
        "test needs more; use the complete file, or set train_identities and val_identities"
    )
    assert complaint(tmp_path) == said.format(12003)
    assert complaint(tmp_path, train_identities=4, val_identities=3) == said.format(7)
    with pytest.raises(BadInput, match="train_identities is 0 and val_identities 3; set them to"):
        CuhkPedes(train_identities=0, val_identities=3)
    with pytest.raises(BadInput, match="train_identities is 2 and val_identities -1"):
        CuhkPedes(train_identities=2, val_identities=-1)


def test_the_file_with_the_split_is_preferred(tmp_path: Path) -> None:
    entries = fakes.cuhk_pedes_entries(COUNTS)
    folder = fakes.write_cuhk_pedes(tmp_path, entries)
    fakes.write_annotations(folder, entries[:3], "caption_all.json")
    assert len(CuhkPedes().read(tmp_path).image_ids) == len(entries)


def test_either_folder_of_images(tmp_path: Path) -> None:
    found = {}
    for where in ("imgs", "images"):
        fakes.write_cuhk_pedes(tmp_path / where, images=where)
        found[where] = CuhkPedes().read(tmp_path / where).fingerprint
    assert found["imgs"] == found["images"]
    (tmp_path / "images" / "cuhk_pedes" / "imgs").mkdir()
    assert "cuhk_pedes/imgs/cam_a/001_0.png is missing" in complaint(tmp_path / "images")


# ---- what goes wrong --------------------------------------------------------------------------------------


def test_missing_files_say_what_belongs_there(tmp_path: Path) -> None:
    assert complaint(tmp_path / "no") == (
        f"{tmp_path / 'no'} is missing; set DATA_ROOT to the folder that holds 'cuhk_pedes/' with "
        "reid_raw.json or caption_all.json, and imgs/"
    )
    assert complaint(tmp_path).startswith(f"{tmp_path / 'cuhk_pedes'} is missing; put reid_raw.json or")
    folder = fakes.write_cuhk_pedes(tmp_path)
    (folder / "imgs" / "cam_b" / "002_1.png").unlink()
    with pytest.raises(MissingInput, match=r"imgs/cam_b/002_1\.png is missing; put the data set's images"):
        CuhkPedes().read(tmp_path)
    (folder / "imgs").rename(folder / "photos")
    with pytest.raises(MissingInput, match=r"cuhk_pedes/imgs/cam_a/001_0\.png is missing"):
        CuhkPedes().read(tmp_path)
    (folder / "reid_raw.json").unlink()
    with pytest.raises(
        MissingInput, match=r"reid_raw\.json is missing; put it \(or caption_all\.json\) there"
    ):
        CuhkPedes().read(tmp_path)


def field(row: int, name: str, value: Any) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        entries[row][name] = value

    return change


def without(row: int, name: str) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        del entries[row][name]

    return change


TEXTS, OUTSIDE = (
    "it must be a non-empty list of strings",
    "leads out of the image folder; give a path below",
)
BROKEN: dict[str, tuple[Callable[[Entries], None], str]] = {
    "no id": (without(3, "id"), "entry 3: 'id' is missing; it must be an integer"),
    "id is a text": (field(3, "id", "4"), "entry 3: 'id' is '4'; it must be an integer"),
    "id is a fraction": (field(3, "id", 4.5), "entry 3: 'id' is 4.5; it must be an integer"),
    "id is a truth": (field(3, "id", True), "entry 3: 'id' is True; it must be an integer"),
    "no path": (without(2, "file_path"), "entry 2: 'file_path' is missing; it must be a non-empty string"),
    "path is a number": (
        field(2, "file_path", 7),
        "entry 2: 'file_path' is 7; it must be a non-empty string",
    ),
    "path is empty": (field(2, "file_path", ""), "entry 2: 'file_path' is ''; it must be a non-empty string"),
    "path is absolute": (
        field(2, "file_path", "/etc/motd.png"),
        f"entry 2: file_path '/etc/motd.png' {OUTSIDE}",
    ),
    "path leads up": (field(2, "file_path", "cam_a/../../x.png"), f"'cam_a/../../x.png' {OUTSIDE}"),
    "path leads up with backslashes": (field(2, "file_path", "..\\x.png"), f"'..\\x.png' {OUTSIDE}"),
    "no captions": (without(1, "captions"), f"entry 1 ('cam_a/002_0.png'): 'captions' is missing; {TEXTS}"),
    "no caption": (field(1, "captions", []), f"entry 1 ('cam_a/002_0.png'): 'captions' is []; {TEXTS}"),
    "captions are a text": (field(1, "captions", "A man."), f"'captions' is 'A man.'; {TEXTS}"),
    "caption is none": (field(1, "captions", ["A man.", None]), f"'captions' is ['A man.', None]; {TEXTS}"),
    "empty caption": (
        field(1, "captions", ["A man.", " "]),
        "caption 'cam_a/002_0.png#1' is empty; write it or drop it",
    ),
    "no split": (
        without(6, "split"),
        "entry 6 ('cam_a/007_0.png') has no 'split'; give train, val or test, or keep the file",
    ),
    "split is a number": (field(6, "split", 2), "entry 6 ('cam_a/007_0.png') has no 'split'"),
    "unknown split": (field(6, "split", "dev"), "unknown split 'dev'; use train, val or test"),
    "image twice": (
        field(2, "file_path", "cam_a/001_0.png"),
        "image 'cam_a/001_0.png' is in split 'train' twice; keep it once",
    ),
    "image in two splits": (
        field(6, "file_path", "cam_a/001_0.png"),
        "image 'cam_a/001_0.png' is in splits 'train' and 'test'; keep it once",
    ),
    "person in two splits": (
        field(7, "split", "test"),
        "the identity of image 'cam_b/001_1.png' (split 'test') is also that of 'cam_a/001_0.png' (split "
        "'train'); keep each identity in one split",
    ),
}


@pytest.mark.parametrize(("change", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_bad_entry_is_named(tmp_path: Path, change: Callable[[Entries], None], expected: str) -> None:
    entries = fakes.cuhk_pedes_entries(COUNTS)
    folder = fakes.write_cuhk_pedes(tmp_path, entries)
    change(entries)
    path = fakes.write_annotations(folder, entries)
    message = complaint(tmp_path)
    assert expected in message and message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'[{"id": 1', "is not valid JSON (line 1: "),
        ('[{"captions": ["Zürich"]}]'.encode("latin-1"), "is not UTF-8 (byte 17); save it as UTF-8"),
        (b"\xef\xbb\xbf[\xe9]", "is not UTF-8 (byte 4); save it as UTF-8"),
        (b"{}", "is not a list of objects; it must be the annotation file of CUHK-PEDES"),
        (b"[]", "is not a list of objects"),
        (b"[1, 2]", "is not a list of objects"),
    ],
)
def test_a_file_that_holds_no_annotations(tmp_path: Path, content: bytes, expected: str) -> None:
    path = fakes.write_cuhk_pedes(tmp_path) / "reid_raw.json"
    path.write_bytes(content)
    assert complaint(tmp_path).startswith(f"{path} {expected}")


def test_a_byte_order_mark_is_welcome(tmp_path: Path) -> None:
    entries = fakes.cuhk_pedes_entries(COUNTS)
    path = fakes.write_cuhk_pedes(tmp_path, entries) / "reid_raw.json"
    path.write_text(json.dumps(entries), encoding="utf-8-sig")
    assert len(CuhkPedes().read(tmp_path).image_ids) == len(entries)


@pytest.mark.parametrize("folder", ["icfg_pedes", "ICFG-PEDES"])
def test_icfg_pedes_has_one_caption_an_image_and_no_validation(tmp_path: Path, folder: str) -> None:
    written = fakes.write_icfg_pedes(tmp_path, folder)
    corpus = IcfgPedes().read(tmp_path)
    assert corpus.name == "icfg_pedes" and corpus.source == str(written / "ICFG-PEDES.json")
    counts = corpus.counts()
    assert counts["test"] == {"images": 6, "captions": 6} and counts["val"]["images"] == 0


@pytest.mark.parametrize("folder", ["rstpreid", "RSTPReid"])
def test_rstpreid_names_its_images_in_a_field_of_its_own(tmp_path: Path, folder: str) -> None:
    written = fakes.write_rstpreid(tmp_path, folder)
    corpus = RstpReid().read(tmp_path)
    assert corpus.name == "rstpreid" and corpus.image_ids[0] == "cam_a/001_0.png"
    assert corpus.counts()["test"] == {"images": 6, "captions": 12}
    assert corpus.identities is not None and len(set(corpus.identities.tolist())) == 9
    path = written / "data_captions.json"
    (written / "annotations").mkdir()
    path.rename(written / "annotations" / path.name)
    assert RstpReid().read(tmp_path).fingerprint == corpus.fingerprint
    (written / "annotations" / path.name).write_text('[{"id": 1, "file_path": "a.png"}]')
    with pytest.raises(BadInput, match="'img_path' is missing; it must be a non-empty string"):
        RstpReid().read(tmp_path)
    (written / "annotations" / path.name).unlink()
    with pytest.raises(
        MissingInput,
        match=r"data_captions\.json is missing; put it there as received from the authors",
    ):
        RstpReid().read(tmp_path)
