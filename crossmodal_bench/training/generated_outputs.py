"""What a tested model generates of its split: captions that it writes, pictures that it draws (GXN)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.text import Vocabulary
from crossmodal_bench.evaluation import Ranks
from crossmodal_bench.evaluation.items import owners
from crossmodal_bench.evaluation.retrieved_captions import written_caption_quality
from crossmodal_bench.jobs.directory import JobDirectory, write_text
from crossmodal_bench.methods import RetrievalMethod
from crossmodal_bench.training.callbacks import RetrievalEvaluation

SHOWN = 4
"""Queries that are shown of each direction."""


@dataclass(frozen=True)
class GeneratedOutputs:
    """What there is to look at of a tested model.

    Attributes:
        files: where pictures of it are kept.
        corpus, split: what was searched.
        ranks: of the split, if it was ranked.
        written: a caption for each image of the split, or nothing.
        drawn: (n, 3, H, W), -1 to 1, for the captions that ``shown_queries`` picks, or None.
        vocabulary, word_vectors: the words, and (V, D) what the model has learnt of them, or None.
    """

    files: JobDirectory
    corpus: Corpus
    split: str
    ranks: Ranks | None
    written: list[str]
    drawn: Tensor | None
    vocabulary: Vocabulary | None
    word_vectors: NDArray[np.floating] | None


Illustrate = Callable[[GeneratedOutputs], None]
"""Draws pictures of generated outputs and leaves them with the job's files."""


def shown_queries(count: int) -> list[int]:
    """Positions of the queries that are shown: evenly spread, the same for every model."""
    return sorted({round(position) for position in np.linspace(0, count - 1, min(SHOWN, count))})


def generate(
    files: JobDirectory,
    model: RetrievalMethod,
    data: CrossModalDataModule,
    split: str,
    retrieval: RetrievalEvaluation,
    ranks: Ranks | None,
) -> GeneratedOutputs:
    """Have a tested model write and draw; what it has written is kept in the job's directory.

    Args:
        files: the job's.
        model, data, split: what was tested.
        retrieval: which has kept the split's encodings.
        ranks: of the split, if it was ranked.
    """
    assert retrieval.encodings is not None
    images, texts = retrieval.encodings
    corpus = data.corpus
    written: list[str] = []
    drawn: Tensor | None = None
    vectors: NDArray[np.floating] | None = None
    embedding = getattr(model, "words", None)
    if corpus.captions is not None:
        if isinstance(embedding, nn.Embedding):
            vectors = embedding.weight.detach().float().cpu().numpy()
        model.eval()
        written = model.write(images)
        shown = torch.tensor(shown_queries(len(texts)))
        with torch.random.fork_rng():
            # The same noise for every model, whatever it has drawn before.
            torch.manual_seed(0)
            drawn = model.draw(texts.take(shown.to(texts.values.device)))
    if written:
        ids = [corpus.image_ids[row] for row in corpus.image_rows(split)]
        by_image = dict(zip(ids, written, strict=True))
        write_text(files.written_captions, json.dumps(by_image, indent=1))
    return GeneratedOutputs(files, corpus, split, ranks, written, drawn, data.views.vocabulary, vectors)


def written_caption_metrics(outputs: GeneratedOutputs) -> dict[str, float]:
    """The metrics of the captions that were written; empty for a model that writes nothing."""
    if not outputs.written:
        return {}
    corpus = outputs.corpus
    assert corpus.captions is not None
    references: list[list[str]] = [[] for _ in outputs.written]
    rows = corpus.caption_rows(outputs.split)
    for row, image in zip(rows, owners(corpus, outputs.split), strict=True):
        references[image].append(corpus.captions[row])
    return written_caption_quality(outputs.written, references)
