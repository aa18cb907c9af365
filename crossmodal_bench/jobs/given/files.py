"""Ids, captions' images, pairs and labels that a user gives in files: text, CSV, JSON or ``.npy``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import is_unicode, read_json, shown
from crossmodal_bench.core.npy import load_npy
from crossmodal_bench.data.files.pairs import read_lines, read_pair_table

Given = Path | Sequence[Any] | NDArray[Any] | Tensor
"""A file, or what would be in it."""


@dataclass(frozen=True)
class Column:
    """A value for each item, from a file or from a caller.

    Attributes:
        name: the file, or the argument.
        values: (n, ...) whole numbers, or texts.
    """

    name: str
    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def texts(self) -> list[str]:
        """The values as names."""
        return [str(value) for value in self.values.tolist()]


def read_ids(given: Given, argument: str) -> Column:
    """Names of items, each once.

    Args:
        given: texts or whole numbers; or a file of them: ``.npy``, ``.json`` (a list), or text, one a line.
        argument: what the caller calls it.

    Raises:
        BadInput: an unreadable file, something that is no name, an empty name, or one that stands twice.
    """
    column = read_column(given, argument)
    if column.values.ndim != 1:
        raise BadInput(f"{column.name} has shape {column.values.shape}; give one id for each item")
    first: dict[str, int] = {}
    for row, name in enumerate(column.texts):
        if not name.strip() or not is_unicode(name):
            raise BadInput(f"{column.name}: id {row} is {shown(name)}, which is no name; write it")
        if name in first:
            raise BadInput(
                f"{column.name}: id {shown(name)} stands twice (items {first[name]} and {row}); "
                "give each item an id of its own"
            )
        first[name] = row
    return column


def read_column(given: Given, argument: str) -> Column:
    """A value for each item: whole numbers, or texts, as which a text file's numbers are left.

    Raises:
        BadInput: an unreadable or empty file, or values of another kind.
    """
    if not isinstance(given, Path):
        return Column(argument, _array(given, argument))
    suffix = given.suffix.lower()
    if suffix == ".npy":
        return Column(str(given), _array(load_npy(given), str(given)))
    if suffix == ".json":
        content = read_json(given)
        if not isinstance(content, list):
            raise BadInput(f"{given} is {shown(content)}; make it a list, with an entry for each item")
        return Column(str(given), _array(content, str(given)))
    return Column(str(given), _array(read_lines(given), str(given)))


def read_pairs(given: Given, argument: str) -> Column:
    """(n_pairs, 2): an image and a caption, both by their rows or both by their ids.

    Args:
        given: whole numbers or texts; or a file of them: ``.npy``, ``.json``, or text with a comma or a tab
            between the two, of which the first line may be "image,caption".
        argument: what the caller calls it.

    Raises:
        BadInput: an unreadable file, or what are no pairs.
    """
    if not isinstance(given, Path) or given.suffix.lower() in (".npy", ".json"):
        column = read_column(given, argument)
    else:
        pairs = [list(pair) for pair in read_pair_table(given)]
        column = Column(str(given), _array(pairs, str(given)))
    if column.values.ndim != 2 or column.values.shape[1] != 2 or not len(column):
        raise BadInput(
            f"{column.name} has shape {column.values.shape}; give (P, 2): an image and a caption in each row"
        )
    return column


def read_labels(given: Given, argument: str, *, several: bool) -> NDArray[np.int64]:
    """(N,) classes, or (N, C) multi-hot where there may be ``several``; names become numbers.

    Raises:
        BadInput: an unreadable file, or another shape.
    """
    column = read_column(given, argument)
    values = column.values
    if values.ndim == 2 and several and values.dtype.kind in "iub":
        return (values != 0).astype(np.int64)
    if values.ndim != 1:
        allowed = "one for each image, or a multi-hot row" if several else "one whole number for each image"
        raise BadInput(f"{column.name} has shape {values.shape}; give {allowed}")
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _array(given: Any, name: str) -> NDArray[Any]:
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    try:
        array = np.asarray(given)
    # Lists of several lengths, numbers beyond 64 bits.
    except (ValueError, OverflowError, TypeError) as error:
        raise BadInput(f"{name} holds no plain list of entries ({error}); give one kind of entry") from error
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise BadInput(f"{name} holds bytes that are not UTF-8; save texts") from error
    if array.dtype.kind not in "iubU" or not array.size:
        what = "nothing" if not array.size else array.dtype
        raise BadInput(f"{name} holds {what}; give whole numbers, or texts")
    if not isinstance(given, np.ndarray) and array.dtype.kind == "U" and not _all_texts(given):
        raise BadInput(f"{name} mixes texts with other entries; give one kind of entry")
    return array


def _all_texts(given: Any) -> bool:
    if isinstance(given, str):
        return True
    return isinstance(given, list | tuple) and all(map(_all_texts, given))
