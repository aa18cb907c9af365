"""What a test split shows a reader: its captions and small pictures, kept once for all runs of a data set.

A report is made later than its runs, and often on another machine, where the data set is not. So the first
job that is tested on a split leaves this beside the records, in ``RUNS/<data set>/``, named by the data's
fingerprint and by the split; what an earlier version ran gets it from the data set, wherever a report finds
that. Nothing of it counts in any number.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput, printable, tell, warn_once
from crossmodal_bench.core.files import parse_json, read_yaml
from crossmodal_bench.core.npy import load_npz
from crossmodal_bench.data.corpus import SPLITS, Corpus
from crossmodal_bench.data.equal_inputs import equal_captions, equal_pictures
from crossmodal_bench.data.images import ImageSource
from crossmodal_bench.data.language.words import tokenize
from crossmodal_bench.evaluation.items import owners
from crossmodal_bench.evaluation.protocols.protocol import PROTOCOLS
from crossmodal_bench.jobs.directory import JobDirectory, check_own
from crossmodal_bench.jobs.given.dataset import NamedDataset, read_dataset
from crossmodal_bench.jobs.record import Record

SIDE = 112
"""Pixels of a small picture's longer side."""
LARGEST_THUMBNAIL = 3 * 1024
"""Bytes of a small picture, before base64."""
SAME_WORDS = 0.8
"""Captions of two images are near-duplicates from this share of common words on (Jaccard's index)."""
SAME_LOOK = 24.0
"""Pictures are near-duplicates whose grids of 16 x 16 colours differ by at most this, as a root mean square
of the 0 to 255 of each channel. Saved again or scaled, a picture differs from itself by about 2; two photos
of one moment, or one object changed among several, by about 20."""

_QUALITIES = (60, 45, 30, 15)
_FINGERPRINT = re.compile("[0-9a-f]{16,64}")
_GRID = 16
_BLOCK = 1024  # pictures that are compared with all others together
_NUMBERS = ("owner", "picture", "sentence", "words", "rarest", "image_twin", "caption_twin")
_TEXTS = ("image_ids", "caption_ids", "captions")
_STORED = (*_TEXTS, *_NUMBERS, "thumbnails", "thumbnail_ends")


@dataclass(frozen=True, eq=False)
class Gallery:
    """The N images and M captions of one split, in the corpus's order.

    Attributes:
        image_ids: N names.
        caption_ids: M names.
        captions: M sentences; empty if the data set gives none.
        thumbnails: N small pictures as WebP, each empty if there is none; empty if there are none.
        owner: (M,) row of each caption's image.
        picture: (N,) numbers, equal for pictures of the same bytes.
        sentence: (M,) numbers, equal for captions of the same words.
        words: (M,) how many words each caption has.
        rarest: (M,) how many training captions have the rarest of its words; -1 for a caption without words.
        image_twin: (N,) whether another image of the split is a near-duplicate.
        caption_twin: (M,) whether a caption of another image is one.
    """

    image_ids: tuple[str, ...]
    caption_ids: tuple[str, ...]
    captions: tuple[str, ...]
    thumbnails: tuple[bytes, ...]
    owner: NDArray[np.int64]
    picture: NDArray[np.int64]
    sentence: NDArray[np.int64]
    words: NDArray[np.int64]
    rarest: NDArray[np.int64]
    image_twin: NDArray[np.bool_]
    caption_twin: NDArray[np.bool_]

    @cached_property
    def equal_pairs(self) -> NDArray[np.int64]:
        """Ascending, a number for each pair of picture and sentence that are right when equal inputs are."""
        return np.unique(self.pair_numbers(self.owner, np.arange(len(self.sentence))))

    def pair_numbers(self, images: NDArray[np.int64], captions: NDArray[np.int64]) -> NDArray[np.int64]:
        """One number for each pair of rows, the same for equal inputs."""
        size = int(self.sentence.max(initial=0)) + 1
        return self.picture[images] * size + self.sentence[captions]


