"""A finished run ready for use: search by a sentence or a picture, and encode new ones.

from crossmodal_bench import load
run = load("runs/synthetic/vse/0123456789abcdef")
run.search("a red circle at the top left", top=3)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from crossmodal_bench.core.class_paths import trust
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput, nearest, tell
from crossmodal_bench.data.features import Progress
from crossmodal_bench.data.images import ImageFiles
from crossmodal_bench.data.new_pictures import PictureEncoding
from crossmodal_bench.data.preprocessing import Preprocessing
from crossmodal_bench.evaluation.ranking.tiles import NonFiniteScore, ScoreTiles
from crossmodal_bench.evaluation.ranking.top import ordered_top
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.jobs.reference import results_folder
from crossmodal_bench.jobs.rows import row_of
from crossmodal_bench.serving.galleries import (
    BATCH,
    Gallery,
    PictureOf,
    cache_of,
    folder_gallery,
    kept_gallery,
    pictures_of,
    sentences_gallery,
)
from crossmodal_bench.training.checkpoints import chosen_checkpoint
from crossmodal_bench.training.trained_model import LoadedModel, load_model

SENTENCES = 256
"""Number of sentences encoded at a time."""
COMPARE_VECTORS = ("vse", "vsrn", "timam", "infonce", "siglip", "clip", "acmr", "cca", "sm")
"""Methods to suggest instead of one that does not compare vectors; a test checks each of them."""
Picture = str | Path | Image.Image
"""A file, or a Pillow image."""


@dataclass(frozen=True)
class Answer:
    """One of the items that best match a query.

    Attributes:
        rank: from 1.
        id: the item's id.
        score: the model's; scores of different models are not comparable.
        captions: the sentence itself, or the captions of the image, if known.
        image: the image that a sentence describes, if known; for an image, its own id.
    """

    rank: int
    id: str
    score: float
    captions: tuple[str, ...] = ()
    image: str = ""


class TrainedRun:
    """A finished run with its model, without the data it was trained on.

    Args:
        record: the run's.
        loaded: its model.
        data_root: folder with network weights, and with the data, to show pictures of the split the run was
            tested on.
        device: where the model runs.
    """

    def __init__(self, record: Record, loaded: LoadedModel, data_root: Path, device: torch.device) -> None:
        self.record = record
        self.device = device
        self.data_root = data_root
        self.model = loaded.model.to(device)
        self.preprocessing = Preprocessing(loaded.preprocessing)
        self.pictures = PictureEncoding(
            loaded.preprocessing, loaded.data.dataset, loaded.data.images.weights, data_root, device
        )
        self._data = loaded.data

    def __repr__(self) -> str:
        job = self.record.job
        return f"<{job.method} on {job.dataset}, {self.record.protocol_label}, seed {job.seed}>"

    @property
    def metrics(self) -> Mapping[str, float]:
        """The record's main-protocol metrics: recalls in percent, 1-based ranks, mAP as a fraction."""
        return self.record.metrics

    @property
    def intervals(self) -> Mapping[str, tuple[float, float]]:
        """95 % confidence intervals of the metrics over test images."""
        return self.record.intervals

    # ---- encoding ---------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode_texts(self, sentences: Sequence[str]) -> Encoding:
        """M sentences encoded for comparison, on the CPU.

        Raises:
            BadInput: an empty sentence, or a model that cannot encode new sentences.
        """
        if isinstance(sentences, str):
            raise BadInput("encode_texts takes a list of sentences; wrap a single one in a list")
        parts = []
        for start in range(0, max(len(sentences), 1), SENTENCES):
            batch = self.preprocessing.texts(sentences[start : start + SENTENCES]).to(self.device)
            parts.append(self.model.encode_texts(batch).to("cpu"))
        return Encoding.cat(parts)

    @torch.inference_mode()
    def encode_images(self, pictures: Sequence[Picture]) -> Encoding:
        """N pictures encoded for comparison, on the CPU.

        Raises:
            BadInput: a file that is not a picture, or a model that cannot encode new pictures.
        """
        if isinstance(pictures, str | Path | Image.Image):
            raise BadInput("encode_images takes a list of pictures; wrap a single one in a list")
        if not pictures:
            raise BadInput("the list of pictures is empty; give at least one")
        parts = []
        for start in range(0, len(pictures), BATCH):
            opened = [_opened(picture) for picture in pictures[start : start + BATCH]]
            parts.append(self.model.encode_images(self.pictures.batch(opened).to(self.device)).to("cpu"))
        return Encoding.cat(parts)

    def vectors_of_texts(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """(M, D) vectors in the space of ``crossmodal-bench export-embeddings``.

        Raises:
            BadInput: as ``encode_texts``, and for a method that does not score by a similarity of two
                vectors.
        """
        return self._vectors(lambda: self.encode_texts(sentences))

    def vectors_of_images(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """(N, D) vectors, in the same space."""
        return self._vectors(lambda: self.encode_images(pictures))

    def _vectors(self, encoded: Callable[[], Encoding]) -> NDArray[np.float32]:
        check_vectors(self)
        return self.model.comparable_vectors(encoded()).float().numpy()

    # ---- searching --------------------------------------------------------------------------------------

    def search(
        self,
        text: str | None = None,
        *,
        image: Picture | None = None,
        gallery: Path | str | None = None,
        top: int = 10,
        progress: Progress | None = None,
    ) -> list[Answer]:
        """The images that best match a sentence, or the sentences that best match a picture.

        Args:
            text: a sentence, to search for images.
            image: or a picture, to search for sentences.
            gallery: a folder of pictures (for ``text``), or a text file with one sentence per line (for
                ``image``); None: the split the run was tested on.
            top: number of answers.
            progress: called with the progress when a gallery is encoded for the first time.

        Raises:
            BadInput: neither or both of ``text`` and ``image``, a sentence without any word the model knows,
                or something this model cannot encode; the message says what would be needed.
        """
        if top < 1:
            raise BadInput(f"--top is {top}; give the number of answers to show, at least 1")
        # The query first: a bad one must fail before a gallery is encoded.
        query = self.encoded_query(text, image=image)
        searched = self.gallery(gallery, of_pictures=text is not None, progress=progress)
        return self.answers(query, searched, of_pictures=text is not None, top=top)

    def encoded_query(self, text: str | None = None, *, image: Picture | None = None) -> Encoding:
        """A sentence or a picture, encoded for ``answers``.

        Raises:
            BadInput: as ``search``.
        """
        if text is not None and image is None:
            self.check_options(text)
            return self.encode_texts([text])
        if image is not None and text is None:
            return self.encode_images([image])
        raise BadInput("a search needs a sentence or a picture; give exactly one of them")

    def gallery(
        self, named: Path | str | None = None, *, of_pictures: bool, progress: Progress | None = None
    ) -> Gallery:
        """The gallery of ``search``, encoded.

        Raises:
            BadInput: as ``search``.
        """
        if named is not None:
            path = Path(named)
            if of_pictures:
                if path.is_file():
                    raise BadInput(
                        f"{path} is a file, but a sentence searches pictures; name a folder of them"
                    )
                if self.pictures.refusal:
                    raise BadInput(f"{path} cannot be searched: {self.pictures.refusal}")
                return folder_gallery(self.record, path, self.encode_images, progress)
            if path.is_dir():
                raise BadInput(
                    f"{path} is a folder, but a picture searches sentences; name a text file of them"
                )
            return sentences_gallery(self.record, path, self.encode_texts, progress)
        encoded = self._split
        count = len(encoded.encoded.image_ids if of_pictures else encoded.encoded.caption_ids)
        what = "images" if of_pictures else "captions"
        described = f"the {count:,} {what} of {self.record.job.dataset}'s {self.record.evaluated_on} split"
        return Gallery(encoded.encoded, described, encoded.picture_of)

    def answers(self, query: Encoding, searched: Gallery, *, of_pictures: bool, top: int) -> list[Answer]:
        """The best items of a gallery for one encoded query."""
        encoded = searched.encoded
        side = encoded.images if of_pictures else encoded.texts
        if side is None:
            raise BadInput(f"{searched.described} contains nothing to search")
        scores = self._scores(side, query) if of_pictures else self._scores(query, side).T
        values, rows = ordered_top(scores.reshape(1, -1), top)
        answers = []
        for rank, (value, row) in enumerate(zip(values[0].tolist(), rows[0].tolist(), strict=True), start=1):
            if of_pictures:
                name = encoded.image_ids[row]
                answers.append(Answer(rank, name, value, tuple(encoded.captions_of(row)), name))
                continue
            sentence = encoded.captions[row : row + 1]
            owner = encoded.caption_image[row : row + 1]
            image = encoded.image_ids[int(owner[0])] if len(owner) else ""
            answers.append(Answer(rank, encoded.caption_ids[row], value, sentence, image))
        return answers

    def _scores(self, images: Encoding, texts: Encoding) -> Tensor:
        tiles = ScoreTiles(images, texts, self.model.score, device=self.device)
        try:
            rows = [
                torch.cat([tiles(row, column).cpu() for column in range(len(tiles.columns))], 1)
                for row in range(len(tiles.rows))
            ]
        except NonFiniteScore as error:
            raise BadInput(f"the model's scores are not finite ({error}); its training went wrong") from error
        return torch.cat(rows)

    # ---- words ------------------------------------------------------------------------------------------

    def unknown_words(self, text: str) -> list[str]:
        """The words of a sentence that the model does not know, in order."""
        return self.preprocessing.unknown_words(text)

    def check_options(self, text: str) -> None:
        """Raise BadInput for a sentence that has no word the model knows, or that it cannot encode."""
        if self.preprocessing.refusal:
            raise BadInput(self.preprocessing.refusal)
        if not text.strip():
            raise BadInput("the sentence is empty; describe what to look for")
        if not self.preprocessing.knows_a_word(text):
            known = self.preprocessing.known_words()
            count = f"one of the {len(known):,} words" if known else "made of word pieces"
            raise BadInput(
                f"no word of '{text}' is {count} that this model knows; use words from the captions of "
                f"{self.record.job.dataset}"
            )

    def word_remarks(self, text: str) -> list[str]:
        """A remark about each unknown word, with the nearest known one if there is one."""
        known = self.preprocessing.known_words()
        remarks = []
        for word in self.unknown_words(text):
            hint = nearest(word, known)
            near = hint if "did you mean" in hint else ""
            remarks.append(f"'{word}' is unknown to this model and carries no meaning{near}")
        return remarks

    # ---- what it was tested on ----------------------------------------------------------------------------

    @cached_property
    def _split(self) -> Gallery:
        # Standard output is reserved for the answers, which programs may read.
        kept = kept_gallery(self.record, self.data_root, lambda line: tell(line, sys.stderr))
        return Gallery(kept, "", self._picture_of)

    def _picture_of(self, name: str) -> Image.Image:
        """A picture of the data set; KeyError if its file is missing."""
        if self._pictures is None:
            raise KeyError(name)
        return self._pictures(name)

    @cached_property
    def _pictures(self) -> PictureOf | None:
        # Loaded lazily: answers in text form need not wait for it.
        try:
            return pictures_of(self._data.dataset.read(self._data.root))
        except BadInput:
            return None


def load(
    run: str | Path,
    *,
    data_root: str | Path = "data",
    runs: str | Path = "runs",
    device: str = "auto",
    plugins: Sequence[str] = (),
) -> TrainedRun:
    """Load a finished run for use; the data it was trained on are not needed.

    Args:
        run: a job's directory or record, or DATASET/METHOD in ``runs`` if that is a single job; or a folder
            written by `crossmodal-bench export-weights`.
        data_root: where to look for network weights, and for pictures to show.
        runs: the folder of the runs.
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        plugins: your own packages whose classes the run's configuration may name.

    Raises:
        BadInput: there is no such run, it has no model, or its files cannot be used.
    """
    if plugins:
        trust(tuple(plugins))
    record = single_record(run, Path(runs))
    loaded = load_model(record, Path(data_root), cache_of(record))
    return TrainedRun(record, loaded, Path(data_root), _device(device))


def single_record(run: str | Path, runs: Path) -> Record:
    """The record of a single job that has a model.

    Raises:
        BadInput: there is no such run, there are several, or it has no model of its own.
    """
    records = row_of(run, [runs, results_folder()])
    if len(records) > 1:
        listed = ", ".join(f"{record.directory} (seed {record.job.seed})" for record in records)
        raise BadInput(f"{run} contains {len(records)} runs; name one of them: {listed}")
    record = records[0]
    if record.ensemble:
        members = ", ".join(member.directory for member in record.ensemble)
        raise BadInput(f"{record.directory} is an ensemble of several models; name one of them: {members}")
    if record.job.preset == "given":
        raise BadInput(
            f"{record.directory} was evaluated from vectors and has no model; name a job in {runs}"
        )
    if not _has_model(record.files, record):
        raise BadInput(
            f"{record.directory} has no weights, like all rows of results/; "
            f"run its job first (crossmodal-bench reproduce {run}), or name a job in {runs}"
        )
    return record


def _has_model(files: JobDirectory, record: Record) -> bool:
    return files.exported_weights.is_file() or chosen_checkpoint(files, record.selection.metric).is_file()


def check_vectors(run: TrainedRun) -> None:
    """Raise BadInput for a run whose method does not score by a similarity of two vectors."""
    if run.model.vector_similarity is None:
        raise BadInput(
            f"{run.record.job.method} does not score by one vector per image and per sentence, so its "
            "vectors cannot be indexed; search with crossmodal-bench retrieve, or choose "
            f"a method that compares vectors ({', '.join(COMPARE_VECTORS)})"
        )


def _device(word: str) -> torch.device:
    if word == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if word not in ("cpu", "cuda"):
        raise BadInput(f"--device is '{word}'; give auto, cpu or cuda")
    if word == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device is cuda, but torch has no usable GPU; give cpu")
    return torch.device(word)


def _opened(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    path = Path(picture)
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name a picture in it")
    if not path.is_file():
        raise BadInput(f"{path} does not exist; name a picture")
    try:
        return ImageFiles([path])[0]
    except BadInput as error:
        # A data set's picture can be skipped; a query cannot.
        raise BadInput(f"{str(error).partition(';')[0]}; name another picture") from error
