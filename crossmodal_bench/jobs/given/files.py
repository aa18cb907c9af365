"""A user's files of ids, captions' images, pairs and labels: text, CSV, JSON or ``.npy``."""

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
"""A file, or its content."""


@dataclass(frozen=True)
class Column:
    """One value per item, from a file or from a caller.

    Attributes:
        name: the file or the argument, for messages.
        values: (n, ...) whole numbers or strings.
    """

    name: str
    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def texts(self) -> list[str]:
        """The values as strings."""
        return [str(value) for value in self.values.tolist()]


def read_ids(given: Given, argument: str) -> Column:
    """Unique names of items.

    Args:
        given: strings or whole numbers, or a file of them: ``.npy``, ``.json`` (a list) or text, one per
            line.
        argument: its name, for messages.

    Raises:
        BadInput: the file is unreadable, or an entry is not a name, is empty or occurs twice.
    """
    column = read_column(given, argument)
    if column.values.ndim != 1:
        raise BadInput(f"{column.name} has shape {column.values.shape}; give one id per item")
    first: dict[str, int] = {}
    for row, name in enumerate(column.texts):
        if not name.strip() or not is_unicode(name):
            raise BadInput(f"{column.name}: id {row} is {shown(name)}, which is not a name; replace it")
        if name in first:
            raise BadInput(
                f"{column.name}: id {shown(name)} occurs twice (items {first[name]} and {row}); "
                "give each item its own id"
            )
        first[name] = row
    return column


def read_column(given: Given, argument: str) -> Column:
    """One value per item: whole numbers or strings; numbers in a text file stay strings.

    Raises:
        BadInput: the file is unreadable or empty, or has values of another type.
    """
    if not isinstance(given, Path):
        return Column(argument, _array(given, argument))
    suffix = given.suffix.lower()
    if suffix == ".npy":
        return Column(str(given), _array(load_npy(given), str(given)))
    if suffix == ".json":
        content = read_json(given)
        if not isinstance(content, list):
            raise BadInput(f"{given} is {shown(content)}; make it a list with one entry per item")
        return Column(str(given), _array(content, str(given)))
    return Column(str(given), _array(read_lines(given), str(given)))


def read_pairs(given: Given, argument: str) -> Column:
    """(n_pairs, 2): an image and a caption, both given by row or both by id.

    Args:
        given: whole numbers or strings, or a file of them: ``.npy``, ``.json``, or text with a comma or a tab
            between the two, whose first line may be "image,caption".
        argument: its name, for messages.

    Raises:
        BadInput: the file is unreadable, or its entries are not pairs.
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
    """(N,) classes, or (N, C) multi-hot if ``several`` are allowed; names become numbers.

    Raises:
        BadInput: the file is unreadable or has another shape.
    """
    column = read_column(given, argument)
    values = column.values
    if values.ndim == 2 and several and values.dtype.kind in "iub":
        return (values != 0).astype(np.int64)
    if values.ndim != 1:
        allowed = "one per image, or a multi-hot row" if several else "one whole number per image"
        raise BadInput(f"{column.name} has shape {values.shape}; give {allowed}")
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _array(given: Any, name: str) -> NDArray[Any]:
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    try:
        array = np.asarray(given)
    # Lists of different lengths, numbers beyond 64 bits.
    except (ValueError, OverflowError, TypeError) as error:
        raise BadInput(f"{name} is not a plain list ({error}); give entries of one type") from error
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise BadInput(f"{name} has bytes that are not UTF-8; save strings") from error
    if array.dtype.kind not in "iubU" or not array.size:
        what = "nothing" if not array.size else array.dtype
        raise BadInput(f"{name} contains {what}; give whole numbers or strings")
    if not isinstance(given, np.ndarray) and array.dtype.kind == "U" and not _all_texts(given):
        raise BadInput(f"{name} mixes strings with other entries; give entries of one type")
    return array


def _all_texts(given: Any) -> bool:
    if isinstance(given, str):
        return True
    return isinstance(given, list | tuple) and all(map(_all_texts, given))
