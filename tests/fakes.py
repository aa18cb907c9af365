"""Tiny generated fakes of every data set's files, in the formats that people have them in; all of it seeded.

Each ``write_*`` makes one data set below a data root and returns its folder. The defaults are complete and
valid; a test breaks the one thing that it is about.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from crossmodal_bench.data import Corpus
from crossmodal_bench.jobs import experiments

Arrays = Mapping[str, NDArray[Any]]
COLOURS = ("red", "green", "blue", "white")
THINGS = ("dog", "house", "tree", "boat", "horse")


def pixels(row: int, height: int = 20, width: int = 24) -> NDArray[np.uint8]:
    """(height, width, 3) noise around one grey, another for each row."""
    noise = np.random.default_rng(row).integers(0, 40, size=(height, width, 3))
    return (noise + 11 * (row % 19)).astype(np.uint8)


def caption(row: int, k: int = 0) -> str:
    """A sentence with a colour and a thing that depend on the row."""
    return f"A {COLOURS[row % 4]} {THINGS[row % 5]} stands near object {k} in picture number {row}."


def karpathy_entries(
    counts: Mapping[str, int],
    per_image: int | Callable[[int], int] = 2,
    suffix: str = ".jpg",
    label: Callable[[int], Any] | None = None,
    labels: Callable[[int], list[Any]] | None = None,
    filepath: Callable[[str, int], str] | None = None,
) -> list[dict[str, Any]]:
    """The list ``images`` of a Karpathy JSON, split after split, with the fields that such files have."""
    entries: list[dict[str, Any]] = []
    for split, count in counts.items():
        for _ in range(count):
            row = len(entries)
            n = per_image if isinstance(per_image, int) else per_image(row)
            entry: dict[str, Any] = {
                "filename": f"{row:04d}{suffix}",
                "imgid": row,
                "split": split,
                "sentids": [],
                "sentences": [{"raw": caption(row, k), "tokens": caption(row, k).split()} for k in range(n)],
            }
            if filepath is not None:
                entry["filepath"] = filepath(split, row)
            if label is not None:
                entry["label"] = label(row)
            if labels is not None:
                entry["labels"] = labels(row)
            entries.append(entry)
    return entries


def write_karpathy(
    root: Path,
    name: str = "flickr8k",
    entries: list[dict[str, Any]] | None = None,
    images: bool = True,
) -> Path:
    """``root/name`` with ``dataset_<name>.json`` and ``images/`` (JPEG or PNG, by each entry's file name)."""
    folder = root / name
    entries = karpathy_entries({"train": 12, "val": 4, "test": 5}) if entries is None else entries
    (folder / "images").mkdir(parents=True)
    write_json(folder, entries)
    if images:
        for row, entry in enumerate(entries):
            path = folder / "images" / entry.get("filepath", "") / entry["filename"]
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels(row)).save(path)
    return folder


def write_json(folder: Path, entries: list[dict[str, Any]]) -> Path:
    """The data set's JSON alone (written anew, after an entry was changed)."""
    path = folder / f"dataset_{folder.name}.json"
    path.write_text(json.dumps({"images": entries, "dataset": folder.name}), encoding="utf-8")
    return path


def write_coco(root: Path, train: int = 12, restval: int = 6, val: int = 3, test: int = 4) -> Path:
    """MS-COCO as Karpathy split it: ``filepath`` train2014 for train, val2014 for restval, val and test."""
    counts = {"train": train, "restval": restval, "val": val, "test": test}
    entries = karpathy_entries(
        counts, filepath=lambda split, _: "train2014" if split == "train" else "val2014"
    )
    return write_karpathy(root, "coco", entries)


PRECOMPUTED = {"train": range(0, 6), "dev": range(6, 8), "test": range(8, 11)}


def regions(row: int, count: int = 4, dim: int = 7) -> NDArray[np.float32]:
    """(count, dim) values, another array for each row."""
    return np.random.default_rng([row, 36]).random((count, dim), dtype=np.float32)


