"""Import of others' regions into the memory-mapped form: from a bottom-up TSV, or from one file per image.

The result is a folder ``*_precomp`` as from SCAN's authors, next to the data set's JSON, so that all code
that reads regions reads these. A killed import resumes where it stopped, and ends with the same bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.file_locks import wait_for_lock
from crossmodal_bench.core.files import first_line, read_json
from crossmodal_bench.core.npy import load_npy, load_npz, map_npy, names_in_npz
from crossmodal_bench.data.corpus import SPLITS, Corpus

FOLDER = "imported_precomp"
UNFINISHED = f"{FOLDER}.partial"
"""The folder's name until the import is complete: no reader takes it for regions."""
STEMS = {"train": "train", "val": "dev", "test": "test"}
"""SCAN's authors' names for the splits."""
COLUMNS = {6: (0, 3, 5), 10: (0, 7, 9)}
"""Columns of the image's id, the number of boxes and the features, by the number of columns of a TSV.

Six is bottom-up attention itself (image_id, image_w, image_h, num_boxes, boxes, features); ten is LXMERT,
with the detector's labels before the number of boxes.
"""
KEYS = ("features", "x", "feat", "feats", "image_features")
"""Names under which a ``.npz`` may hold its features; the first one found is used."""
NOTE = "import.json"
TOGETHER = 64
"""Images between two notes of the progress."""
LONGEST_LINE = 2**27
"""Bytes of a line: 100 regions of 2,048 numbers take 1.1 MB."""
_DIGITS = re.compile(r"\d+$")
Progress = Callable[[int, int], None]


class Item(NamedTuple):
    """The regions of one image.

    image: its name in the source. where: place in the source, for messages. regions: (R, D). position: in the
    source, after which an import resumes.
    """

    image: str
    where: str
    regions: NDArray[np.float32]
    position: int


def import_regions(
    corpus: Corpus, folder: Path, sources: Sequence[Path], count: int | None, progress: Progress
) -> str:
    """Write the regions of all of a corpus's images to ``folder/imported_precomp``.

    Args:
        corpus: with captions; its image order determines the order of the rows.
        folder: of the data set.
        sources: TSV files, or folders of ``.npz`` or ``.npy`` files named after the images.
        count: number of regions to keep of each image, the first ones; None for as many as the first image
            has.
        progress: called with (images done, total images).

    Returns:
        A sentence that says what was written where.

    Raises:
        BadInput: a source that is missing or damaged, an inconsistent width or number of regions, NaN, an
            image without regions, or a folder that cannot be written. What is done is kept.
    """
    if corpus.captions is None:
        raise BadInput(f"{corpus.name} has no captions, which are needed to match regions to images")
    target, unfinished = folder / FOLDER, folder / UNFINISHED
    if target.exists():
        raise BadInput(f"{target} already exists; remove it to import again")
    try:
        unfinished.mkdir(exist_ok=True)
        lock = unfinished / "import.lock"
        with lock.open("a") as handle:
            wait_for_lock(handle, lock)
            work = _Import(corpus, unfinished, count, progress)
            for source in sources:
                work.take(source)
            work.write_captions()
            os.replace(unfinished, target)
            for name in (NOTE, lock.name):
                (target / name).unlink()
    except OSError as error:
        raise BadInput(
            f"{unfinished} cannot be written ({error.strerror}); free space there, or make it writable"
        ) from error
    n, (regions, width) = len(corpus.image_ids), work.shape
    return f"{target}: {n} images, {regions} regions of {width} each"


@dataclass
class _State:
    """The progress of an import: positions in the sources, by name, and which images are done."""

    shape: tuple[int, int]
    positions: dict[str, int]
    done: NDArray[np.bool_]