def keep_gallery(files: JobDirectory, corpus: Corpus, split: str) -> None:
    """Leave a split's captions and small pictures beside the records, if they are not there yet.

    A job is worth more than what a page shows of it: where the pictures cannot be read or the file cannot be
    written, a warning says so and no more.

    Args:
        files: a job's that was tested on the split.
        corpus: the data.
        split: of them.
    """
    if corpus.captions is None and corpus.images is None:
        return
    path = files.shown_gallery(corpus.fingerprint, split)
    if path.is_file():
        return
    try:
        save_gallery(path, make_gallery(corpus, split))
    except (OSError, BadInput) as error:
        reason = error if isinstance(error, BadInput) else error.strerror
        warn_once(f"{path} is not kept ({reason}), so a report will show its queries by their ids")


def gallery_of(record: Record, runs: Path, data_root: Path | None) -> Gallery | None:
    """What a record's split shows.

    Args:
        record: of any folder.
        runs: the folder that a report is made of, where it is looked for too, and kept.
        data_root: where it is read from if it is not kept anywhere; None: nowhere.

    Returns:
        None if neither it nor the data set is there, or the data set has neither captions nor pictures.
    """
    fingerprint, split = record.data.fingerprint, record.evaluated_on
    # They become a part of a file's name, and a record may be anybody's.
    if not _FINGERPRINT.fullmatch(fingerprint) or split not in SPLITS:
        return None
    here = JobDirectory.of(runs, record.job.dataset, record.job.method, record.job.id)
    for path in dict.fromkeys(
        [record.files.shown_gallery(fingerprint, split), here.shown_gallery(fingerprint, split)]
    ):
        if path.is_file():
            try:
                return load_gallery(path)
            except BadInput as error:
                warn_once(f"{error}; queries are shown by their ids meanwhile")
                return None
    corpus = None if data_root is None else _corpus_of(record, data_root)
    if corpus is None or (corpus.captions is None and corpus.images is None):
        return None
    tell(f"Reading captions and pictures of {record.job.dataset}, once for all reports", sys.stderr)
    gallery = make_gallery(corpus, split)
    path = here.shown_gallery(fingerprint, split)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_gallery(path, gallery)
    except OSError as error:
        warn_once(f"{path} cannot be kept ({error.strerror}), so the next report reads the data set again")
    return gallery


def _corpus_of(record: Record, data_root: Path) -> Corpus | None:
    """The data that a record was measured on; None if they are not there, or others."""
    try:
        read = _configured if record.files.config.is_file() else _named
        corpus = read(record, data_root)
    # A configuration may be anybody's, and be refused in any library's words.
    except (OSError, BadInput, ValueError, TypeError):
        return None
    return corpus if corpus is not None and corpus.fingerprint == record.data.fingerprint else None


def _configured(record: Record, data_root: Path) -> Corpus | None:
    """The data of a record's configuration."""
    from crossmodal_bench.training.lightning_cli import instantiate

    check_own(record.files.config)
    config = read_yaml(record.files.config)
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        return None
    settings = {
        "data": {**config["data"], "root": str(data_root)},
        "model": {"class_path": "crossmodal_bench.methods.CCA"},
        "seed_everything": 0,
    }
    corpus: Corpus = instantiate(settings, accelerator="cpu", devices=1).datamodule.corpus
    return corpus


def _named(record: Record, data_root: Path) -> Corpus | None:
    """The data that a model from elsewhere was evaluated on, which has no configuration."""
    protocol = record.job.protocol
    named = NamedDataset(record.job.dataset, protocol if protocol in PROTOCOLS else "")
    counts = record.data.counts.get(record.evaluated_on, {})
    read = read_dataset(named, data_root, (counts.get("images", 0), counts.get("captions", 0)))
    return None if read is None else read.corpus


def make_gallery(corpus: Corpus, split: str) -> Gallery:
    """What a split shows; every one of its pictures is read, which takes some milliseconds each.

    Raises:
        BadInput: a picture's file cannot be opened to be compared with others.
    """
    images, texts = corpus.image_rows(split), corpus.caption_rows(split)
    owner = owners(corpus, split)
    thumbnails: list[bytes] = []
    grids = np.zeros((0, _GRID * _GRID * 3), np.float32)
    if corpus.images is not None:
        thumbnails, grids = _pictures(corpus.images.subset(images))
    captions: tuple[str, ...] = ()
    sentence = np.arange(len(texts))
    words: list[list[str]] = [[] for _ in texts]
    if corpus.captions is not None:
        captions = tuple(corpus.captions[row] for row in texts)
        sentence = equal_captions(captions)
        words = [tokenize(caption) for caption in captions]
    picture = equal_pictures(corpus, images)
    return Gallery(
        image_ids=tuple(corpus.image_ids[row] for row in images),
        caption_ids=tuple(corpus.caption_ids[row] for row in texts),
        captions=captions,
        thumbnails=tuple(thumbnails),
        owner=owner,
        picture=picture,
        sentence=sentence,
        words=np.array([len(each) for each in words], np.int64),
        rarest=_rarest(corpus, words),
        image_twin=_repeated(picture) | near_pictures(grids, len(images)),
        caption_twin=near_captions(words, owner),
    )


