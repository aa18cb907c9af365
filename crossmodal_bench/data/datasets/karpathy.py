"""Karpathy's layout: ``dataset*.json`` next to ``images/``; Flickr30K, Flickr8K, MS-COCO, or any folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.files import is_path_below, read_json, read_text, shown
from crossmodal_bench.data.corpus import Corpus, Labels
from crossmodal_bench.data.datasets.attached import attach_regions
from crossmodal_bench.data.datasets.base import DatasetReader, folder_below, split_names
from crossmodal_bench.data.datasets.precomputed import familiar_folder, precomputed_folder
from crossmodal_bench.data.files.arrays import load_array
from crossmodal_bench.data.files.pairs import read_pair_table
from crossmodal_bench.data.images import ImageFiles

FEATURES = "features.npy"
FEATURE_IDS = "features_ids.txt"
POSITIVES = "positives.csv"
MOST_LABELS = 4096
"""Distinct values of ``labels``: every image stores a number for each of them."""


class Karpathy(DatasetReader):
    """A folder with ``dataset*.json`` and ``images/``, and optionally regions in a folder ``*_precomp``.

    Your own image features are next to the JSON in ``features.npy``, with one row for each entry of
    ``images``, or for each line of ``features_ids.txt``, which lists their file names (with or without folder
    and suffix) in the order of the rows.

    Further positives of the test images are next to it in ``positives.csv``: lines of ``image,caption``, each
    with an image's file name and a caption's ``<file name>#<number>`` or ``sentid``. A file name may omit its
    folder if it is unique without it.

    Each entry of ``images`` has ``filename``, ``split``, ``sentences`` (``raw``, optionally ``sentid``),
    optionally ``filepath`` (a folder below ``images/``) and ``label`` (a name or a number) or ``labels`` (a
    list of them).

    Args:
        folder: name below the data root.
        use_restval: whether COCO's ``restval`` images belong to train (as in all four papers).
        check_images: whether every image file must exist; not needed for runs that only use features, nor
            for a folder with regions or features and no ``images/``.
    """

    def __init__(self, folder: str, use_restval: bool = True, check_images: bool = True) -> None:
        self.folder = folder
        self.use_restval = use_restval
        self.check_images = check_images

    def without_pictures(self) -> Karpathy:
        """A reader of the JSON alone."""
        return Karpathy(self.folder, use_restval=self.use_restval, check_images=False)

    def read(self, root: Path) -> Corpus:
        """The corpus in ``root/folder``, with the regions of a folder ``*_precomp`` if there is one.

        Raises:
            BadInput: a missing or damaged file, an entry without a required field, labels for only some
                images, or regions that cannot be matched to the images.
        """
        folder = folder_below(root, self.folder, "dataset_*.json and images/")
        path = _json_file(folder)
        listed = _entries(path)
        entries = [entry for entry in listed if self.use_restval or entry.get("split") != "restval"]
        names: list[str] = []
        splits: list[str] = []
        captions: list[str] = []
        caption_ids: list[str] = []
        caption_keys: list[str] = []
        caption_image: list[int] = []
        for number, entry in enumerate(entries):
            name = _name(entry, path, number)
            split = _field(entry, "split", str, path, number)
            sentences = _field(entry, "sentences", list, path, number)
            names.append(name)
            splits.append("train" if split == "restval" else split)
            for k, sentence in enumerate(sentences):
                raw = sentence.get("raw") if isinstance(sentence, dict) else None
                if not isinstance(raw, str):
                    raise BadInput(
                        f"{path}: images[{number}].sentences[{k}] has no text field 'raw'; add the caption"
                    )
                captions.append(raw)
                caption_ids.append(f"{name}#{k}")
                if isinstance(sentence.get("sentid"), int):
                    caption_keys.append(str(sentence["sentid"]))
                caption_image.append(number)
        images = folder / "images"
        regions = precomputed_folder(folder) or familiar_folder(root, self.folder)
        features = _features(folder, listed, entries, names)
        has_pictures = self.check_images and (images.is_dir() or (regions is None and features is None))
        keys = tuple(caption_keys) if len(caption_keys) == len(captions) else None
        corpus = Corpus(
            name=self.folder,
            image_ids=tuple(names),
            caption_ids=tuple(caption_ids),
            caption_image=np.array(caption_image, dtype=np.int64),
            split=split_names(splits, path),
            captions=tuple(captions),
            caption_keys=keys,
            labels=_labels(entries, path),
            images=ImageFiles.within(images, names) if has_pictures else None,
            image_features=features,
            source=str(path),
            positives=_positives(folder / POSITIVES, names, splits, caption_ids, caption_image, keys),
        )
        return corpus if regions is None else attach_regions(corpus, regions, every_row=self.use_restval)


def has_features(folder: Path) -> bool:
    """Whether a folder in this layout has features of its images."""
    return (folder / FEATURES).is_file()


def is_karpathy_folder(folder: Path) -> bool:
    """Whether a folder looks like this layout."""
    return folder.is_dir() and any(folder.glob("dataset*.json"))


def _json_file(folder: Path) -> Path:
    paths = sorted(folder.glob("dataset*.json"))
    if not paths:
        raise MissingInput(
            f"{folder / 'dataset*.json'} is missing; put the Karpathy split's JSON there "
            "(caption_datasets.zip of the neuraltalk2 release has those of Flickr8K, Flickr30K and COCO)"
        )
    if len(paths) > 1:
        several = ", ".join(path.name for path in paths)
        raise BadInput(f"{folder} holds several dataset*.json ({several}); keep one")
    return paths[0]


def _features(
    folder: Path, listed: list[dict[str, Any]], used: list[dict[str, Any]], names: list[str]
) -> NDArray[np.float32] | None:
    """(N, D) in the order of ``names``, which are those of ``used``; None if there is no such file.

    Raises:
        BadInput: the number of rows does not match the images, a duplicate id, or an image without a row.
    """
    path = folder / FEATURES
    if not path.is_file():
        return None
    ids = folder / FEATURE_IDS
    if not ids.is_file():
        array = load_array(path, ndim=2, rows=len(listed))
        position = {id(entry): row for row, entry in enumerate(listed)}
        rows = [position[id(entry)] for entry in used]
        return np.asarray(array[rows], dtype=np.float32)
    lines = [line.strip() for line in read_text(ids).rstrip().split("\n")]
    array = load_array(path, ndim=2, rows=len(lines))
    row_of = {_without_suffix(line): row for row, line in enumerate(lines)}
    if len(row_of) < len(lines):
        twice = next(line for row, line in enumerate(lines) if row_of[_without_suffix(line)] != row)
        raise BadInput(f"{ids} names '{twice}' twice; give each image one row")
    found = [row_of.get(_without_suffix(name), row_of.get(PurePosixPath(name).stem)) for name in names]
    if None in found:
        lost = names[found.index(None)]
        raise BadInput(f"{ids} does not name '{lost}'; add it and its row of {FEATURES}, or drop the image")
    return np.asarray(array[np.array(found, dtype=np.int64)], dtype=np.float32)


def _positives(
    path: Path,
    names: list[str],
    splits: list[str],
    caption_ids: list[str],
    caption_image: list[int],
    caption_keys: tuple[str, ...] | None,
) -> tuple[tuple[str, str], ...] | None:
    """The pairs of a file, each image and caption by its id; None if there is no such file.

    Args:
        path: the file.
        names: of the images.
        splits: of the images.
        caption_ids: ``<image>#<number>``.
        caption_image: each caption's image.
        caption_keys: further names of the captions.

    Raises:
        BadInput: a file that is unreadable or lists no pairs, an ambiguous name, or one that is not in the
            test split.
    """
    if not path.exists():
        return None
    tested = {
        "image": {name for name, split in zip(names, splits, strict=True) if split == "test"},
        "caption": {
            caption for caption, row in zip(caption_ids, caption_image, strict=True) if splits[row] == "test"
        },
    }
    images, captions = _by_name(names), _by_name(caption_ids, caption_keys or ())
    pairs = []
    for number, (image, caption) in enumerate(read_pair_table(path)):
        ids = []
        for what, written, known in (("image", image, images), ("caption", caption, captions)):
            meant = known.get(written, [])
            says = f"{path}: pair {number} names {what} {shown(written)}, which"
            if not meant:
                raise BadInput(f"{says} is not in the data set; correct it")
            if len(meant) > 1:
                raise BadInput(f"{says} may be {meant[0]} or {meant[1]}; add its folder")
            if meant[0] not in tested[what]:
                raise BadInput(f"{says} is not in the test split; remove the pair")
            ids += meant
        pairs.append((ids[0], ids[1]))
    if not pairs:
        raise BadInput(f"{path} lists no pairs; write image,caption on each line, or delete the file")
    return tuple(dict.fromkeys(pairs))


def _by_name(ids: Sequence[str], keys: Sequence[str] = ()) -> dict[str, list[str]]:
    """The ids that a name in the file can refer to: the id itself, its key, or the id without its folder."""
    meant: dict[str, list[str]] = defaultdict(list)
    for key, name in zip(keys, ids, strict=False):
        meant[key].append(name)
    for name in ids:
        base = PurePosixPath(name).name
        if base != name:
            meant[base].append(name)
    # Full ids are unique, and take precedence over shortened ones.
    return {**meant, **{name: [name] for name in ids}}


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name


def _entries(path: Path) -> list[dict[str, Any]]:
    content = read_json(path)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise BadInput(f"{path} has no list 'images' of objects; it must be a Karpathy split file")
    return entries


def _name(entry: dict[str, Any], path: Path, number: int) -> str:
    name: str = _field(entry, "filename", str, path, number)
    if entry.get("filepath"):
        name = f"{_field(entry, 'filepath', str, path, number)}/{name}"
    if not is_path_below(name):
        raise BadInput(
            f"{path}: images[{number}]: '{name}' leads out of the image folder; give a path below it"
        )
    return name


def _field(entry: dict[str, Any], name: str, kind: type, path: Path, number: int) -> Any:
    value = entry.get(name)
    if not isinstance(value, kind) or not value:
        raise BadInput(
            f"{path}: images[{number}].{name} is {shown(value)}; it must be a non-empty {kind.__name__}"
        )
    return value


def _labels(entries: list[dict[str, Any]], path: Path) -> Labels | None:
    """The images' labels, with sorted names; None if no image has any.

    They are multi-hot if any image has the field ``labels``.
    """
    unlabelled = [
        number
        for number, entry in enumerate(entries)
        if entry.get("label") is None and entry.get("labels") is None
    ]
    if len(unlabelled) == len(entries):
        return None
    if unlabelled:
        raise BadInput(
            f"{path}: images[{unlabelled[0]}] has no label but others do; label all images or none"
        )
    names_of = [_label_names(entry, path, number) for number, entry in enumerate(entries)]
    names = tuple(sorted(set(chain.from_iterable(names_of))))
    column = {name: i for i, name in enumerate(names)}
    rule = f"labels of {path.name}"
    if all(entry.get("labels") is None for entry in entries):
        indices = np.array([column[name] for (name,) in names_of], dtype=np.int64)
        return Labels(indices, names, rule)
    if len(names) > MOST_LABELS:
        raise BadInput(
            f"{path}: the field 'labels' has {len(names)} distinct values; use at most {MOST_LABELS}"
        )
    multi_hot = np.zeros((len(entries), len(names)), dtype=np.int64)
    for row, names_of_image in enumerate(names_of):
        multi_hot[row, [column[name] for name in names_of_image]] = 1
    return Labels(multi_hot, names, rule)


def _label_names(entry: dict[str, Any], path: Path, number: int) -> list[str]:
    """The names in the field ``labels``, which may be a single one; without it, that in ``label``."""
    value = entry["label"] if entry.get("labels") is None else entry["labels"]
    values = value if isinstance(value, list) and entry.get("labels") is not None else [value]
    return [_label_name(label, path, number) for label in values]


def _label_name(value: Any, path: Path, number: int) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadInput(f"{path}: images[{number}] has the label {shown(value)}; give a name or a number")
    # Pandas writes integers as floats if a column ever had gaps.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