class _Import:
    """One import: the files, and a note of what is done, which is written after them."""

    def __init__(self, corpus: Corpus, target: Path, count: int | None, progress: Progress) -> None:
        self.corpus, self.target, self.count, self.progress = corpus, target, count, progress
        self.note = target / NOTE
        self.rows = _rows_by_name(corpus.image_ids)
        self.file_of, self.row_in = _places(corpus)
        self.arrays: dict[str, NDArray[np.float32]] = {}
        self.state: _State | None = self._earlier()
        self.pending: list[int] = []

    @property
    def shape(self) -> tuple[int, int]:
        assert self.state is not None
        return self.state.shape

    def take(self, source: Path) -> None:
        """Write the regions of a source's images; those that an earlier import has written are skipped."""
        name = str(source.resolve())
        start = 0 if self.state is None else self.state.positions.get(name, 0)
        position = start
        for item in _items(source, start):
            row = self._row_of(item)
            if row is not None and not (self.state is not None and self.state.done[row]):
                self._write(row, self._checked(item))
            position = item.position
            if len(self.pending) >= TOGETHER:
                self._save(name, position)
        if self.state is not None:
            self._save(name, position)

    def write_captions(self) -> None:
        """Write captions and ids, image by image; raises BadInput if an image has no regions."""
        if self.state is None:
            raise BadInput(f"the sources hold no image of {self.corpus.name}; give this data set's regions")
        lacking = np.flatnonzero(~self.state.done)
        if len(lacking):
            first = self.corpus.image_ids[int(lacking[0])]
            raise BadInput(
                f"{len(lacking)} of {len(self.state.done)} images of {self.corpus.name} have no regions in "
                f"the sources, first '{first}'; give the other sources as well (what is done is kept)"
            )
        captions = self.corpus.captions
        assert captions is not None
        self.arrays.clear()
        for split, stem in STEMS.items():
            rows = self.corpus.caption_rows(split)
            if not len(rows):
                continue
            # An image's captions go on successive lines.
            rows = rows[np.argsort(self.corpus.caption_image[rows], kind="stable")]
            owners = self.corpus.caption_image[rows]
            _write_lines(self.target / f"{stem}_caps.txt", [" ".join(captions[row].split()) for row in rows])
            _write_lines(
                self.target / f"{stem}_ids.txt", [self.corpus.image_ids[int(owner)] for owner in owners]
            )

    def _row_of(self, item: Item) -> int | None:
        """The image's row; None if the data set has no such image, because the source is larger."""
        row = self.rows.get(item.image)
        digits = _DIGITS.search(item.image)
        if row is None and digits is not None:
            row = self.rows.get(str(int(digits[0])))
        if row == AMBIGUOUS:
            raise BadInput(
                f"{item.where}: '{item.image}' may be several images of {self.corpus.name}; name the regions "
                "after the full file name"
            )
        return row

    def _checked(self, item: Item) -> NDArray[np.float32]:
        regions = item.regions if self.count is None else item.regions[: self.count]
        if self.state is None:
            self._begin((len(regions), regions.shape[1]))
        if regions.shape != self.shape:
            wanted = " x ".join(map(str, self.shape))
            raise BadInput(
                f"{item.where}: image '{item.image}' has {item.regions.shape[0]} regions of "
                f"{item.regions.shape[1]}, but {wanted} are needed; extract a fixed number, or keep only the "
                "first ones of each with --count"
            )
        if not np.isfinite(regions).all():
            raise BadInput(f"{item.where}: image '{item.image}' has NaN or infinite values; extract it again")
        return regions

    def _begin(self, shape: tuple[int, int]) -> None:
        if not all(shape):
            raise BadInput(f"the first image has {shape[0]} regions of {shape[1]} numbers; extract it again")
        self.state = _State(shape, {}, np.zeros(len(self.corpus.image_ids), dtype=bool))
        self._open("w+")

    def _open(self, mode: Any) -> None:
        for split, stem in STEMS.items():
            n = len(self.corpus.image_rows(split))
            if n:
                self.arrays[split] = np.lib.format.open_memmap(
                    self.target / f"{stem}_ims.npy", mode=mode, dtype=np.float32, shape=(n, *self.shape)
                )

    def _write(self, row: int, regions: NDArray[np.float32]) -> None:
        assert self.state is not None
        self.arrays[str(self.file_of[row])][self.row_in[row]] = regions
        self.pending.append(row)

    def _save(self, source: str, position: int) -> None:
        """Note what is done, after the rows that it covers."""
        assert self.state is not None
        for array in self.arrays.values():
            array.flush()  # type: ignore[attr-defined]
        self.state.done[self.pending] = True
        self.pending.clear()
        self.state.positions[source] = position
        content = {
            "fingerprint": _fingerprint(self.corpus),
            "count": self.count,
            "shape": self.state.shape,
            "positions": self.state.positions,
            "done": base64.b64encode(np.packbits(self.state.done).tobytes()).decode(),
        }
        replace_file(self.note, lambda stream: stream.write(json.dumps(content).encode()), durable=False)
        self.progress(int(self.state.done.sum()), len(self.state.done))

    def _earlier(self) -> _State | None:
        """The note of an earlier import of the same images; None if it is incomplete."""
        try:
            noted = read_json(self.note)
            if (noted["fingerprint"], noted["count"]) != (_fingerprint(self.corpus), self.count):
                return None
            regions, width = (int(size) for size in noted["shape"])
            n = len(self.corpus.image_ids)
            bits = np.frombuffer(base64.b64decode(noted["done"], validate=True), np.uint8)
            positions = {str(name): max(0, int(position)) for name, position in noted["positions"].items()}
            state = _State((regions, width), positions, np.unpackbits(bits, count=n).astype(bool))
            for split, stem in STEMS.items():
                rows = len(self.corpus.image_rows(split))
                if rows and map_npy(self.target / f"{stem}_ims.npy").shape != (rows, regions, width):
                    return None
        # A note that isn't ours may hold anything.
        except (BadInput, KeyError, TypeError, ValueError, AttributeError):
            return None
        self.state = state
        self._open("r+")
        return state


