"""What views need and a data set may not give: bags of words, labels, numbers of identities."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.text import BagOfWords, content_word_labels
from crossmodal_bench.errors import BadInput

NEEDS: dict[str, tuple[str, Callable[[Corpus], object]]] = {
    "pixels": ("images", lambda corpus: corpus.images),
    "regions": ("regions of its images", lambda corpus: getattr(corpus.images, "regions", None)),
    "features": (
        "image features, nor images to extract them from",
        lambda corpus: corpus.images if corpus.image_features is None else True,
    ),
    "words": ("captions", lambda corpus: corpus.captions),
    "wordpieces": ("captions", lambda corpus: corpus.captions),
    "bow": (
        "captions or text features",
        lambda corpus: corpus.captions if corpus.text_features is None else True,
    ),
    "labels": (
        "labels, nor captions to take content words from",
        lambda corpus: corpus.captions if corpus.labels is None else True,
    ),
}
"""What each view is made of, in words, and where a corpus has it."""


def lacking(corpus: Corpus, requires: Collection[str]) -> str:
    """Why the views cannot be built, in one sentence; empty where they can."""
    for view, (what, of) in NEEDS.items():
        if view in requires and of(corpus) is None:
            return f"{corpus.name} has no {what}: the view '{view}' cannot be built from it"
    return ""


def train_captions(corpus: Corpus) -> list[str]:
    """The training captions."""
    assert corpus.captions is not None
    return [corpus.captions[row] for row in corpus.caption_rows("train")]


def bags_of_words(corpus: Corpus, size: int) -> Any:
    """(M, D): the data set's own text features, or the TF-IDF of ``size`` words, fitted on train."""
    if corpus.text_features is not None:
        return corpus.text_features
    assert corpus.captions is not None
    return BagOfWords(size).fit(train_captions(corpus)).transform(corpus.captions)


def training_labels(corpus: Corpus, content_labels: int) -> NDArray[np.int64]:
    """(N,) or (N, C): the data set's own labels, or the most frequent content words of train."""
    if corpus.labels is not None:
        return corpus.labels
    assert corpus.captions is not None
    labels, names = content_word_labels(
        corpus.captions,
        corpus.caption_image,
        corpus.caption_rows("train"),
        len(corpus.image_ids),
        content_labels,
    )
    if not names:
        raise BadInput(f"{corpus.name}: the training captions hold no content word; give the images labels")
    return labels


def identity_numbers(corpus: Corpus) -> tuple[NDArray[np.int64], int]:
    """(N,) whole numbers that are equal for images of one identity, and how many the training split has.

    Those of the training split come first. Where a data set has no identities, every image is its own (as
    TIMAM has it for Flickr30K).
    """
    given = np.arange(len(corpus.image_ids)) if corpus.identities is None else corpus.identities
    values, first, numbers = np.unique(given, return_index=True, return_inverse=True)
    elsewhere = corpus.split[first] != "train"
    order = np.empty(len(values), dtype=np.int64)
    order[np.argsort(elsewhere, kind="stable")] = np.arange(len(values))
    return order[numbers], int((~elsewhere).sum())
