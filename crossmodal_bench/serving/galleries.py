"""Galleries to search: the split a run was tested on, a folder of pictures, or a file of sentences."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput, warn_once
from crossmodal_bench.core.files import read_text
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.features import Progress
from crossmodal_bench.data.images import ImageFiles
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.encoded_gallery import EncodedGallery, gallery_of, read_gallery, write_gallery
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.training.trained_model import encode

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of files treated as pictures."""
BATCH = 32
"""Number of pictures or sentences encoded at a time."""
EncodePictures = Callable[[Sequence[Image.Image]], Encoding]
EncodeSentences = Callable[[Sequence[str]], Encoding]
PictureOf = Callable[[str], Image.Image]


@dataclass(frozen=True)
class Gallery:
    """Encoded items, and access to their pictures.

    Attributes:
        encoded: the items.
        described: a description for users: "the 48 images of the test split of synthetic".
        picture_of: returns the picture of an image by its id; None if there are no pictures.
    """

    encoded: EncodedGallery
    described: str
    picture_of: PictureOf | None = None


def run_fingerprint(record: Record) -> str:
    """Identifies the job and the training: encodings by one model are useless to another."""
    return _digest(sorted(record.run.items()))


def cache_of(record: Record) -> Path:
    """The feature cache of the folder of runs that contains the record.

    An exported run is in no such folder; its features go to the user's own cache.
    """
    if record.files.exported_weights.is_file():
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossmodal-bench"
    above = record.directory.absolute().parents
    return above[min(2, len(above) - 1)] / "cache"


def caches_of(record: Record) -> JobDirectory:
    """Where encodings of galleries are kept: in the run's folder, unless it is an exported one.

    An exported folder is passed on with everything in it, and a user's pictures must not be.
    """
    if record.files.exported_weights.is_file():
        return JobDirectory(cache_of(record) / "galleries" / run_fingerprint(record))
    return record.files


def kept_gallery(record: Record, data_root: Path, say: Callable[[str], None]) -> EncodedGallery:
    """The split a run was tested on, with the encodings from which its record was computed.

    Small ones are stored in the run's folder. Others are recomputed once, which needs the data.

    Args:
        record: the run's.
        data_root: where its data are.
        say: called before slow steps.

    Raises:
        BadInput: neither the encodings nor the data to compute them from are available.
    """
    files = record.files
    cached = files.cached_gallery(record.evaluated_on, run_fingerprint(record))
    for path in (files.encoded_gallery, cached):
        if os.path.lexists(path):
            return read_gallery(path)
    if files.exported_weights.is_file():
        raise BadInput(
            f"{record.directory} is an exported run without its test split; name what to search with "
            "--gallery"
        )
    say(f"Encoding the {record.evaluated_on} split of {record.job.dataset}, once")
    try:
        encoded = encode(record, data_root, cache_of(record), {})
    except BadInput as error:
        raise BadInput(
            f"{record.directory} has no stored encodings of its {record.evaluated_on} split, and they "
            f"cannot be recomputed: {error}"
        ) from error
    member = encoded.member
    gallery = gallery_of(encoded.corpus, record.evaluated_on, member.images.to("cpu"), member.texts.to("cpu"))
    _keep(files, record.evaluated_on, cached, gallery)
    return gallery


