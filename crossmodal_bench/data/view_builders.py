"""What views are built from: a data set's own material, or what can be derived from it; and what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput, warn_once
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.features import Extracted, FeatureStore
from crossmodal_bench.data.language.tokens import TokenRows
from crossmodal_bench.data.language.words import unsplit
from crossmodal_bench.data.regions import RegionChoice, RegionSource
from crossmodal_bench.data.text import SPECIAL, BagOfWords, VocabularySplits, content_word_labels

SAMPLE = 1000
"""Number of training captions that suffice to tell whether sentences are split into words."""
Extract = Callable[[Extracted | None], FeatureStore]
NEEDS: dict[str, tuple[str, Callable[[Corpus], object]]] = {
    "pixels": ("images", lambda corpus: corpus.images),
    "pictures": ("images", lambda corpus: corpus.images),
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
"""The material of each view, in words, and where a corpus has it."""


def lacking(corpus: Corpus, requires: Collection[str], regions: str = "auto") -> str:
    """Why the views cannot be built, in one sentence; empty if they can.

    Args:
        corpus: the data set's.
        requires: names of views, which are known.
        regions: where regions should come from, as in crossmodal_bench.data.image_settings.
    """
    if "regions" in requires and (reason := _no_regions(corpus, regions)):
        return reason
    for view, (material, given_by) in NEEDS.items():
        if view in requires and given_by(corpus) is None:
            return f"{corpus.name} has no {material}: the view '{view}' cannot be built from it"
    return ""


def given_views(corpus: Corpus) -> frozenset[str]:
    """The views that can be built from the data set itself, without a network."""
    views = {"identities"}
    if corpus.images is not None:
        views |= {"pixels", "pictures"}
    if corpus.image_features is not None:
        views.add("features")
    if corpus.regions is not None:
        views.add("regions")
    if corpus.captions is not None:
        views |= {"words", "wordpieces"}
    if corpus.captions is not None or corpus.text_features is not None:
        views.add("bow")
    if corpus.labels is not None:
        views.add("labels")
    return frozenset(views)


def _no_regions(corpus: Corpus, regions: str) -> str:
    if (corpus.regions if regions == "auto" else corpus.images) is not None:
        return ""
    if regions != "auto":
        instead = "; set data.images.regions to auto to use its own" if corpus.regions is not None else ""
        return f"{corpus.name} has no images to extract regions from{instead}"
    if corpus.images is None:
        return f"{corpus.name} has no regions of its images: the view 'regions' cannot be built from it"
    return (
        f"{corpus.name} has no regions of its images; put a folder *_precomp next to them, as published by "
        "SCAN's authors, or set data.images.regions to grid or detector (crossmodal-bench extract "
        f"{corpus.name} --regions grid --network mobilenet_v2 extracts them beforehand)"
    )


def image_features(corpus: Corpus, network: str | None, extract: Extract) -> tuple[Any, list[dict[str, Any]]]:
    """The data set's own features, or those of a network if one is named.

    Returns:
        (N, D), and the network's description, as in crossmodal_bench.data.features.FeatureSource; none if the
        features come with the data set.

    Raises:
        BadInput: no features of its own and no network named, or a network and no images to run it on.
    """
    if network is None and corpus.image_features is not None:
        return corpus.image_features, []
    if corpus.images is None:
        raise BadInput(
            f"{corpus.name} has no images to run '{network}' on; "
            "omit NETWORK to use the features that come with it"
        )
    if network is None:
        raise BadInput(
            f"{corpus.name} has no image features; name a network to extract them with (NETWORK=...)"
        )
    store = extract(None)
    return store.array(), [asdict(store.source)]


def image_regions(
    corpus: Corpus, kind: RegionChoice, extract: Extract
) -> tuple[RegionSource, list[dict[str, Any]]]:
    """The data set's own regions, or extracted ones.

    Args:
        corpus: has regions of its own, if ``kind`` is ``auto``.
        kind: which regions.
        extract: returns the store of a kind.

    Returns:
        The regions, and a description of what made them; none if the data set draws its own.
    """
    if kind != "auto":
        store = extract(kind)
        return store.regions(), [asdict(store.source)]
    regions = corpus.regions
    assert regions is not None
    source = {
        "regions": "precomputed",
        "count": regions.count,
        "dim": regions.dim,
        "network": "precomputed",
        "weights": regions.origin,
        "weights_sha256": regions.fingerprint()[:16],
    }
    return regions, [source] if regions.origin else []


def joined_sources(sources: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The sources of a record's regions and features: the first, with the second under ``pooled``."""
    if not sources:
        return None
    if len(sources) == 1:
        return sources[0]
    regions, features = sources
    return {**regions, "pooled": features}