AMBIGUOUS = -1


def _rows_by_name(image_ids: Sequence[str]) -> dict[str, int]:
    """Rows by file name, stem, and the number at the end of the stem; AMBIGUOUS if several images match."""
    rows: dict[str, int] = {}
    for row, name in enumerate(image_ids):
        stem = Path(name).stem
        digits = _DIGITS.search(stem)
        for key in {name, Path(name).name, stem, *([str(int(digits[0]))] if digits else [])}:
            rows[key] = row if rows.get(key, row) == row else AMBIGUOUS
    return rows


def _places(corpus: Corpus) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """The split of each image, and its row in it."""
    position = np.zeros(len(corpus.image_ids), dtype=np.int64)
    for split in SPLITS:
        rows = corpus.image_rows(split)
        position[rows] = np.arange(len(rows))
    return corpus.split, position


def _fingerprint(corpus: Corpus) -> str:
    """Changes with the images and their splits, which determine the rows."""
    text = "\n".join(f"{name}:{split}" for name, split in zip(corpus.image_ids, corpus.split, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _items(source: Path, start: int) -> Iterator[Item]:
    """The images of a source after a position."""
    if source.is_dir():
        return _of_folder(source, start)
    if not source.is_file():
        raise MissingInput(f"{source} is missing; give a TSV file, or a folder of .npz or .npy files")
    return _of_tsv(source, start)


def _of_tsv(path: Path, start: int) -> Iterator[Item]:
    with path.open("rb") as stream:
        stream.seek(start)
        while line := stream.readline(LONGEST_LINE):
            where = f"{path}, byte {stream.tell() - len(line)}"
            cells = line.rstrip(b"\r\n").split(b"\t")
            if cells == [b""]:
                continue
            if len(cells) not in COLUMNS:
                raise BadInput(
                    f"{where}: the line has {len(cells)} columns; use {' or '.join(map(str, COLUMNS))}, as "
                    "bottom-up attention and LXMERT write them"
                )
            image, boxes, features = (cells[column] for column in COLUMNS[len(cells)])
            yield Item(
                image.decode("utf-8", "replace"), where, _decoded(boxes, features, where), stream.tell()
            )


def _decoded(boxes: bytes, features: bytes, where: str) -> NDArray[np.float32]:
    try:
        count = int(boxes)
        values = np.frombuffer(base64.b64decode(features, validate=True), dtype="<f4")
        if count < 1 or not len(values):
            raise ValueError("no boxes")
        return values.reshape(count, -1)
    except (ValueError, binascii.Error) as error:
        raise BadInput(
            f"{where}: the boxes or features of this line cannot be read ({first_line(error)}); copy the "
            "file again"
        ) from error


def _of_folder(folder: Path, start: int) -> Iterator[Item]:
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".npy"))
    if not paths:
        raise MissingInput(f"{folder} holds no .npz or .npy files; put one there for each image")
    for position, path in enumerate(paths[start:], start=start + 1):
        if path.suffix == ".npy":
            array = load_npy(path)
        else:
            names = names_in_npz(path)
            key = next((name for name in KEYS if name in names), None)
            if key is None:
                raise BadInput(f"{path} has no array {', '.join(KEYS)}; save its features under one of these")
            array = load_npz(path, [key])[key]
        if array.dtype.kind != "f" or array.ndim != 2:
            raise BadInput(
                f"{path} holds {array.dtype} values of shape {array.shape}; give (regions, width) floats"
            )
        with np.errstate(over="ignore"):
            yield Item(path.stem, str(path), array.astype(np.float32), position)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    replace_file(path, lambda stream: stream.write(text.encode()), durable=False)
