"""Person search by description: CUHK-PEDES, ICFG-PEDES and RSTPReid; several images show the same person."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.files import is_path_below, read_json, shown
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datasets.base import DatasetReader, folder_below, numbered, split_names
from crossmodal_bench.data.images import ImageFiles

WITHOUT_SPLIT = "caption_all.json"
"""CUHK-PEDES's older file, in which persons are split by their numbers."""
KINDS = {"id": "an integer", "path": "a non-empty string", "captions": "a non-empty list of strings"}


class PersonSearch(DatasetReader):
    """A folder with one annotation file, directly or in ``annotations/``, and ``imgs/`` or ``images/``.

    The file is a list of objects with ``id`` (the person), ``split``, ``captions`` and the path of the image
    below the image folder.

    Args:
        folder: name below the data root; a folder named as the authors distribute it works, too.

    Attributes:
        name: the data set's name here.
        title: the authors' name for it, and of the folder that they distribute.
        files: names of the annotation file; the first one found is used.
        path_field: its field with the image path.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    path_field: ClassVar[str] = "file_path"

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def read(self, root: Path) -> Corpus:
        """The corpus in ``root/folder``, or in the folder as its authors distribute it.

        Raises:
            BadInput: a missing or damaged file, or an entry with an invalid field.
        """
        own = (
            self.title if not (root / self.folder).is_dir() and (root / self.title).is_dir() else self.folder
        )
        folder = folder_below(root, own, f"{' or '.join(self.files)}, and imgs/")
        path = self._annotations(folder)
        entries = self._entries(path)
        names = [entry[self.path_field] for entry in entries]
        captions = [entry["captions"] for entry in entries]
        number = {person: i for i, person in enumerate(sorted({entry["id"] for entry in entries}))}
        identities = [number[entry["id"]] for entry in entries]
        pictures = folder / "imgs"
        if not pictures.is_dir() and (folder / "images").is_dir():
            pictures = folder / "images"
        return Corpus(
            name=self.name,
            image_ids=tuple(names),
            caption_ids=numbered(names, captions),
            caption_image=np.repeat(np.arange(len(names)), [len(sentences) for sentences in captions]),
            split=split_names(self._splits(entries, identities, path), path),
            captions=tuple(chain.from_iterable(captions)),
            identities=np.array(identities, dtype=np.int64),
            images=ImageFiles.within(pictures, names),
            source=str(path),
        )

    def _annotations(self, folder: Path) -> Path:
        for place in (folder, folder / "annotations"):
            for name in self.files:
                if (place / name).is_file():
                    return place / name
        others = "".join(f" (or {name})" for name in self.files[1:])
        raise MissingInput(
            f"{folder / self.files[0]} is missing; put it{others} there as received from the authors of "
            f"{self.title}"
        )

    def _entries(self, path: Path) -> list[dict[str, Any]]:
        entries = read_json(path)
        if not isinstance(entries, list) or not entries:
            entries = [None]
        if not all(isinstance(entry, dict) for entry in entries):
            raise BadInput(f"{path} is not a list of objects; it must be the annotation file of {self.title}")
        for row, entry in enumerate(entries):
            for kind, text in KINDS.items():
                field = self.path_field if kind == "path" else kind
                if field not in entry or not _is_valid(kind, entry[field]):
                    value = shown(entry[field]) if field in entry else "missing"
                    image = f" ('{entry[self.path_field]}')" if kind == "captions" else ""
                    raise BadInput(f"{path}: entry {row}{image}: '{field}' is {value}; it must be {text}")
            if not is_path_below(entry[self.path_field]):
                raise BadInput(
                    f"{path}: entry {row}: {self.path_field} '{entry[self.path_field]}' leads out of the "
                    "image folder; give a path below it"
                )
        return entries

    def _splits(self, entries: list[dict[str, Any]], identities: list[int], path: Path) -> list[str]:
        """The split of each image; ``identities`` are the persons' indices in the order of their ids."""
        for row, entry in enumerate(entries):
            if not isinstance(entry.get("split"), str):
                keep = f", or keep the file as {WITHOUT_SPLIT}" if WITHOUT_SPLIT in self.files else ""
                raise BadInput(
                    f"{path}: entry {row} ('{entry[self.path_field]}') has no 'split'; give train, val or "
                    f"test{keep}"
                )
        return [entry["split"] for entry in entries]


class CuhkPedes(PersonSearch):
    """CUHK-PEDES (Li et al., CVPR 2017): two sentences for most images.

    ``reid_raw.json`` has ``split`` and is preferred if both files are there. In ``caption_all.json``, the
    first persons by ascending ``id`` are for training, the next for validation and all others for testing,
    which gives the official 11,003, 1,000 and 1,000.

    Args:
        folder: name below the data root; ``CUHK-PEDES`` works, too.
        train_identities: number of training persons if the file has no ``split``.
        val_identities: number of validation persons if the file has no ``split``.
    """

    name = "cuhk_pedes"
    title = "CUHK-PEDES"
    files = ("reid_raw.json", WITHOUT_SPLIT)

    def __init__(
        self, folder: str = "cuhk_pedes", train_identities: int = 11003, val_identities: int = 1000
    ) -> None:
        if train_identities < 1 or val_identities < 0:
            raise BadInput(
                f"train_identities is {train_identities} and val_identities {val_identities}; set them to at "
                "least 1 and 0"
            )
        super().__init__(folder)
        self.train_identities = train_identities
        self.val_identities = val_identities

    def _splits(self, entries: list[dict[str, Any]], identities: list[int], path: Path) -> list[str]:
        if path.name != WITHOUT_SPLIT:
            return super()._splits(entries, identities, path)
        return self._split_by_number(identities, path)

    def _split_by_number(self, identities: list[int], path: Path) -> list[str]:
        first_test = self.train_identities + self.val_identities
        persons = max(identities) + 1
        if persons <= first_test:
            raise BadInput(
                f"{path} has {persons} distinct values of 'id', but train and val take {first_test} and test "
                "needs more; use the complete file, or set train_identities and val_identities"
            )
        return [
            "train" if identity < self.train_identities else "val" if identity < first_test else "test"
            for identity in identities
        ]


class IcfgPedes(PersonSearch):
    """ICFG-PEDES (Ding et al., 2021): one long sentence per image; it has no validation split.

    Args:
        folder: name below the data root; ``ICFG-PEDES`` works, too.
    """

    name = "icfg_pedes"
    title = "ICFG-PEDES"
    files = ("ICFG-PEDES.json",)

    def __init__(self, folder: str = "icfg_pedes") -> None:
        super().__init__(folder)


class RstpReid(PersonSearch):
    """RSTPReid (Zhu et al., ACM MM 2021): five images per person, two sentences for each.

    Args:
        folder: name below the data root; ``RSTPReid`` works, too.
    """

    name = "rstpreid"
    title = "RSTPReid"
    files = ("data_captions.json",)
    path_field = "img_path"

    def __init__(self, folder: str = "rstpreid") -> None:
        super().__init__(folder)


def _is_valid(kind: str, value: Any) -> bool:
    if kind == "id":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "path":
        return isinstance(value, str) and bool(value)
    return isinstance(value, list) and bool(value) and all(isinstance(caption, str) for caption in value)
