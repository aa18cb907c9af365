"""What a finished model imagines of its test split: numbers for the record, pictures to look at beside it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from crossmodal_bench.bench import panels
from crossmodal_bench.bench.results import owners
from crossmodal_bench.callbacks import RetrievalEvaluation
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.evaluation import Ranks
from crossmodal_bench.evaluation.retrieved_captions import caption_quality
from crossmodal_bench.methods import RetrievalMethod

WRITTEN = "captions.json"
"""The captions that a model has written, by image."""


def imagined(
    directory: Path,
    model: RetrievalMethod,
    data: CrossModalDataModule,
    split: str,
    retrieval: RetrievalEvaluation,
    ranks: Ranks | None,
) -> dict[str, float]:
    """Save what the model writes and draws, and panels of it; how good the written captions are.

    Args:
        directory: the job's.
        model, data, split: what was tested.
        retrieval: which has kept the split's encodings.
        ranks: of the split, if it was ranked.

    Returns:
        ``written/BLEU-1`` to ``written/CIDEr`` in percent; empty for a model that writes nothing.
    """
    assert retrieval.encodings is not None
    images, texts = retrieval.encodings
    corpus = data.corpus
    if corpus.captions is None:
        return {}
    words, vocabulary = getattr(model, "words", None), data.views.vocabulary
    if isinstance(words, nn.Embedding) and vocabulary is not None:
        content = panels.words_panel(vocabulary, words.weight.detach().float().cpu().numpy())
        if content is not None:
            (directory / panels.WORDS_PNG).write_bytes(content)
    model.eval()
    written = model.write(images)
    some = torch.tensor(panels.chosen(len(texts)))
    with torch.random.fork_rng():
        # The same noise for every model, whatever it has drawn before.
        torch.manual_seed(0)
        drawn = model.draw(texts.take(some.to(texts.values.device)))
    if not written and drawn is None:
        return {}
    image_rows, caption_rows = corpus.image_rows(split), corpus.caption_rows(split)
    if ranks is not None and corpus.images is not None:
        (directory / panels.CAPTIONS_PNG).write_bytes(panels.captions_panel(corpus, split, ranks, written))
        (directory / panels.PICTURES_PNG).write_bytes(panels.pictures_panel(corpus, split, ranks, drawn))
    if not written:
        return {}
    ids = [corpus.image_ids[row] for row in image_rows]
    (directory / WRITTEN).write_text(json.dumps(dict(zip(ids, written, strict=True)), indent=1), "utf-8")
    references: list[list[str]] = [[] for _ in image_rows]
    for row, image in zip(caption_rows, owners(corpus, split), strict=True):
        references[image].append(corpus.captions[row])
    return {f"written/{name}": value for name, value in caption_quality(written, references).items()}