def folder_gallery(
    record: Record, folder: Path, encode_pictures: EncodePictures, progress: Progress | None
) -> Gallery:
    """The pictures in a folder, encoded unless the run's folder has up-to-date encodings of them.

    Args:
        record: that of the run that encodes them.
        folder: the folder of pictures, searched recursively.
        encode_pictures: the run's encoder.
        progress: called with the progress.

    Raises:
        BadInput: there is no readable picture.
    """
    paths = _pictures_below(folder)
    if not paths:
        raise BadInput(f"{folder} contains no pictures; put {', '.join(SUFFIXES)} files there")
    stated = [(path.relative_to(folder).as_posix(), path.stat()) for path in paths]
    state = [(name, status.st_size, status.st_mtime_ns) for name, status in stated]
    place = f"pictures-{_digest([str(folder.resolve())])}"
    caches = caches_of(record)
    path = caches.cached_gallery(place, _digest([run_fingerprint(record), *state]))
    if os.path.lexists(path):
        gallery = read_gallery(path)
    else:
        names, encodings = _encoded_pictures(folder, [name for name, _ in stated], encode_pictures, progress)
        gallery = EncodedGallery(str(folder), tuple(names), Encoding.cat(encodings))
        _keep(caches, place, path, gallery)
    known = set(gallery.image_ids)

    def picture_of(name: str) -> Image.Image:
        if name not in known:
            raise KeyError(name)
        return ImageFiles([folder / name])[0]

    # Unreadable pictures are reported one by one when the others are encoded, and only counted later.
    broken = len(paths) - len(gallery.image_ids)
    more = f" ({broken:,} more are unreadable)" if broken else ""
    return Gallery(gallery, f"the {len(gallery.image_ids):,} pictures in {folder}{more}", picture_of)


def sentences_gallery(
    record: Record, path: Path, encode_sentences: EncodeSentences, progress: Progress | None
) -> Gallery:
    """The lines of a text file, encoded the same way.

    Raises:
        BadInput: it cannot be read, or is empty.
    """
    sentences = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not sentences:
        raise BadInput(f"{path} contains no sentences; write one per line")
    place = f"sentences-{_digest([str(path.resolve())])}"
    caches = caches_of(record)
    cache = caches.cached_gallery(place, _digest([run_fingerprint(record), *sentences]))
    if os.path.lexists(cache):
        gallery = read_gallery(cache)
    else:
        encodings = []
        for start in range(0, len(sentences), BATCH):
            encodings.append(encode_sentences(sentences[start : start + BATCH]))
            if progress is not None:
                progress(min(start + BATCH, len(sentences)), len(sentences))
        gallery = EncodedGallery(
            str(path),
            caption_ids=tuple(f"line {number}" for number in range(1, len(sentences) + 1)),
            texts=Encoding.cat(encodings),
            captions=tuple(sentences),
        )
        _keep(caches, place, cache, gallery)
    return Gallery(gallery, f"the {len(sentences):,} sentences of {path}")


def pictures_of(corpus: Corpus) -> PictureOf | None:
    """The pictures of a corpus by their ids; None if it has none."""
    images = corpus.images
    if images is None:
        return None
    rows = {name: row for row, name in enumerate(corpus.image_ids)}
    return lambda name: images[rows[name]]


def _pictures_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; name a folder of pictures, or a text file of sentences")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _encoded_pictures(
    folder: Path, names: Sequence[str], encode_pictures: EncodePictures, progress: Progress | None
) -> tuple[list[str], list[Encoding]]:
    """Names and encodings of the readable pictures; the others are reported."""
    readable: list[str] = []
    encodings: list[Encoding] = []
    for start in range(0, len(names), BATCH):
        pictures: list[Image.Image] = []
        for name in names[start : start + BATCH]:
            try:
                pictures.append(ImageFiles([folder / name])[0])
            except BadInput as error:
                warn_once(f"{str(error).partition(';')[0]}; it is skipped")
            else:
                readable.append(name)
        if pictures:
            encodings.append(encode_pictures(pictures))
        if progress is not None:
            progress(min(start + BATCH, len(names)), len(names))
    if not encodings:
        raise BadInput(f"{folder} contains no readable picture; check its files")
    return readable, encodings


def _keep(files: JobDirectory, place: str, path: Path, gallery: EncodedGallery) -> None:
    """Store a gallery, replacing an earlier one of the same place."""
    try:
        files.path.mkdir(parents=True, exist_ok=True)
        earlier = files.cached_galleries(place)
        write_gallery(path, gallery)
        for old in earlier:
            old.unlink(missing_ok=True)
    except OSError as error:
        warn_once(
            f"{path} cannot be written ({error.strerror or error}), so the gallery will be encoded again "
            "next time"
        )


def _digest(parts: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part!r}\n".encode())
    return digest.hexdigest()[:12]
