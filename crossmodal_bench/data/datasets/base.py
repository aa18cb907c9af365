"""The contract of a data set: a class with settings as constructor arguments, and ``read``."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path, PureWindowsPath
from typing import Any

from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.errors import BadInput, MissingInput


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


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark; BadInput that names the first byte that is none."""
    try:
        return path.read_text(encoding="utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def read_json(path: Path) -> Any:
    """A JSON file's content; BadInput that names the line where it is none."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{path} is not valid JSON (line {error.lineno}: {error.msg}); copy it again"
        ) from error


def stays_below(name: str) -> bool:
    """Whether a relative path read from a file, joined to a folder, cannot lead out of that folder."""
    # Windows' rules know both kinds of slash and drive letters.
    path = PureWindowsPath(name)
    return not path.anchor and ".." not in path.parts