def _pictures(images: ImageSource) -> tuple[list[bytes], NDArray[np.float32]]:
    """Small pictures, and (N, 768) grids of colours; of one that cannot be read nothing, and no numbers."""
    thumbnails, grids = [], np.full((len(images), _GRID * _GRID * 3), np.nan, np.float32)
    for row in range(len(images)):
        try:
            picture = images[row]
        except BadInput:
            thumbnails.append(b"")
            continue
        thumbnails.append(thumbnail(picture))
        grids[row] = colour_grid(picture)
    return thumbnails, grids


def thumbnail(picture: Image.Image) -> bytes:
    """A picture of at most ``SIDE`` pixels a side as WebP of at most ``LARGEST_THUMBNAIL`` bytes.

    The same picture gives the same bytes. Empty where even the least quality needs more.
    """
    small = picture.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    for quality in _QUALITIES:
        stream = io.BytesIO()
        small.save(stream, "WEBP", quality=quality, method=4)
        if stream.tell() <= LARGEST_THUMBNAIL:
            return stream.getvalue()
    return b""


def colour_grid(picture: Image.Image) -> NDArray[np.float32]:
    """(768,) the mean red, green and blue of each of 16 x 16 cells."""
    cells = picture.resize((_GRID, _GRID), Image.Resampling.BOX)
    return np.asarray(cells, np.float32).ravel()