def write_precomputed(
    root: Path,
    name: str = "f30k_precomp",
    rows: Mapping[str, Sequence[int]] | None = None,
    per_image: int | Callable[[int], int] = 5,
    repeated: bool = False,
    ids: Literal["image", "caption"] | None = None,
) -> Path:
    """``root/name`` with ``{split}_ims.npy``, ``{split}_caps.txt`` and, if asked for, ``{split}_ids.txt``.

    Row r has ``regions(r)`` and the captions ``caption(r, k)`` in lower case without their full stops;
    ``repeated``: an image's row stands there once for each of its captions.
    """
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for split, chosen in (PRECOMPUTED if rows is None else rows).items():
        counts = [per_image if isinstance(per_image, int) else per_image(row) for row in chosen]
        found = np.stack([regions(row) for row in chosen])
        np.save(folder / f"{split}_ims.npy", found.repeat(counts, axis=0) if repeated else found)
        lines = [caption(r, k).lower()[:-1] for r, n in zip(chosen, counts, strict=True) for k in range(n)]
        (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if ids is not None:
            times = counts if ids == "caption" else [1] * len(counts)
            names = [f"{row:04d}.jpg\n" * n for row, n in zip(chosen, times, strict=True)]
            (folder / f"{split}_ids.txt").write_text("".join(names), encoding="utf-8")
    return folder


def wikipedia_arrays(
    train: int, test: int, image_dim: int = 16, text_dim: int = 6
) -> dict[str, NDArray[np.float64]]:
    """``I_tr``, ``T_tr``, ``I_te``, ``T_te``: histograms, as SIFT words and topics are."""
    rng = np.random.default_rng(0)
    arrays = {
        "I_tr": rng.random((train, image_dim)),
        "T_tr": rng.random((train, text_dim)),
        "I_te": rng.random((test, image_dim)),
        "T_te": rng.random((test, text_dim)),
    }
    return {key: value / value.sum(axis=1, keepdims=True) for key, value in arrays.items()}


def write_wikipedia(
    root: Path,
    train: int = 22,
    test: int = 11,
    stem: str = "raw_features",
    suffix: str = ".mat",
    arrays: Arrays | None = None,
) -> Path:
    """``root/wikipedia``: the two lists and ``<stem>.mat`` or ``.npz``; ten items have every category."""
    folder = root / "wikipedia"
    folder.mkdir(parents=True, exist_ok=True)
    for name, start, count in (("trainset", 0, train), ("testset", train, test)):
        lines = [f"text-{i:05d} image{i:06d} {i % 10 + 1}" for i in range(start, start + count)]
        (folder / f"{name}_txt_img_cat.list").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_archive(folder / f"{stem}{suffix}", wikipedia_arrays(train, test) if arrays is None else arrays)
    return folder


def feature_arrays(
    counts: Mapping[str, int], classes: int = 4, image_dim: int = 12, text_dim: int = 7
) -> dict[str, NDArray[Any]]:
    """``{split}_{images,texts,labels}``; features depend on the class, so that a model can learn."""
    rng = np.random.default_rng(1)
    centres_v, centres_t = rng.normal(size=(classes, image_dim)), rng.normal(size=(classes, text_dim))
    arrays: dict[str, NDArray[Any]] = {}
    for split, count in counts.items():
        labels = np.arange(count) % classes
        arrays[f"{split}_images"] = centres_v[labels] + 0.3 * rng.normal(size=(count, image_dim))
        arrays[f"{split}_texts"] = centres_t[labels] + 0.3 * rng.normal(size=(count, text_dim))
        arrays[f"{split}_labels"] = labels + 1
    return arrays


def write_feature_arrays(
    root: Path,
    name: str = "pascal_sentence",
    suffix: str = ".npy",
    arrays: Arrays | None = None,
    key: str | None = None,
) -> Path:
    """``root/name`` with one file per array; in an archive under its file's name, or under ``key``."""
    folder = root / name
    folder.mkdir(parents=True)
    for stem, array in (feature_arrays({"train": 20, "test": 8}) if arrays is None else arrays).items():
        if suffix == ".npy":
            np.save(folder / f"{stem}.npy", array)
        else:
            write_archive(folder / f"{stem}{suffix}", {key or stem: array})
    return folder


def cuhk_pedes_entries(
    counts: Mapping[str, int], per_identity: int | Callable[[int], int] = 2
) -> list[dict[str, Any]]:
    """The list of ``reid_raw.json``: ``counts`` persons per split, several images of each.

    Persons are numbered from 1; the images of one do not follow each other; each has two captions.
    """
    splits = [split for split, count in counts.items() for _ in range(count)]
    images = [per_identity if isinstance(per_identity, int) else per_identity(i) for i in range(len(splits))]
    entries: list[dict[str, Any]] = []
    for k in range(max(images)):
        for person, split in enumerate(splits):
            if k < images[person]:
                captions = [caption(len(entries), j) for j in range(2)]
                entry = {
                    "split": split,
                    "captions": captions,
                    "file_path": f"cam_{'ab'[k % 2]}/{person + 1:03d}_{k}.png",
                    "processed_tokens": [one.lower().split() for one in captions],
                    "id": person + 1,
                }
                entries.append(entry)
    return entries


def write_cuhk_pedes(
    root: Path,
    entries: list[dict[str, Any]] | None = None,
    name: str = "reid_raw.json",
    images: str = "imgs",
    folder_name: str = "cuhk_pedes",
) -> Path:
    """``root/cuhk_pedes`` with one annotation file and upright pictures."""
    folder = root / folder_name
    if entries is None:
        entries = cuhk_pedes_entries({"train": 4, "val": 3, "test": 3}, lambda person: 2 + (person == 1))
    folder.mkdir(parents=True)
    write_annotations(folder, entries, name)
    for row, entry in enumerate(entries):
        path = folder / images / entry["file_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(row, height=24, width=10)).save(path)
    return folder


def write_icfg_pedes(root: Path, folder: str = "icfg_pedes") -> Path:
    """ICFG-PEDES: one caption an image, no validation split."""
    entries = cuhk_pedes_entries({"train": 6, "test": 3})
    for entry in entries:
        del entry["captions"][1:]
    return write_cuhk_pedes(root, entries, "ICFG-PEDES.json", folder_name=folder)


def write_rstpreid(root: Path, folder: str = "rstpreid") -> Path:
    """RSTPReid: the path stands in ``img_path``."""
    entries = cuhk_pedes_entries({"train": 4, "val": 2, "test": 3})
    written = write_cuhk_pedes(root, entries, "data_captions.json", folder_name=folder)
    for entry in entries:
        entry["img_path"] = entry.pop("file_path")
    write_annotations(written, entries, "data_captions.json")
    return written


def write_annotations(folder: Path, entries: list[dict[str, Any]], name: str = "reid_raw.json") -> Path:
    """The annotation file of CUHK-PEDES alone; ``caption_all.json`` has no field ``split``."""
    if name == "caption_all.json":
        entries = [{key: value for key, value in entry.items() if key != "split"} for entry in entries]
    path = folder / name
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


BIRDS = {
    "train": ("004.Groove_billed_Ani", "002.Laysan_Albatross", "009.Brewer_Blackbird"),
    "val": ("001.Black_footed_Albatross", "007.Parakeet_Auklet", "010.Red_winged_Blackbird"),
    "test": ("003.Sooty_Albatross", "005.Crested_Auklet", "008.Rhinoceros_Auklet"),
}
BLOSSOMS = {
    "train": ("class_00003", "class_00001", "class_00009"),
    "val": ("class_00002", "class_00005", "class_00006"),
    "test": ("class_00004", "class_00007", "class_00008"),
}


def write_cub(root: Path) -> Path:
    """``root/cub``: the classes BIRDS, pictures in a folder for each class."""
    return _write_class_folders(root / "cub", BIRDS, lambda name, image: f"images/{name}/{image}.jpg")


def write_flowers(root: Path) -> Path:
    """``root/flowers``: the classes BLOSSOMS, all pictures in one folder."""
    return _write_class_folders(root / "flowers", BLOSSOMS, lambda _, image: f"jpg/{image}.jpg")


def _write_class_folders(
    folder: Path, classes: Mapping[str, Sequence[str]], picture: Callable[[str, str], str]
) -> Path:
    """Two images of each class, numbered in the lists' order; the first has three captions, others two."""
    folder.mkdir(parents=True)
    row = 0
    for split, names in classes.items():
        (folder / f"{split}classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        for name in names:
            (folder / "text_c10" / name).mkdir(parents=True)
            for _ in range(2):
                row += 1
                image = f"image_{row:05d}"
                lines = "\n".join(caption(row, k) for k in range(3 if row == 1 else 2))
                (folder / "text_c10" / name / f"{image}.txt").write_text(f"{lines}\n", encoding="utf-8")
                path = folder / picture(name, image)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels(row)).save(path)
    return folder


def write_archive(path: Path, arrays: Arrays) -> None:
    """``.npz``, or ``.mat`` as MATLAB's ``save -v7`` writes it: a one-dimensional array becomes (1, n)."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        scipy.io.savemat(path, dict(arrays), do_compression=True)


def write_matlab_73(path: Path) -> None:
    """The header of a MATLAB 7.3 file (HDF5 behind it), which is all that SciPy looks at."""
    text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 ."
    path.write_bytes(text.ljust(124, b" ") + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n".ljust(512, b"\x00"))


def truncate(path: Path, share: float = 0.6) -> Path:
    """Cut a file off, as an interrupted copy does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def corpus(
    splits: Sequence[str] = ("train",) * 6 + ("val",) * 2 + ("test",) * 3,
    per_image: Sequence[int] | int = 2,
    **changes: Any,
) -> Corpus:
    """A corpus of sentences without files; ``per_image`` may differ from image to image."""
    n = len(splits)
    counts = np.full(n, per_image) if isinstance(per_image, int) else np.array(per_image)
    owners = np.repeat(np.arange(n), counts)
    within = np.concatenate([np.arange(count) for count in counts])
    fields: dict[str, Any] = {
        "name": "fake",
        "image_ids": tuple(f"i{row}" for row in range(n)),
        "caption_ids": tuple(f"i{row}#{k}" for row, k in zip(owners, within, strict=True)),
        "caption_image": owners,
        "split": np.array(splits, dtype=np.str_),
        "captions": tuple(caption(int(row), int(k)) for row, k in zip(owners, within, strict=True)),
    }
    return Corpus(**{**fields, **changes})


def replaced(captions: Sequence[str] | None, rows: NDArray[np.int64], text: str) -> tuple[str, ...]:
    """The captions with ``text`` in some rows."""
    assert captions is not None
    chosen = set(rows.tolist())
    return tuple(text if row in chosen else old for row, old in enumerate(captions))


def write_dataset(root: Path, name: str) -> dict[str, Any]:
    """The files of the data set that ``experiments/datasets/<name>.yaml`` reads.

    Returns the constructor arguments of its reader that must differ for so small a fake.
    """
    if name in ("coco", "acmr_coco"):
        write_coco(root)
        return {"train": 9, "test": 3} if name == "acmr_coco" else {}
    if name in ("flickr8k", "flickr30k"):
        write_karpathy(root, name)
    elif name in ("pascal_sentence", "nuswide10k"):
        write_feature_arrays(root, name, ".npy" if name == "nuswide10k" else ".mat")
    elif name in ("wikipedia", "wikipedia-draws", "wikipedia_deep"):
        write_wikipedia(root, stem="deep_features" if name == "wikipedia_deep" else "raw_features")
    elif name in ("cuhk_pedes", "icfg_pedes", "rstpreid", "cub", "flowers"):
        {
            "cuhk_pedes": write_cuhk_pedes,
            "icfg_pedes": write_icfg_pedes,
            "rstpreid": write_rstpreid,
            "cub": write_cub,
            "flowers": write_flowers,
        }[name](root)
    elif name != "synthetic":
        _write_by_reader(root, name)
    return {"size": 20} if name == "synthetic" else {}


def _write_by_reader(root: Path, name: str) -> None:
    """The fake that a data set's reader writes; skips the test where it writes none."""
    chosen = experiments.dataset_settings(name, root)["data"]["dataset"]
    module, _, reader = chosen["class_path"].rpartition(".")
    try:
        getattr(import_module(module), reader)(**chosen.get("init_args", {})).write_fake(root)
    except NotImplementedError:
        pytest.skip(f"the reader of '{name}' has no write_fake")
