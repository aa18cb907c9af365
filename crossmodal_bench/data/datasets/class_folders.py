"""Reed et al.'s captions of fine-grained classes: one folder of texts per class, each class in one split."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.files import is_path_below, read_text
from crossmodal_bench.data.corpus import SPLITS, Corpus, Labels
from crossmodal_bench.data.datasets.base import DatasetReader, folder_below, numbered
from crossmodal_bench.data.images import ImageFiles


class ClassFolders(DatasetReader):
    """``text_c10/<class>/<image>.txt``, one caption per line; ``{train,val,test}classes.txt``; JPEG pictures.

    The layout of Reed et al., "Learning Deep Representations of Fine-Grained Visual Descriptions" (CVPR
    2016), in which no class is in two splits. The class is both the label and the identity of its images;
    class folders that no list names are ignored.

    Args:
        folder: name below the data root.
        train_on: ``train``, or ``trainval``: validation classes are added to training, as for most published
            numbers. There is then no validation split, and the checkpoint is that of the last epoch.
    """

    name: ClassVar[str]
    pictures: ClassVar[str]
    """The folder of pictures."""
    pictures_by_class: ClassVar[bool]
    """Whether that folder has a subfolder for each class."""

    def __init__(self, folder: str, train_on: Literal["train", "trainval"] = "train") -> None:
        self.folder = folder
        self.train_on = train_on

    def read(self, root: Path) -> Corpus:
        """The corpus in ``root/folder``: classes by name, then images by name."""
        folder = folder_below(root, self.folder, f"text_c10/, {self.pictures}/ and the three *classes.txt")
        split_of = _class_lists(folder)
        classes = sorted(split_of)
        ids: list[str] = []
        labels: list[int] = []
        captions: list[list[str]] = []
        paths: list[Path] = []
        for label, name in enumerate(classes):
            images = _described(folder, name, split_of[name])
            captions += [_captions(folder / "text_c10" / name / f"{image}.txt") for image in images]
            paths += self._pictures_of(folder, name, images)
            ids += [f"{name}/{image}" for image in images]
            labels += [label] * len(images)
        _refuse_shared(paths, ids)
        split = [split_of[classes[label]] for label in labels]
        if self.train_on == "trainval":
            split = ["train" if part == "val" else part for part in split]
        return Corpus(
            name=self.name,
            image_ids=tuple(ids),
            caption_ids=numbered(ids, captions),
            caption_image=np.repeat(np.arange(len(ids)), [len(sentences) for sentences in captions]),
            split=np.array(split, dtype=np.str_),
            captions=tuple(chain.from_iterable(captions)),
            labels=Labels(
                np.array(labels, dtype=np.int64),
                names=tuple(classes),
                rule="species, split by trainclasses.txt, valclasses.txt and testclasses.txt",
            ),
            identities=np.array(labels, dtype=np.int64),
            images=ImageFiles(paths),
            source=str(folder),
        )

    def _pictures_of(self, folder: Path, name: str, images: list[str]) -> list[Path]:
        pictures = folder / self.pictures / (name if self.pictures_by_class else "")
        paths = [pictures / f"{image}.jpg" for image in images]
        texts = folder / "text_c10" / name
        missing = next((path for path in paths if not path.is_file()), None)
        if missing is not None:
            raise MissingInput(
                f"{missing} is missing, but {texts / missing.stem}.txt describes it; put the picture there"
            )
        if self.pictures_by_class:
            undescribed = sorted(set(_stems(pictures, ".jpg")).difference(images))
            if undescribed:
                raise BadInput(
                    f"{pictures / undescribed[0]}.jpg has no captions in {texts / undescribed[0]}.txt; "
                    "write them or remove the picture"
                )
        return paths


def _class_lists(folder: Path) -> dict[str, str]:
    """The split of each class."""
    split_of: dict[str, str] = {}
    for split in SPLITS:
        path = folder / f"{split}classes.txt"
        if not path.is_file():
            raise MissingInput(f"{path} is missing; it comes with text_c10/ (one class folder name per line)")
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            name = line.strip()
            if not name:
                continue
            if not is_path_below(name) or Path(name).name != name:
                raise BadInput(
                    f"{path}, line {number}: '{name}' is not the name of a class folder; correct it"
                )
            if name in split_of:
                raise BadInput(
                    f"{path}, line {number}: class '{name}' is already in "
                    f"{folder / split_of[name]}classes.txt; keep each class in one list, once"
                )
            split_of[name] = split
        if split not in split_of.values():
            raise BadInput(f"{path} names no classes; write one class folder name per line")
    return split_of


def _described(folder: Path, name: str, split: str) -> list[str]:
    """The images of a class, sorted."""
    texts = folder / "text_c10" / name
    if not texts.is_dir():
        raise MissingInput(
            f"{texts} is missing, but {split}classes.txt names that class; put its captions there"
        )
    images = _stems(texts, ".txt")
    if not images:
        raise BadInput(
            f"{texts} holds no .txt file; add captions or remove the class from {split}classes.txt"
        )
    return images


def _stems(folder: Path, suffix: str) -> list[str]:
    """Names without their suffix, sorted; hidden files (such as those that macOS leaves) are ignored."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return sorted(
        name.removesuffix(suffix) for name in names if name.endswith(suffix) and not name.startswith(".")
    )


def _captions(path: Path) -> list[str]:
    text = read_text(path).rstrip()
    if not text:
        raise BadInput(f"{path} holds no captions; write one per line, or remove it along with its picture")
    captions = [line.strip() for line in text.split("\n")]
    if "" in captions:
        raise BadInput(
            f"{path}, line {captions.index('') + 1} is blank; write the caption or delete the line"
        )
    return captions


def _refuse_shared(paths: list[Path], ids: list[str]) -> None:
    first: dict[Path, str] = {}
    for path, name in zip(paths, ids, strict=True):
        if first.setdefault(path, name) != name:
            raise BadInput(
                f"{path} has captions in two classes, text_c10/{first[path]}.txt and text_c10/{name}.txt; "
                "keep one"
            )
