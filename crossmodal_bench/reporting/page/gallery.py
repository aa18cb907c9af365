"""What a page shows of a test split: its captions and thumbnails, stored once for all runs on a data set.

A report is made later than its runs, and often on another machine that does not have the data set. So the
first job tested on a split stores these with the records, in ``RUNS/<data set>/``, named by the data's
fingerprint and the split; for runs of earlier versions, a report reads them from the data set if it can find
it. No number depends on any of it.
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
"""Longer side of a thumbnail, in pixels."""
LARGEST_THUMBNAIL = 3 * 1024
"""Maximum size of a thumbnail in bytes, before base64."""
SAME_WORDS = 0.8
"""Captions of two images are near-duplicates from this Jaccard index of their words."""
SAME_LOOK = 24.0
"""Pictures are near-duplicates if their 16 x 16 grids of colours differ by at most this root mean square, on
a scale of 0 to 255 per channel. A picture differs from a resaved or rescaled copy by about 2; two photos of
one moment, or of several objects of which one changed, by about 20."""

_QUALITIES = (60, 45, 30, 15)
_FINGERPRINT = re.compile("[0-9a-f]{16,64}")
_GRID = 16
_BLOCK = 1024  # pictures compared with all others at a time
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
        thumbnails: N thumbnails as WebP, empty for missing pictures; an empty tuple if there are none.
        owner: (M,) row of each caption's image.
        picture: (N,) numbers, equal for byte-identical pictures.
        sentence: (M,) numbers, equal for captions with the same words.
        words: (M,) number of words of each caption.
        rarest: (M,) number of training captions with the caption's rarest word; -1 without words.
        image_twin: (N,) whether another image of the split is a near-duplicate.
        caption_twin: (M,) whether a caption of another image is a near-duplicate.
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
        """Sorted numbers of the picture-sentence pairs that are correct if equal inputs count as one."""
        return np.unique(self.pair_numbers(self.owner, np.arange(len(self.sentence))))

    def pair_numbers(self, images: NDArray[np.int64], captions: NDArray[np.int64]) -> NDArray[np.int64]:
        """One number per pair of rows, the same for equal inputs."""
        size = int(self.sentence.max(initial=0)) + 1
        return self.picture[images] * size + self.sentence[captions]


def keep_gallery(files: JobDirectory, corpus: Corpus, split: str) -> None:
    """Store a split's captions and thumbnails with the records, if they are not there yet.

    This must never fail the job: if pictures cannot be read or the file cannot be written, it only warns.


    Args:
        files: those of a job that was tested on the split.
        corpus: the data.
        split: the split of the data.
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
        warn_once(f"{path} is not saved ({reason}), so reports will show its queries by their ids")


def gallery_of(record: Record, runs: Path, data_root: Path | None) -> Gallery | None:
    """The gallery of a record's split.

    Args:
        record: a record from any folder.
        runs: the folder of the report, where the gallery is also looked for, and saved.
        data_root: where to read it from if it is not stored anywhere; None: nowhere.

    Returns:
        None if neither it nor the data set exists, or the data set has neither captions nor pictures.
    """
    fingerprint, split = record.data.fingerprint, record.evaluated_on
    # They become part of a file name, and the record may come from anyone.
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
                warn_once(f"{error}; queries are shown by their ids until then")
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
        warn_once(f"{path} cannot be saved ({error.strerror}), so the next report reads the data set again")
    return gallery


def _corpus_of(record: Record, data_root: Path) -> Corpus | None:
    """The data a record was measured on; None if they are missing or different."""
    try:
        read = _configured if record.files.config.is_file() else _named
        corpus = read(record, data_root)
    # The configuration may come from anyone, and fail with any library's exception.
    except (OSError, BadInput, ValueError, TypeError):
        return None
    return corpus if corpus is not None and corpus.fingerprint == record.data.fingerprint else None


def _configured(record: Record, data_root: Path) -> Corpus | None:
    """The data that a record's configuration reads."""
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
    """The data that a user's own model, which has no configuration, was evaluated on."""
    protocol = record.job.protocol
    named = NamedDataset(record.job.dataset, protocol if protocol in PROTOCOLS else "")
    counts = record.data.counts.get(record.evaluated_on, {})
    read = read_dataset(named, data_root, (counts.get("images", 0), counts.get("captions", 0)))
    return None if read is None else read.corpus


