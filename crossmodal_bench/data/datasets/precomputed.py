"""Folders ``*_precomp`` of regions, as published by SCAN's authors: no pictures are needed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.files import read_json, read_text
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datasets.base import DatasetReader, folder_below
from crossmodal_bench.data.regions import RegionFiles, map_regions

CONTENTS = "{train,dev,test}_ims.npy and {train,dev,test}_caps.txt"
FAMILIAR = {"f30k_precomp": "flickr30k", "f30k": "flickr30k", "coco_precomp": "coco"}
"""SCAN's and VSE∞'s names of their folders, and the data sets they hold."""
MARKS = ("<pad>", "<start>", "<end>")
"""Vocabulary entries that are not words of a sentence."""
PARTS = {"train": ("train",), "val": ("dev", "val"), "test": ("testall", "test")}
"""File name stems per split. ``testall``: COCO's 5,000 test images, of which ``test`` has 1,000."""


class Precomputed(DatasetReader):
    """A folder with captions and regions but no pictures, or one that contains such a folder.

    The inner folder is ``*_precomp``, as from SCAN's authors, or ``precomp``, as from VSE∞'s.

    ``{split}_ims.npy`` is (n, R, D) with one row per image, or one per caption: the same row for all captions
    of an image. ``{split}_caps.txt`` has one caption per line, with an image's captions on successive lines.
    ``{split}_ids.txt``, if present, names the images, one line per image or one per caption. Instead of the
    captions, there may be ``{split}_precaps_stan.txt``, which has comma-separated word numbers, and
    ``*_vocab.json`` next to it or in a folder ``vocab`` (GSMN, SGRAF and their successors).

    Args:
        folder: name below the data root.
        captions_per_image: number of captions of every image in a split without ids.
    """

    def __init__(self, folder: str, captions_per_image: int = 5) -> None:
        if captions_per_image < 1:
            raise BadInput(f"captions_per_image is {captions_per_image}; it must be at least 1")
        self.folder = folder
        self.captions_per_image = captions_per_image

    def read(self, root: Path) -> Corpus:
        """The corpus in ``root/folder``; raises BadInput as for ``read_precomputed``."""
        outer = folder_below(root, self.folder, CONTENTS)
        folder = precomputed_folder(outer)
        if folder is None:
            raise MissingInput(f"{outer / 'train_ims.npy'} is missing; put {CONTENTS} there")
        return read_precomputed(folder, FAMILIAR.get(self.folder, self.folder), self.captions_per_image)


def precomputed_folder(folder: Path) -> Path | None:
    """The folder itself or the one ``*precomp`` in it; None if there is none. BadInput for several."""
    if folder.name.endswith("_precomp") or (folder / "train_ims.npy").is_file():
        return folder if folder.is_dir() else None
    folders = sorted(path for path in folder.glob("*precomp") if path.is_dir())
    if len(folders) > 1:
        several = ", ".join(path.name for path in folders)
        raise BadInput(f"{folder} holds several folders *precomp ({several}); keep one")
    return folders[0] if folders else None


def familiar_folder(root: Path, name: str) -> Path | None:
    """The regions of the data set ``name`` in a folder named as by their authors.

    For ``flickr30k``, that is ``root/f30k_precomp`` or ``root/f30k/precomp``; None if there is neither.
    """
    folders = (precomputed_folder(root / theirs) for theirs, ours in FAMILIAR.items() if ours == name)
    return next((folder for folder in folders if folder is not None), None)


def read_precomputed(folder: Path, name: str, captions_per_image: int = 5) -> Corpus:
    """The corpus ``name`` in a folder that directly holds the files; see Precomputed.

    Raises:
        BadInput: a missing, empty or damaged file, or files of a split with mismatched counts.
    """
    parts: dict[str, _Part] = {}
    for split, stems in PARTS.items():
        present = [stem for stem in stems if _has_files(folder, stem)]
        if present == ["dev", "val"]:
            raise BadInput(f"{folder} holds both dev_* and val_*; keep one of them as the validation split")
        if present or split != "val":
            parts[split] = _read_part(folder, present[0] if present else stems[-1], captions_per_image)
    ids = [name for part in parts.values() for name in part.ids]
    counts = np.concatenate([part.counts for part in parts.values()])
    return Corpus(
        name=name,
        image_ids=tuple(ids),
        caption_ids=tuple(
            f"{image}#{k}" for image, n in zip(ids, counts.tolist(), strict=True) for k in range(n)
        ),
        caption_image=np.repeat(np.arange(len(ids)), counts),
        split=np.repeat(list(parts), [len(part.ids) for part in parts.values()]),
        captions=tuple(caption for part in parts.values() for caption in part.captions),
        regions=RegionFiles(
            [part.path for part in parts.values()],
            np.repeat(np.arange(len(parts)), [len(part.ids) for part in parts.values()]),
            np.concatenate([part.rows for part in parts.values()]),
        ),
        source=str(folder),
    )


@dataclass(frozen=True)
class _Part:
    """The n images of a split.

    Attributes:
        path: the file of their regions.
        ids: n names.
        captions: of all images, image by image.
        counts: (n,) number of captions of each image.
        rows: (n,) each image's row in ``path``.
    """

    path: Path
    ids: list[str]
    captions: list[str]
    counts: NDArray[np.int64]
    rows: NDArray[np.int64]