def captions_without_words(captions: TokenRows) -> NDArray[np.int64]:
    """Rows of the captions without any word of the vocabulary."""
    known = np.add.reduceat(captions.ids >= len(SPECIAL), captions.starts[:-1], dtype=np.int64)
    return np.flatnonzero(known == 0)


def check_options(corpus: Corpus, captions: TokenRows) -> None:
    """Raise BadInput for a caption without any word of the vocabulary."""
    bad = captions_without_words(captions)
    if len(bad):
        raise BadInput(
            f"{corpus.name}: caption '{corpus.caption_ids[int(bad[0])]}' has no word of the vocabulary "
            f"({len(bad)} such caption{'s' * (len(bad) > 1)} in all); lower data.text.min_count, fix the "
            "caption, or set data.text.unknown_captions to keep"
        )


def warn_where_unsplit(corpus: Corpus) -> None:
    """Warn if nearly every word of the training captions occurs only once: sentences then count as words."""
    share = unsplit(train_captions(corpus)[:SAMPLE])
    if share is not None:
        warn_once(
            f"{corpus.name}: {100 * share:.0f} % of the words of the training captions occur only once, as "
            "if whole sentences were words; put spaces between the words of the captions"
        )


def train_captions(corpus: Corpus) -> list[str]:
    """The training captions."""
    assert corpus.captions is not None
    return [corpus.captions[row] for row in corpus.caption_rows("train")]


def vocabulary_rows(corpus: Corpus, splits: VocabularySplits) -> NDArray[np.int64]:
    """The rows of the captions whose words go into a vocabulary, according to data.text.vocabulary."""
    return np.concatenate([corpus.caption_rows(split) for split in splits.split("+")])


def bags_of_words(corpus: Corpus, size: int) -> tuple[Any, BagOfWords | None]:
    """(M, D): the data set's own text features, or the TF-IDF of ``size`` words, fitted on train.

    Returns:
        The rows, and what makes them from captions; None if they come with the data set.
    """
    if corpus.text_features is not None:
        return corpus.text_features, None
    assert corpus.captions is not None
    warn_where_unsplit(corpus)
    bag = BagOfWords(size).fit(train_captions(corpus))
    return bag.transform(corpus.captions), bag


def training_labels(corpus: Corpus, content_labels: int) -> NDArray[np.int64]:
    """(N,) or (N, C): the data set's own labels, or the most frequent content words of train.

    Raises:
        BadInput: no labels of its own, and no content word in the training captions.
    """
    if corpus.labels is not None:
        return corpus.labels.values
    assert corpus.captions is not None
    labels, names = content_word_labels(
        corpus.captions,
        corpus.caption_image,
        corpus.caption_rows("train"),
        len(corpus.image_ids),
        content_labels,
    )
    if not names:
        raise BadInput(f"{corpus.name}: the training captions have no content words; label the images")
    return labels


def described_labels(corpus: Corpus, labels: NDArray[np.int64] | None) -> dict[str, Any]:
    """A record's description of the labels: the data set's, or else those of ``training_labels``."""
    if corpus.labels is not None:
        return {"kind": "real", "count": corpus.labels.count, "rule": corpus.labels.rule}
    if labels is None:
        return {"kind": "none", "count": 0, "rule": ""}
    count = labels.shape[1]
    rule = f"the {count} most frequent content words of the training captions; they serve training only"
    return {"kind": "content words", "count": count, "rule": rule}


def identity_numbers(corpus: Corpus) -> tuple[NDArray[np.int64], int]:
    """(N,) integers that are equal for images of the same identity, and how many the training split has.

    Those of the training split come first. If a data set has no identities, every image is its own (as in
    TIMAM for Flickr30K).
    """
    identities = np.arange(len(corpus.image_ids)) if corpus.identities is None else corpus.identities
    values, first, numbers = np.unique(identities, return_index=True, return_inverse=True)
    elsewhere = corpus.split[first] != "train"
    order = np.empty(len(values), dtype=np.int64)
    order[np.argsort(elsewhere, kind="stable")] = np.arange(len(values))
    return order[numbers], int((~elsewhere).sum())
