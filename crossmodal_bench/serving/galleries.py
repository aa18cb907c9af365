"""What is searched: the split that a run was tested on, a folder of pictures, or a file of sentences."""

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
"""Of the files that are taken for pictures."""
BATCH = 32
"""Pictures, or sentences, that are encoded together."""
EncodePictures = Callable[[Sequence[Image.Image]], Encoding]
EncodeSentences = Callable[[Sequence[str]], Encoding]
PictureOf = Callable[[str], Image.Image]


@dataclass(frozen=True)
class Gallery:
    """Encoded items, and where the pictures among them are.

    Attributes:
        encoded: the items.
        described: what they are, for people: "the 48 images of the test split of synthetic".
        picture_of: the picture of an image, by its id; None if there are no pictures.
    """

    encoded: EncodedGallery
    described: str
    picture_of: PictureOf | None = None


def run_fingerprint(record: Record) -> str:
    """Which training of which job: what is encoded by one is worth nothing to another."""
    return _digest(sorted(record.run.items()))


def cache_of(record: Record) -> Path:
    """Where the features of the folder of runs lie that a record is in.

    A run that was handed out is in none: what is made with it is in the user's own cache.
    """
    if record.files.exported_weights.is_file():
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossmodal-bench"
    above = record.directory.absolute().parents
    return above[min(2, len(above) - 1)] / "cache"


def caches_of(record: Record) -> JobDirectory:
    """Where encodings of galleries are kept: in the run's folder, unless that is one to hand out.

    Whoever passes that on passes on what is in it, and a user's pictures are nobody else's.
    """
    if record.files.exported_weights.is_file():
        return JobDirectory(cache_of(record) / "galleries" / run_fingerprint(record))
    return record.files


def kept_gallery(record: Record, data_root: Path, say: Callable[[str], None]) -> EncodedGallery:
    """The split that a run was tested on, with the encodings that its record was measured with.

    Small ones are in the run's folder. Others are made again, once, which takes the data.

    Args:
        record: the run's.
        data_root: where its data are.
        say: is told what takes long.

    Raises:
        BadInput: the encodings are not there, and the data that they could be made from neither.
    """
    files = record.files
    cached = files.cached_gallery(record.evaluated_on, run_fingerprint(record))
    for path in (files.encoded_gallery, cached):
        if os.path.lexists(path):
            return read_gallery(path)
    if files.exported_weights.is_file():
        raise BadInput(
            f"{record.directory} was handed out without the split that it was tested on; name what to "
            "search with --gallery"
        )
    say(f"Encoding the {record.evaluated_on} split of {record.job.dataset}, once")
    try:
        encoded = encode(record, data_root, cache_of(record), {})
    except BadInput as error:
        raise BadInput(
            f"{record.directory} has kept no encodings of its {record.evaluated_on} split, and they cannot "
            f"be made again: {error}"
        ) from error
    member = encoded.member
    gallery = gallery_of(encoded.corpus, record.evaluated_on, member.images.to("cpu"), member.texts.to("cpu"))
    _keep(files, record.evaluated_on, cached, gallery)
    return gallery


def folder_gallery(
    record: Record, folder: Path, encode_pictures: EncodePictures, progress: Progress | None
) -> Gallery:
    """The pictures below a folder; encoded where the run's folder does not have them as they are today.

    Args:
        record: of the run that encodes them.
        folder: of the pictures, which may are in folders of it.
        encode_pictures: the run's encoder.
        progress: told how far it is.

    Raises:
        BadInput: there is no picture that can be read.
    """
    paths = _pictures_below(folder)
    if not paths:
        raise BadInput(f"{folder} holds no picture; put files in {', '.join(SUFFIXES)} there")
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

    # Those that cannot be read are told one by one when the others are encoded, and counted ever after.
    broken = len(paths) - len(gallery.image_ids)
    more = f" ({broken:,} more cannot be read)" if broken else ""
    return Gallery(gallery, f"the {len(gallery.image_ids):,} pictures below {folder}{more}", picture_of)


def sentences_gallery(
    record: Record, path: Path, encode_sentences: EncodeSentences, progress: Progress | None
) -> Gallery:
    """The lines of a text file, encoded likewise.

    Raises:
        BadInput: it cannot be read, or holds no line.
    """
    sentences = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not sentences:
        raise BadInput(f"{path} holds no sentence; write one on each line")
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
        raise BadInput(f"{folder} is no folder; name a folder of pictures, or a text file of sentences")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _encoded_pictures(
    folder: Path, names: Sequence[str], encode_pictures: EncodePictures, progress: Progress | None
) -> tuple[list[str], list[Encoding]]:
    """Names and encodings of those pictures that can be read; the others are told."""
    readable: list[str] = []
    encodings: list[Encoding] = []
    for start in range(0, len(names), BATCH):
        pictures: list[Image.Image] = []
        for name in names[start : start + BATCH]:
            try:
                pictures.append(ImageFiles([folder / name])[0])
            except BadInput as error:
                warn_once(f"{str(error).partition(';')[0]}; it is left out")
            else:
                readable.append(name)
        if pictures:
            encodings.append(encode_pictures(pictures))
        if progress is not None:
            progress(min(start + BATCH, len(names)), len(names))
    if not encodings:
        raise BadInput(f"{folder} holds no picture that can be read; look at its files")
    return readable, encodings


def _keep(files: JobDirectory, place: str, path: Path, gallery: EncodedGallery) -> None:
    """Keep a gallery, in place of what the same place held before."""
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
