"""Karpathy's layout, as people have it and as it goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data.datasets import Karpathy
from crossmodal_bench.data.datasets.karpathy import is_karpathy_folder
from crossmodal_bench.jobs.experiments import dataset_settings

Entries = list[dict[str, Any]]
COUNTS = {"train": 6, "val": 2, "test": 3}


def complaint(root: Path, **settings: Any) -> str:
    with pytest.raises(BadInput) as raised:
        Karpathy("mine", **settings).read(root)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_folder_becomes_a_corpus(tmp_path: Path, suffix: str) -> None:
    entries = fakes.karpathy_entries(COUNTS, per_image=lambda row: 1 + row % 3, suffix=suffix)
    folder = fakes.write_karpathy(tmp_path, "mine", entries)
    corpus = Karpathy("mine").read(tmp_path)
    assert corpus.name == "mine" and corpus.source == str(folder / "dataset_mine.json")
    assert corpus.image_ids == tuple(entry["filename"] for entry in entries)
    assert corpus.split.tolist() == [entry["split"] for entry in entries]
    pairs = [
        (row, s["raw"], k) for row, entry in enumerate(entries) for k, s in enumerate(entry["sentences"])
    ]
    assert corpus.caption_image.tolist() == [row for row, _, _ in pairs]
    assert corpus.captions == tuple(raw for _, raw, _ in pairs)
    assert corpus.caption_ids == tuple(f"{entries[row]['filename']}#{k}" for row, _, k in pairs)
    assert corpus.labels is None
    assert corpus.images is not None and len(corpus.images) == 11
    if suffix == ".png":
        assert np.array_equal(np.asarray(corpus.images[7]), fakes.pixels(7))


def test_restval_belongs_to_train_or_is_left_out(tmp_path: Path) -> None:
    fakes.write_coco(tmp_path, train=12, restval=6, val=3, test=4)
    whole = Karpathy("coco").read(tmp_path)
    assert [whole.counts()[split]["images"] for split in ("train", "val", "test")] == [18, 3, 4]
    assert whole.image_ids[0] == "train2014/0000.jpg" and whole.image_ids[12] == "val2014/0012.jpg"
    without = Karpathy("coco", use_restval=False).read(tmp_path)
    assert [without.counts()[split]["images"] for split in ("train", "val", "test")] == [12, 3, 4]
    for corpus in (whole, without):
        assert corpus.captions is not None and corpus.images is not None
        for row, caption in enumerate(corpus.captions):
            name = corpus.image_ids[corpus.caption_image[row]]
            assert f"picture number {int(name[-8:-4])}." in caption
        assert len(corpus.images) == len(corpus.image_ids)


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    found = {}
    for where in ("a", "b"):
        folder = fakes.write_karpathy(tmp_path / where, "mine")
        found[where] = Karpathy("mine").read(tmp_path / where).fingerprint
    assert found["a"] == found["b"]
    image = folder / "images" / "0003.jpg"
    image.write_bytes(image.read_bytes() + b" ")
    assert Karpathy("mine").read(tmp_path / "b").fingerprint != found["a"]


def test_without_image_files_where_they_are_not_needed(tmp_path: Path) -> None:
    fakes.write_karpathy(tmp_path, "mine", images=False)
    assert Karpathy("mine", check_images=False).read(tmp_path).images is None
    assert "images/0000.jpg is missing; put the data set's images there" in complaint(tmp_path)


# ---- labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, int])
def test_single_labels_may_be_names_or_numbers(tmp_path: Path, kind: type) -> None:
    names = {0: "cat", 1: "ant", 2: "bee"} if kind is str else {0: 7, 1: 3, 2: 5}
    entries = fakes.karpathy_entries(COUNTS, label=lambda row: names[row % 3])
    fakes.write_karpathy(tmp_path, "mine", entries)
    corpus = Karpathy("mine").read(tmp_path)
    assert corpus.labels is not None and not corpus.labels.multi_label
    assert corpus.labels.names == tuple(sorted(str(name) for name in names.values()))
    assert [corpus.labels.names[i] for i in corpus.labels.values] == [
        str(names[row % 3]) for row in range(11)
    ]
    assert corpus.labels.rule == "labels of dataset_mine.json"


def test_several_labels_become_multi_hot(tmp_path: Path) -> None:
    sets = [["sea", "boat"], ["sea"], ["dog"]]
    entries = fakes.karpathy_entries(COUNTS, labels=lambda row: sets[row % 3])
    fakes.write_karpathy(tmp_path, "mine", entries)
    corpus = Karpathy("mine").read(tmp_path)
    assert (
        corpus.labels is not None
        and corpus.labels.multi_label
        and corpus.labels.names == ("boat", "dog", "sea")
    )
    for row, found in enumerate(corpus.labels.values):
        assert {corpus.labels.names[i] for i in np.flatnonzero(found)} == set(sets[row % 3])


def test_label_and_labels_may_be_mixed(tmp_path: Path) -> None:
    entries = fakes.karpathy_entries(COUNTS, label=lambda row: "dog")
    del entries[4]["label"]
    entries[4]["labels"] = ["dog", "sea"]
    fakes.write_karpathy(tmp_path, "mine", entries)
    labels = Karpathy("mine").read(tmp_path).labels
    assert labels is not None and labels.values.sum(axis=1).tolist() == [1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("field", ["label", "labels"])
@pytest.mark.parametrize("missing", ["absent", "null"])
def test_labels_on_some_images_only(tmp_path: Path, field: str, missing: str) -> None:
    entries = fakes.karpathy_entries(COUNTS)
    for entry in entries:
        entry[field] = "dog" if field == "label" else ["dog"]
    if missing == "absent":
        del entries[5][field]
    else:
        entries[5][field] = None
    folder = fakes.write_karpathy(tmp_path, "mine", entries)
    assert complaint(tmp_path) == (
        f"{folder / 'dataset_mine.json'}: images[5] has no label but others do; label all images or none"
    )


# ---- what goes wrong --------------------------------------------------------------------------------------


def test_missing_root_folder_and_file_say_what_belongs_there(tmp_path: Path) -> None:
    assert complaint(tmp_path / "nowhere") == (
        f"{tmp_path / 'nowhere'} is missing; set DATA_ROOT to the folder that holds 'mine/' with "
        "dataset_*.json and images/"
    )
    assert complaint(tmp_path) == f"{tmp_path / 'mine'} is missing; put dataset_*.json and images/ there"
    (tmp_path / "mine").mkdir()
    with pytest.raises(
        MissingInput, match=r"dataset\*\.json is missing; put the Karpathy split's JSON there"
    ):
        Karpathy("mine").read(tmp_path)


def test_two_files_to_choose_from(tmp_path: Path) -> None:
    folder = fakes.write_karpathy(tmp_path, "mine")
    (folder / "dataset_old.json").write_text("{}")
    assert complaint(tmp_path) == (
        f"{folder} holds several dataset*.json (dataset_mine.json, dataset_old.json); keep one"
    )


def test_which_folders_are_in_this_layout(tmp_path: Path) -> None:
    folder = fakes.write_karpathy(tmp_path, "mine")
    assert is_karpathy_folder(folder)
    assert not is_karpathy_folder(tmp_path) and not is_karpathy_folder(folder / "dataset_mine.json")


def field(number: int, name: str, value: Any) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        entries[number][name] = value

    return change


def sentence(number: int, k: int, value: Any) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        entries[number]["sentences"][k] = value

    return change


BROKEN: dict[str, tuple[Callable[[Entries], None], str]] = {
    "no file name": (field(2, "filename", None), "images[2].filename is None; it must be a non-empty str"),
    "file name is a number": (field(2, "filename", 7), "images[2].filename is 7; it must be a non-empty str"),
    "no split": (field(3, "split", ""), "images[3].split is ''; it must be a non-empty str"),
    "unknown split": (field(3, "split", "dev"), "unknown split 'dev'; use train, val or test"),
    "no sentences": (field(4, "sentences", []), "images[4].sentences is []; it must be a non-empty list"),
    "sentence is text": (sentence(4, 1, "A dog."), "images[4].sentences[1] has no text field 'raw'; add the"),
    "tokens only": (sentence(0, 0, {"tokens": ["a"]}), "images[0].sentences[0] has no text field 'raw'"),
    "empty caption": (sentence(5, 1, {"raw": " "}), "caption '0005.jpg#1' is empty; write it or drop it"),
    "half a character": (sentence(5, 0, {"raw": "x \ud83c"}), "caption '0005.jpg#0' is not valid Unicode"),
    "image in two splits": (
        field(8, "filename", "0001.jpg"),
        "image '0001.jpg' is in splits 'train' and 'test'; keep it once",
    ),
    "image twice": (
        field(2, "filename", "0001.jpg"),
        "image '0001.jpg' is in split 'train' twice; keep it once",
    ),
    "missing image": (
        field(6, "filename", "gone.jpg"),
        "gone.jpg is missing; put the data set's images there",
    ),
}


@pytest.mark.parametrize(("change", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_bad_entry_is_named(tmp_path: Path, change: Callable[[Entries], None], expected: str) -> None:
    entries = fakes.karpathy_entries(COUNTS)
    folder = fakes.write_karpathy(tmp_path, "mine", entries)
    change(entries)
    fakes.write_json(folder, entries)
    message = complaint(tmp_path)
    assert expected in message and message.startswith(str(folder))


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split(tmp_path: Path, split: str) -> None:
    fakes.write_karpathy(tmp_path, "mine", fakes.karpathy_entries({**COUNTS, split: 0}))
    assert f"the split '{split}' is empty; assign at least one image to '{split}'" in complaint(tmp_path)


def test_nothing_but_restval(tmp_path: Path) -> None:
    fakes.write_karpathy(tmp_path, "mine", fakes.karpathy_entries({"restval": 3}))
    assert "the split 'train' is empty" in complaint(tmp_path, use_restval=False)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"images": [', "is not valid JSON (line 1: "),
        ('{"images": [{"raw": "Zürich"}]}'.encode("latin-1"), "is not UTF-8 (byte 22); save it as UTF-8"),
        (b"[]", "has no list 'images' of objects; it must be a Karpathy split file"),
        (b'{"images": []}', "has no list 'images' of objects"),
        (b'{"images": [1, 2]}', "has no list 'images' of objects"),
        (b'{"annotations": [{}]}', "has no list 'images' of objects"),
    ],
)
def test_a_file_that_is_no_karpathy_json(tmp_path: Path, content: bytes, expected: str) -> None:
    path = fakes.write_karpathy(tmp_path, "mine", images=False) / "dataset_mine.json"
    path.write_bytes(content)
    assert complaint(tmp_path).startswith(f"{path} {expected}")


def test_a_byte_order_mark_and_any_language_are_welcome(tmp_path: Path) -> None:
    entries = fakes.karpathy_entries(COUNTS)
    entries[0]["sentences"][0]["raw"] = "Zürich 東京 🏠"
    path = fakes.write_karpathy(tmp_path, "mine", entries) / "dataset_mine.json"
    path.write_text(json.dumps({"images": entries}, ensure_ascii=False), encoding="utf-8-sig")
    corpus = Karpathy("mine").read(tmp_path)
    assert corpus.captions is not None and corpus.captions[0] == "Zürich 東京 🏠"
    assert corpus.fingerprint


@pytest.mark.parametrize("ids", ["none", "names", "stems", "backwards"])
def test_features_of_ones_own_stand_beside_the_json(tmp_path: Path, ids: str) -> None:
    folder = fakes.write_karpathy(tmp_path, "mine", images=False)
    names = [entry["filename"] for entry in json.loads((folder / "dataset_mine.json").read_text())["images"]]
    features = np.random.default_rng(0).normal(size=(len(names), 6)).astype(np.float32)
    order = np.arange(len(names))
    if ids != "none":
        order = order[::-1] if ids == "backwards" else order
        lines = [names[row].removesuffix(".jpg") if ids == "stems" else names[row] for row in order]
        (folder / "features_ids.txt").write_text("\n".join(lines) + "\n\n")
    np.save(folder / "features.npy", features[order])
    (folder / "images").rmdir()
    corpus = Karpathy("mine").read(tmp_path)
    assert corpus.images is None and corpus.image_features is not None
    assert np.array_equal(corpus.image_features, features)


def test_features_that_do_not_belong_to_the_images_are_refused(tmp_path: Path) -> None:
    folder = fakes.write_karpathy(tmp_path, "mine")
    np.save(folder / "features.npy", np.ones((20, 6), np.float32))
    with pytest.raises(BadInput, match=r"features\.npy has 20 rows, but 21 are needed"):
        Karpathy("mine").read(tmp_path)
    ids = folder / "features_ids.txt"
    ids.write_text("\n".join(f"{row:04d}.jpg" for row in range(20)))
    with pytest.raises(BadInput, match=r"features_ids\.txt does not name '0020\.jpg'; add it and its row"):
        Karpathy("mine").read(tmp_path)
    ids.write_text("\n".join(["0000.jpg", "0000.png", *(f"{row:04d}.jpg" for row in range(2, 20))]))
    with pytest.raises(BadInput, match=r"features_ids\.txt names '0000\.jpg' twice"):
        Karpathy("mine").read(tmp_path)


def test_features_of_ones_own_are_used_without_a_network(tmp_path: Path) -> None:
    folder = fakes.write_karpathy(tmp_path, "mine", images=False)
    settings = dataset_settings("mine", tmp_path)
    assert settings["small"]["data"]["images"]["network"] == "mobilenet_v2"
    np.save(folder / "features.npy", np.ones((21, 6), np.float32))
    settings = dataset_settings("mine", tmp_path)
    assert "network" not in settings["small"]["data"]["images"]


def test_positives_are_named_with_or_without_their_folder(tmp_path: Path) -> None:
    entries = fakes.karpathy_entries(COUNTS)
    tested = [entry for entry in entries if entry["split"] == "test"]
    for folder, entry in zip("abb", tested, strict=True):
        entry["filepath"] = folder
    tested[0]["filename"] = tested[1]["filename"] = "2.png"
    tested[2]["filename"] = "3.png"
    folder = fakes.write_karpathy(tmp_path, "mine", entries, images=False)

    def read(line: str) -> Any:
        (folder / "positives.csv").write_text(f"image,caption\n{line}", encoding="utf-8")
        return Karpathy("mine", check_images=False).read(tmp_path)

    assert read("3.png,a/2.png#0").positives == (("b/3.png", "a/2.png#0"),)
    assert read("a/2.png,3.png#0").positives == (("a/2.png", "b/3.png#0"),)
    train = entries[0]["filename"]
    for line, fault in {
        "2.png,3.png#0": "image '2.png', which may be a/2.png or b/2.png; add its folder",
        "3.png,2.png#0": "caption '2.png#0', which may be a/2.png#0 or b/2.png#0; add its folder",
        "4.png,3.png#0": "image '4.png', which is not in the data set; correct it",
        f"{train},3.png#0": f"image '{train}', which is not in the test split; remove the pair",
        f"3.png,{train}#0": f"caption '{train}#0', which is not in the test split; remove the pair",
    }.items():
        with pytest.raises(BadInput) as raised:
            read(line)
        assert str(raised.value) == f"{folder}/positives.csv: pair 0 names {fault}"
    with pytest.raises(BadInput, match=r"positives\.csv lists no pairs"):
        read("")