def near_pictures(grids: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """(count,) which pictures have another that differs by ``SAME_LOOK`` at most.

    Args:
        grids: (count, 768) colours, NaN where there is no picture; (0, 768) where there are none at all.
        count: of the pictures.
    """
    near = np.zeros(count, np.bool_)
    if not len(grids):
        return near
    # Around 0, so that float32 is exact enough for the difference of two large sums.
    centred = grids - 127.5
    squares = np.square(centred).sum(1)
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        squared = squares[block, None] + squares[None] - 2 * centred[block] @ centred.T
        # Each is like itself; what is no number is like nothing.
        alike = squared <= SAME_LOOK**2 * grids.shape[1]
        near[block] = alike.sum(1) > 1
    return near


def near_captions(words: Sequence[Sequence[str]], owner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(M,) which captions share ``SAME_WORDS`` of their words with a caption of another image.

    Two sets of that much in common share one of the rarest words of each, so that only those captions are
    compared which do (prefix filtering: Chaudhuri et al., "A Primitive Operator for Similarity Joins in Data
    Cleaning", ICDE 2006).

    Args:
        words: of each caption.
        owner: (M,) row of its image.
    """
    near = np.zeros(len(words), np.bool_)
    frequency = Counter(word for caption in words for word in set(caption))
    sets = [sorted(set(caption), key=lambda word: (frequency[word], word)) for caption in words]
    earlier: dict[str, list[int]] = defaultdict(list)
    for row, ordered in enumerate(sets):
        # What floating point makes of 0.8 * 5 must not count as more than 4.
        prefix = ordered[: len(ordered) - math.ceil(SAME_WORDS * len(ordered) - 1e-9) + 1]
        others = {other for word in prefix for other in earlier[word] if owner[other] != owner[row]}
        for other in others:
            if near[row] and near[other]:
                continue
            common = len(set(ordered).intersection(sets[other]))
            if common >= SAME_WORDS * (len(ordered) + len(sets[other]) - common) - 1e-9:
                near[[row, other]] = True
        for word in prefix:
            earlier[word].append(row)
    return near


def _rarest(corpus: Corpus, words: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """(M,) in how many training captions the rarest word of each caption stands; -1 without words."""
    frequency: Counter[str] = Counter()
    if corpus.captions is not None:
        for row in corpus.caption_rows("train"):
            frequency.update(set(tokenize(corpus.captions[row])))
    counts = [min((frequency[word] for word in caption), default=-1) for caption in words]
    return np.array(counts, np.int64)


def _repeated(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) which entries stand there more than once."""
    _, index, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return np.asarray(counts[index] > 1)


def save_gallery(path: Path, gallery: Gallery) -> None:
    """Write it, whole or not at all; the same gallery gives the same bytes.

    Raises:
        OSError: the file system refuses.
    """
    ends = np.cumsum([len(picture) for picture in gallery.thumbnails], dtype=np.int64)
    arrays = {
        # NumPy's arrays of text would be as wide as the longest caption, four bytes a character.
        **{name: _packed(getattr(gallery, name)) for name in _TEXTS},
        **{name: getattr(gallery, name) for name in _NUMBERS},
        "thumbnails": np.frombuffer(b"".join(gallery.thumbnails), np.uint8),
        "thumbnail_ends": ends,
    }
    replace_file(path, lambda stream: np.savez_compressed(stream, allow_pickle=False, **arrays))


def load_gallery(path: Path) -> Gallery:
    """What ``save_gallery`` wrote.

    Raises:
        BadInput: it is damaged, or a link out of RUNS.
    """
    # As any file of a job's directory, which lies a folder deeper (``check_own``).
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.parent.resolve()):
        raise _damaged(path, "it is a link out of RUNS")
    stored = load_npz(path, list(_STORED))
    texts = {name: _unpacked(path, name, stored[name]) for name in _TEXTS}
    images, count = len(texts["image_ids"]), len(texts["caption_ids"])
    for name in _NUMBERS:
        kind = "b" if name.endswith("_twin") else "i"
        size = images if name in ("picture", "image_twin") else count
        if stored[name].dtype.kind != kind or stored[name].shape != (size,):
            raise _damaged(path, f"its {name} are not one of each item")
    if len(texts["captions"]) not in (0, count):
        raise _damaged(path, "its captions are not one of each caption's id")
    if count and not 0 <= stored["owner"].min() <= stored["owner"].max() < images:
        raise _damaged(path, "a caption is of no image")
    for name in ("picture", "sentence"):
        if stored[name].min(initial=0) < 0 or stored[name].max(initial=0) > max(images, count):
            raise _damaged(path, f"its {name} are no numbers of items")
    thumbnails = tuple(_cut(path, stored["thumbnails"], stored["thumbnail_ends"]))
    if len(thumbnails) not in (0, images):
        raise _damaged(path, "its pictures are not one of each image")
    return Gallery(
        image_ids=texts["image_ids"],
        caption_ids=texts["caption_ids"],
        captions=texts["captions"],
        thumbnails=thumbnails,
        owner=stored["owner"].astype(np.int64),
        picture=stored["picture"].astype(np.int64),
        sentence=stored["sentence"].astype(np.int64),
        words=stored["words"].astype(np.int64),
        rarest=stored["rarest"].astype(np.int64),
        image_twin=stored["image_twin"],
        caption_twin=stored["caption_twin"],
    )


def _packed(texts: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(list(texts), ensure_ascii=False).encode(), np.uint8)


def _unpacked(path: Path, name: str, packed: NDArray[np.uint8]) -> tuple[str, ...]:
    try:
        texts = parse_json(packed.astype(np.uint8).tobytes().decode())
    except ValueError as error:
        raise _damaged(path, f"its {name} are no JSON") from error
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _damaged(path, f"its {name} are no texts")
    return tuple(texts)


def _cut(path: Path, joined: NDArray[np.uint8], ends: NDArray[np.int64]) -> Iterator[bytes]:
    """The single pictures; what is no small WebP is none."""
    content = joined.astype(np.uint8).tobytes()
    if ends.ndim != 1 or ends.dtype.kind != "i" or (np.diff(ends, prepend=0) < 0).any():
        raise _damaged(path, "its pictures overlap")
    if len(ends) and ends[-1] != len(content):
        raise _damaged(path, "its pictures are cut off")
    for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=len(ends) > 0):
        picture = content[start:end]
        whole = len(picture) <= LARGEST_THUMBNAIL and picture[:4] == b"RIFF" and picture[8:12] == b"WEBP"
        yield picture if whole else b""


def _damaged(path: Path, reason: str) -> BadInput:
    return BadInput(f"{path} is damaged ({printable(reason)}); delete it and run the report again")
