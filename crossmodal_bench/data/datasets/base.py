"""The contract of a data set: a class with settings as constructor arguments, and ``read``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data.corpus import SPLITS, Corpus


class DatasetReader(ABC):
    """Reads one data set; subclasses are found by their class path in YAML, nothing is registered.

    Attributes:
        redrawn: whether every seed of a bench has its own split: seed s is then passed to the constructor as
            ``draw_seed``. Otherwise all seeds share one split.
        describes_pictures: whether ``features_of`` can compute its image features for any picture.
    """

    redrawn: bool = False
    describes_pictures: bool = False

    @abstractmethod
    def read(self, root: Path) -> Corpus:
        """The corpus below the data root.

        Raises:
            BadInput: a missing, damaged or inconsistent file; the message names the file, field and fix.
        """

    def features_of(self, picture: Image.Image) -> NDArray[np.float32]:
        """(D,) the data set's own image features of a new RGB picture, if it ``describes_pictures``."""
        raise NotImplementedError

    def without_pictures(self) -> DatasetReader | None:
        """A reader of the same items that needs no image files; None if there is no such reader."""
        return None

    def write_fake(self, root: Path) -> None:
        """Write a few items in this layout below ``root``, in all three splits, for the tests to read.

        Optional: without it, a data set is tested only if the tests have a fake of their own.
        """
        raise NotImplementedError


def folder_below(root: Path, name: str, contents: str) -> Path:
    """``root/name``; MissingInput says what belongs there if it is missing."""
    folder = root / name
    if not root.is_dir():
        raise MissingInput(
            f"{root} is missing; set DATA_ROOT to the folder that holds '{name}/' with {contents}"
        )
    if not folder.is_dir():
        raise MissingInput(f"{folder} is missing; put {contents} there")
    return folder


def numbered(image_ids: Sequence[str], captions: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Names of all captions, image by image: the image's name and a number from 0, as ``1000.jpg#0``.

    Args:
        image_ids: N names.
        captions: for each of the N images, all of its captions.
    """
    return tuple(
        f"{name}#{number}"
        for name, sentences in zip(image_ids, captions, strict=True)
        for number in range(len(sentences))
    )


def split_names(splits: Sequence[str], path: Path) -> NDArray[np.str_]:
    """The splits that a file names, as an array; BadInput for a name not in SPLITS.

    Checked first, because an array gives every row the width of the longest name.
    """
    unknown = set(splits).difference(SPLITS)
    if unknown:
        raise BadInput(f"{path}: unknown split '{min(unknown)}'; use train, val or test")
    return np.array(splits, dtype=np.str_)
