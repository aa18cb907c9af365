"""Image-caption pairs as users write them: a table of two columns."""

from __future__ import annotations

import csv
from pathlib import Path

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import read_text

_HEADER = ("image", "caption")


def read_pair_table(path: Path) -> list[tuple[str, str]]:
    """An image and a caption on each line, separated by a comma or a tab.

    The first line may be "image,caption".

    Raises:
        BadInput: an unreadable or empty file, or a line that is not a pair.
    """
    lines = read_lines(path)
    try:
        rows = list(csv.reader(lines, delimiter="\t" if "\t" in lines[0] else ",", strict=True))
    except csv.Error as error:
        raise BadInput(
            f"{path} is not a table of pairs ({error}); write image,caption on each line"
        ) from error
    if tuple(cell.strip().lower() for cell in rows[0]) == _HEADER:
        rows = rows[1:]
    pairs = []
    for number, row in enumerate(rows):
        if len(row) != 2:
            raise BadInput(f"{path}: pair {number} has {len(row)} entries; write an image and a caption")
        pairs.append((row[0].strip(), row[1].strip()))
    return pairs


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without surrounding spaces.

    Raises:
        BadInput: an unreadable or empty file, or an empty line.
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    if lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise BadInput(f"{path} is empty; write one entry per line")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise BadInput(f"{path}: line {number} is empty; write an entry, or remove the line")
    return [line.strip() for line in lines]
