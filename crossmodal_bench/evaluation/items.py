"""What is known about the images and captions under evaluation: their ids, and what is correct for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.equal_inputs import equal_input_pairs
from crossmodal_bench.evaluation.protocols.judgements import judged_pairs
from crossmodal_bench.evaluation.protocols.protocol import Protocol
from crossmodal_bench.evaluation.ranking.positives import PositivePairs


@dataclass(frozen=True)
class EvaluatedItems:
    """N images and M captions, in the order of evaluation.

    Attributes:
        image_ids: N unique names.
        caption_ids: M unique names.
        owner: (M,) position of each caption's image, or None if only pairs define what is correct.
        captions: M sentences, or None if there are none.
        labels: (N,) classes or (N, C) multi-hot, or None.
        identities: (N,) whom or what each image shows, or None if each image is its own identity.
    """

    image_ids: Sequence[str]
    caption_ids: Sequence[str]
    owner: NDArray[np.int64] | None
    captions: Sequence[str] | None = None
    labels: NDArray[Any] | None = None
    identities: NDArray[np.int64] | None = None


def items_of(corpus: Corpus, split: str) -> EvaluatedItems:
    """The items of a split, in the corpus's order."""
    captions = corpus.caption_rows(split)
    return EvaluatedItems(
        image_ids=[corpus.image_ids[row] for row in corpus.image_rows(split)],
        caption_ids=[corpus.caption_ids[row] for row in captions],
        owner=owners(corpus, split),
        captions=None if corpus.captions is None else [corpus.captions[row] for row in captions],
        labels=labels_of(corpus, split),
        identities=identities_of(corpus, split),
    )


def owners(corpus: Corpus, split: str) -> NDArray[np.int64]:
    """(n_captions,) position, within the split, of the image of each of its captions."""
    rows = corpus.image_rows(split)
    return np.searchsorted(rows, corpus.caption_image[corpus.caption_rows(split)])


def identities_of(corpus: Corpus, split: str) -> NDArray[np.int64] | None:
    """(n_images,) identities of a split's images, if the data set has any."""
    return None if corpus.identities is None else corpus.identities[corpus.image_rows(split)]


def labels_of(corpus: Corpus, split: str) -> NDArray[Any] | None:
    """(n_images, ...) labels of a split's images, if the data set has any."""
    return None if corpus.labels is None else corpus.labels.values[corpus.image_rows(split)]


def given_pairs(corpus: Corpus) -> PositivePairs | None:
    """The positives that a user has declared on the test split; None if there are none."""
    rows, counts = corpus.positive_rows(), corpus.counts()["test"]
    return None if rows is None else PositivePairs.of(rows, counts["images"], counts["captions"])


def positives_of(corpus: Corpus, split: str, protocol: Protocol) -> PositivePairs | None:
    """The positive pairs of a split, for a protocol that uses pairs: judged, given, or of equal inputs.

    Raises:
        MissingInput: the package with the judgements is not installed.
        BadInput: the split is not the one that was judged.
    """
    if protocol.positives != "pairs":
        return None
    if protocol.judged is not None:
        rows, keys = corpus.caption_rows(split), corpus.caption_keys
        return judged_pairs(
            protocol.judged,
            [corpus.image_ids[row] for row in corpus.image_rows(split)],
            None if keys is None else [keys[row] for row in rows],
        )
    counts = corpus.counts()[split]
    if protocol.pairs == "given":
        return given_pairs(corpus)
    return PositivePairs.of(equal_input_pairs(corpus, split), counts["images"], counts["captions"])