def _has_files(folder: Path, stem: str) -> bool:
    names = (f"{stem}_ims.npy", f"{stem}_caps.txt", f"{stem}_precaps_stan.txt")
    return any((folder / name).is_file() for name in names)


def _read_part(folder: Path, stem: str, captions_per_image: int) -> _Part:
    path = folder / f"{stem}_ims.npy"
    regions = map_regions(path)
    captions = _captions(folder, stem)
    ids, counts = _images(folder, stem, len(captions), captions_per_image)
    starts = np.cumsum(counts) - counts
    if len(regions) == len(ids):
        # Rows repeated five times under distinct ids would turn each image into five.
        if len(ids) == len(captions) > 1 and np.array_equal(regions[0], regions[1]):
            raise BadInput(
                f"{path} repeats its rows, but {stem}_ids.txt gives each of them a different id; "
                "write the image's id on every line, or remove that file"
            )
        return _Part(path, ids, captions, counts, np.arange(len(ids)))
    if len(regions) != len(captions):
        raise BadInput(
            f"{path} has {len(regions)} rows, but {stem}_caps.txt has {len(captions)} captions of "
            f"{len(ids)} images; give one row per image, or one per caption"
        )
    for image in (0, len(ids) - 1):
        first = int(starts[image])
        last = first + int(counts[image]) - 1
        if not np.array_equal(regions[first], regions[last]):
            raise BadInput(
                f"{path}: rows {first} and {last} differ, but both belong to image '{ids[image]}'; "
                "repeat an image's row for each of its captions, or correct the captions per image"
            )
    return _Part(path, ids, captions, counts, starts)


def _images(
    folder: Path, stem: str, n_captions: int, captions_per_image: int
) -> tuple[list[str], NDArray[np.int64]]:
    """The images' names, and the number of captions of each."""
    path = folder / f"{stem}_ids.txt"
    captions = folder / f"{stem}_caps.txt"
    if path.is_file():
        lines = _lines(path, "an id")
        if len(lines) == n_captions:
            groups = [(name, len(list(group))) for name, group in groupby(lines)]
            names = [name for name, _ in groups]
            counts = [n for _, n in groups]
        elif n_captions % len(lines) == 0:
            names = lines
            counts = [n_captions // len(lines)] * len(lines)
        else:
            raise BadInput(
                f"{path} has {len(lines)} ids, but {captions.name} has {n_captions} captions; "
                "give one id per image, or one per caption"
            )
        if names != [str(i) for i in range(len(names))]:
            return names, np.array(counts, dtype=np.int64)
    else:
        if n_captions % captions_per_image:
            raise BadInput(
                f"{captions} has {n_captions} captions, not a multiple of {captions_per_image} per image; "
                f"correct captions_per_image, or name the images in {path.name}"
            )
        counts = [captions_per_image] * (n_captions // captions_per_image)
    # Bare numbers would repeat in every split.
    return [f"{stem}/{i}" for i in range(len(counts))], np.array(counts, dtype=np.int64)


def _captions(folder: Path, stem: str) -> list[str]:
    path = folder / f"{stem}_caps.txt"
    numbered = folder / f"{stem}_precaps_stan.txt"
    if path.is_file() or not numbered.is_file():
        return _lines(path, "a caption")
    words = _numbered_words(folder, numbered)
    captions = []
    for number, line in enumerate(_lines(numbered, "the numbers of a caption's words"), start=1):
        try:
            captions.append(" ".join(words[index.strip()] for index in line.split(",")))
        except KeyError as error:
            raise BadInput(
                f"{numbered}, line {number}: {error} is not a number of its vocabulary; provide {path.name} "
                "with the captions themselves"
            ) from error
    return captions


def _numbered_words(folder: Path, numbered: Path) -> dict[str, str]:
    """The words by number, with the sentence markers left empty."""
    places = (folder, folder / "vocab", folder.parent / "vocab")
    paths = [path for place in places for path in sorted(place.glob("*_vocab.json"))]
    own = [path for path in paths if path.name.startswith(folder.name)] or paths
    if not own:
        raise MissingInput(
            f"{folder / numbered.name.replace('precaps_stan', 'caps')} is missing, and {numbered.name} holds "
            "word numbers whose vocabulary is not there; put the captions there, or "
            f"{folder.name}_vocab.json"
        )
    content = read_json(own[0])
    words = content.get("idx2word") if isinstance(content, dict) else None
    if not isinstance(words, dict) or not all(isinstance(word, str) for word in words.values()):
        raise BadInput(f"{own[0]} has no object 'idx2word' of words; use the vocabulary of {numbered.name}")
    return {index: "" if word in MARKS else word for index, word in words.items()}


def _lines(path: Path, what: str) -> list[str]:
    """The lines of a text file, split only at newlines; BadInput for an empty one.

    Empty lines at the end of the file, which editors leave there, are ignored.
    """
    if not path.is_file():
        raise MissingInput(f"{path} is missing; give {what} per line")
    lines = [line.strip() for line in read_text(path).rstrip().split("\n")]
    if lines == [""]:
        raise BadInput(f"{path} is empty; give {what} per line, or remove the split's files")
    for number, line in enumerate(lines, start=1):
        if not line:
            raise BadInput(f"{path}, line {number} is empty; write {what} there")
    return lines
