"""The contract of a data set: a class with settings as constructor arguments, and ``read``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.errors import MissingInput


class DatasetReader(ABC):
    """Reads one data set; subclasses are found by their class path in YAML, nothing is registered."""

    @abstractmethod
    def read(self, root: Path) -> Corpus:
        """The corpus below the data root.

        Raises:
            BadInput: a missing, damaged or inconsistent file; the message names it, the field and the fix.
        """


def folder_below(root: Path, name: str, contents: str) -> Path:
    """``root/name``, or MissingInput that says what belongs there."""
    folder = root / name
    if not root.is_dir():
        raise MissingInput(
            f"{root} is missing; set DATA_ROOT to the folder that holds '{name}/' with {contents}"
        )
    if not folder.is_dir():
        raise MissingInput(f"{folder} is missing; put {contents} there")
    return folder
