"""A tested model's outputs to look at: what it retrieves, writes and draws (the latter two only for GXN)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.text import Vocabulary
from crossmodal_bench.evaluation import Ranks
from crossmodal_bench.evaluation.items import items_of, owners
from crossmodal_bench.evaluation.protocols.protocol import Protocol
from crossmodal_bench.evaluation.ranking.query_ranks import Side
from crossmodal_bench.evaluation.retrieved_captions import written_caption_quality
from crossmodal_bench.jobs.directory import JobDirectory, write_text
from crossmodal_bench.methods import RetrievalMethod
from crossmodal_bench.training.callbacks import RetrievalEvaluation
from crossmodal_bench.training.shown_retrieval import RetrievedItems, shown_retrieval


@dataclass(frozen=True)
class GeneratedOutputs:
    """A tested model's outputs to look at.

    Attributes:
        files: the job's, where pictures of the outputs are kept.
        corpus, split: what was searched.
        retrieved: results of a few queries in each direction; empty without pictures or captions.
        written: a caption for each image of the split, or empty.
        drawn: (n, 3, H, W), -1 to 1, for the captions that are queries in ``retrieved``, or None.
        vocabulary, word_vectors: the words, and their learnt embeddings (V, D), or None.
    """

    files: JobDirectory
    corpus: Corpus
    split: str
    retrieved: Mapping[Side, RetrievedItems]
    written: list[str]
    drawn: Tensor | None
    vocabulary: Vocabulary | None
    word_vectors: NDArray[np.floating] | None


Illustrate = Callable[[GeneratedOutputs], None]
"""Draws pictures of generated outputs and saves them with the job's files."""


def generate(
    files: JobDirectory,
    model: RetrievalMethod,
    data: CrossModalDataModule,
    split: str,
    retrieval: RetrievalEvaluation,
    protocol: Protocol,
    ranks: Ranks | None,
) -> GeneratedOutputs:
    """Have a tested model retrieve, write and draw; its captions are saved in the job's directory.

    Args:
        files: the job's.
        model, data, split: what was tested.
        retrieval: the callback, which holds the split's encodings.
        protocol: the first that it was tested under.
        ranks: of the split, if it was ranked.
    """
    assert retrieval.encodings is not None
    images, texts = retrieval.encodings
    corpus = data.corpus
    retrieved: Mapping[Side, RetrievedItems] = {}
    written: list[str] = []
    drawn: Tensor | None = None
    vectors: NDArray[np.floating] | None = None
    embedding = getattr(model, "words", None)
    if corpus.captions is not None:
        if isinstance(embedding, nn.Embedding):
            vectors = embedding.weight.detach().float().cpu().numpy()
        model.eval()
        written = model.write(images)
        if corpus.images is not None:
            retrieved = shown_retrieval(model, images, texts, items_of(corpus, split), protocol, ranks)
            queries = torch.as_tensor(retrieved["t2i"].queries, device=texts.values.device)
            with torch.random.fork_rng():
                # The same noise for every model, whatever was sampled before.
                torch.manual_seed(0)
                drawn = model.draw(texts.take(queries))
    if written:
        ids = [corpus.image_ids[row] for row in corpus.image_rows(split)]
        by_image = dict(zip(ids, written, strict=True))
        write_text(files.written_captions, json.dumps(by_image, indent=1))
    return GeneratedOutputs(files, corpus, split, retrieved, written, drawn, data.views.vocabulary, vectors)


def written_caption_metrics(outputs: GeneratedOutputs) -> dict[str, float]:
    """The metrics of the written captions; empty for a model that writes none."""
    if not outputs.written:
        return {}
    corpus = outputs.corpus
    assert corpus.captions is not None
    references: list[list[str]] = [[] for _ in outputs.written]
    rows = corpus.caption_rows(outputs.split)
    for row, image in zip(rows, owners(corpus, outputs.split), strict=True):
        references[image].append(corpus.captions[row])
    return written_caption_quality(outputs.written, references)