def make_gallery(corpus: Corpus, split: str) -> Gallery:
    """The gallery of a split; reads all of its pictures, which takes a few milliseconds each.

    Raises:
        BadInput: a picture's file cannot be opened for comparison with others.
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
    """Thumbnails and (N, 768) colour grids; empty and NaN for unreadable pictures."""
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

    The same picture gives the same bytes. Empty if even the lowest quality needs more.
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
    """(count,) whether another picture differs by at most ``SAME_LOOK``.

    Args:
        grids: (count, 768) colours, NaN for missing pictures; (0, 768) if there are none at all.
        count: number of pictures.
    """
    near = np.zeros(count, np.bool_)
    if not len(grids):
        return near
    # Centred at 0, so that float32 is precise enough for the difference of two large sums.
    centred = grids - 127.5
    squares = np.square(centred).sum(1)
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        squared = squares[block, None] + squares[None] - 2 * centred[block] @ centred.T
        # Every picture matches itself; NaN matches nothing.
        alike = squared <= SAME_LOOK**2 * grids.shape[1]
        near[block] = alike.sum(1) > 1
    return near


def near_captions(words: Sequence[Sequence[str]], owner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(M,) whether a caption shares ``SAME_WORDS`` of its words with one of another image.

    Two sets with that much in common share one of the rarest words of each, so only captions that do are
    compared (prefix filtering: Chaudhuri et al., "A Primitive Operator for Similarity Joins in Data
    Cleaning", ICDE 2006).

    Args:
        words: the words of each caption.
        owner: (M,) row of the caption's image.
    """
    near = np.zeros(len(words), np.bool_)
    frequency = Counter(word for caption in words for word in set(caption))
    sets = [sorted(set(caption), key=lambda word: (frequency[word], word)) for caption in words]
    earlier: dict[str, list[int]] = defaultdict(list)
    for row, ordered in enumerate(sets):
        # Floating-point error must not make 0.8 * 5 exceed 4.
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
    """(M,) number of training captions with each caption's rarest word; -1 without words."""
    frequency: Counter[str] = Counter()
    if corpus.captions is not None:
        for row in corpus.caption_rows("train"):
            frequency.update(set(tokenize(corpus.captions[row])))
    counts = [min((frequency[word] for word in caption), default=-1) for caption in words]
    return np.array(counts, np.int64)


def _repeated(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) which entries occur more than once."""
    _, index, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return np.asarray(counts[index] > 1)


def save_gallery(path: Path, gallery: Gallery) -> None:
    """Write it atomically; the same gallery gives the same bytes.

    Raises:
        OSError: the file cannot be written.
    """
    ends = np.cumsum([len(picture) for picture in gallery.thumbnails], dtype=np.int64)
    arrays = {
        # NumPy text arrays would be as wide as the longest caption, at four bytes per character.
        **{name: _packed(getattr(gallery, name)) for name in _TEXTS},
        **{name: getattr(gallery, name) for name in _NUMBERS},
        "thumbnails": np.frombuffer(b"".join(gallery.thumbnails), np.uint8),
        "thumbnail_ends": ends,
    }
    replace_file(path, lambda stream: np.savez_compressed(stream, allow_pickle=False, **arrays))


def load_gallery(path: Path) -> Gallery:
    """Read a file written by ``save_gallery``.

    Raises:
        BadInput: it is damaged, or a link out of RUNS.
    """
    # As for files of a job's directory, which is one folder deeper (``check_own``).
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.parent.resolve()):
        raise _damaged(path, "it is a link out of RUNS")
    stored = load_npz(path, list(_STORED))
    texts = {name: _unpacked(path, name, stored[name]) for name in _TEXTS}
    images, count = len(texts["image_ids"]), len(texts["caption_ids"])
    for name in _NUMBERS:
        kind = "b" if name.endswith("_twin") else "i"
        size = images if name in ("picture", "image_twin") else count
        if stored[name].dtype.kind != kind or stored[name].shape != (size,):
            raise _damaged(path, f"{name} must have one entry per item")
    if len(texts["captions"]) not in (0, count):
        raise _damaged(path, "captions must have one entry per caption id")
    if count and not 0 <= stored["owner"].min() <= stored["owner"].max() < images:
        raise _damaged(path, "a caption has no image")
    for name in ("picture", "sentence"):
        if stored[name].min(initial=0) < 0 or stored[name].max(initial=0) > max(images, count):
            raise _damaged(path, f"{name} must be item numbers")
    thumbnails = tuple(_cut(path, stored["thumbnails"], stored["thumbnail_ends"]))
    if len(thumbnails) not in (0, images):
        raise _damaged(path, "it must have one picture per image")
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
        raise _damaged(path, f"{name} is not JSON") from error
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _damaged(path, f"{name} is not a list of strings")
    return tuple(texts)


def _cut(path: Path, joined: NDArray[np.uint8], ends: NDArray[np.int64]) -> Iterator[bytes]:
    """The single pictures; anything that is not a small WebP counts as missing."""
    content = joined.astype(np.uint8).tobytes()
    if ends.ndim != 1 or ends.dtype.kind != "i" or (np.diff(ends, prepend=0) < 0).any():
        raise _damaged(path, "its pictures overlap")
    if len(ends) and ends[-1] != len(content):
        raise _damaged(path, "its pictures are truncated")
    for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=len(ends) > 0):
        picture = content[start:end]
        whole = len(picture) <= LARGEST_THUMBNAIL and picture[:4] == b"RIFF" and picture[8:12] == b"WEBP"
        yield picture if whole else b""


def _damaged(path: Path, reason: str) -> BadInput:
    return BadInput(f"{path} is damaged ({printable(reason)}); delete it and run the report again")
