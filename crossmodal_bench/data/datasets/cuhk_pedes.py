"""CUHK-PEDES (Li et al., CVPR 2017): several images of each person, two sentences for most of them."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.files import read_json, shown, stays_below
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datasets.base import DatasetReader, folder_below, numbered, split_names
from crossmodal_bench.data.images import ImageFiles

WITH_SPLIT = "reid_raw.json"
WITHOUT_SPLIT = "caption_all.json"
KINDS = {"id": "an integer", "file_path": "a non-empty text", "captions": "a non-empty list of texts"}


class CuhkPedes(DatasetReader):
    """``cuhk_pedes/``: ``reid_raw.json`` or ``caption_all.json``, and the images in ``imgs/`` or ``images/``.

    Either file is a list of objects with ``id`` (the person), ``file_path`` (below the folder of images) and
    ``captions``. ``reid_raw.json`` has ``split`` as well and is taken where both are there. In
    ``caption_all.json`` the first persons by ascending ``id`` are for training, the next for validation and
    all others for testing, which gives the data set's own 11,003, 1,000 and 1,000.

    Args:
        folder: name below the data root.
        train_identities: persons for training where the file has no ``split``.
        val_identities: persons for validation where the file has no ``split``.
    """

    def __init__(
        self, folder: str = "cuhk_pedes", train_identities: int = 11003, val_identities: int = 1000
    ) -> None:
        if train_identities < 1 or val_identities < 0:
            raise BadInput(
                f"train_identities is {train_identities} and val_identities {val_identities}; give at least "
                "1 and 0"
            )
        self.folder = folder
        self.train_identities = train_identities
        self.val_identities = val_identities

    def read(self, root: Path) -> Corpus:
        """The corpus in ``root/cuhk_pedes``."""
        folder = folder_below(root, self.folder, f"{WITH_SPLIT} or {WITHOUT_SPLIT}, and imgs/")
        path = _json_file(folder)
        entries = _entries(path)
        names = [entry["file_path"] for entry in entries]
        captions = [entry["captions"] for entry in entries]
        number = {person: i for i, person in enumerate(sorted({entry["id"] for entry in entries}))}
        identities = [number[entry["id"]] for entry in entries]
        if path.name == WITH_SPLIT:
            split = [_split(entry, path, row) for row, entry in enumerate(entries)]
        else:
            split = self._split_by_number(identities, path)
        pictures = folder / "imgs"
        if not pictures.is_dir() and (folder / "images").is_dir():
            pictures = folder / "images"
        return Corpus(
            name="cuhk_pedes",
            image_ids=tuple(names),
            caption_ids=numbered(names, captions),
            caption_image=np.repeat(np.arange(len(names)), [len(sentences) for sentences in captions]),
            split=split_names(split, path),
            captions=tuple(chain.from_iterable(captions)),
            identities=np.array(identities, dtype=np.int64),
            images=ImageFiles.within(pictures, names),
            source=str(path),
        )

    def _split_by_number(self, identities: list[int], path: Path) -> list[str]:
        first_test = self.train_identities + self.val_identities
        persons = max(identities) + 1
        if persons <= first_test:
            raise BadInput(
                f"{path} has {persons} different values of 'id' where train and val take {first_test} and "
                "test needs more; use the whole file or set train_identities and val_identities"
            )
        return [
            "train" if identity < self.train_identities else "val" if identity < first_test else "test"
            for identity in identities
        ]


def _json_file(folder: Path) -> Path:
    for name in (WITH_SPLIT, WITHOUT_SPLIT):
        if (folder / name).is_file():
            return folder / name
    raise MissingInput(
        f"{folder / WITH_SPLIT} is missing; put it (or {WITHOUT_SPLIT}) there as the authors of CUHK-PEDES "
        "send it"
    )


def _entries(path: Path) -> list[dict[str, Any]]:
    entries = read_json(path)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise BadInput(f"{path} is no list of objects; it must be the annotation file of CUHK-PEDES")
    for row, entry in enumerate(entries):
        for field, kind in KINDS.items():
            if field not in entry or not _is_valid(field, entry[field]):
                value = shown(entry[field]) if field in entry else "missing"
                image = f" ('{entry['file_path']}')" if field == "captions" else ""
                raise BadInput(f"{path}: entry {row}{image}: '{field}' is {value}; it must be {kind}")
        if not stays_below(entry["file_path"]):
            raise BadInput(
                f"{path}: entry {row}: file_path '{entry['file_path']}' leads out of the folder of images; "
                "give a path below it"
            )
    return entries


def _is_valid(field: str, value: Any) -> bool:
    if field == "id":
        return isinstance(value, int) and not isinstance(value, bool)
    if field == "file_path":
        return isinstance(value, str) and bool(value)
    return isinstance(value, list) and bool(value) and all(isinstance(caption, str) for caption in value)


def _split(entry: dict[str, Any], path: Path, row: int) -> str:
    split = entry.get("split")
    if not isinstance(split, str):
        raise BadInput(
            f"{path}: entry {row} ('{entry['file_path']}') has no 'split'; give train, val or test, or keep "
            f"the file as {WITHOUT_SPLIT}"
        )
    return split
