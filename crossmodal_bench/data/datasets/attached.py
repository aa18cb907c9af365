"""Precomputed regions for a corpus that has its images from elsewhere, matched by their captions."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.corpus import SPLITS, Corpus
from crossmodal_bench.data.datasets.precomputed import read_precomputed

_NOISE = re.compile(r"[\W_]+")


def attach_regions(corpus: Corpus, folder: Path, *, every_row: bool = True) -> Corpus:
    """The corpus with the regions of a folder ``*_precomp``, whatever its ids and order.

    If its ids are the images' names, these decide. Otherwise, a precomputed image is matched to the image of
    the same split that most of its captions name; captions are compared by their lower-case letters and
    digits.

    Args:
        corpus: with captions.
        folder: holds ``{split}_ims.npy`` and ``{split}_caps.txt``.
        every_row: whether a precomputed image that no caption names is an error.

    Raises:
        BadInput: an image without precomputed regions, a precomputed image that matches none or several, or
            two that match the same one; or a fault of the folder's own files.
    """
    precomputed = read_precomputed(folder, corpus.name)
    assert precomputed.regions is not None
    known = {image: row for row, image in enumerate(precomputed.image_ids)}
    if all(known.get(image) is not None for image in corpus.image_ids):
        # The ids are exact, as for imported regions: sentences shared by several images don't matter.
        rows = np.array([known[image] for image in corpus.image_ids], dtype=np.int64)
        return replace(corpus, regions=precomputed.regions.subset(rows))
    listed = Path(corpus.source).name
    fix = f"remove {folder.name}/, or {listed} to use the precomputed split alone"
    row_of = np.full(len(corpus.image_ids), -1, dtype=np.int64)
    unclear: list[str] = []
    for split in SPLITS:
        images = _images_by_caption(corpus, split)
        for row, captions in _captions_by_image(precomputed, split).items():
            votes = Counter(image for caption in captions for image in images.get(caption, ()))
            ranked = votes.most_common(2)
            most = ranked[0][1] if ranked else 0
            if not every_row and 2 * most <= len(captions):
                # A generic sentence that several images share identifies none of them.
                continue
            image = _clear_winner(ranked)
            if image is None or row_of[image] >= 0:
                unclear.append(precomputed.image_ids[row])
            else:
                row_of[image] = row
    if unclear:
        raise BadInput(
            f"{folder}: the captions of {len(unclear)} of {len(precomputed.image_ids)} images match no image "
            f"of {corpus.source} in the same split, or several; the first is '{unclear[0]}'; {fix}"
        )
    without = np.flatnonzero(row_of < 0)
    if len(without):
        raise BadInput(
            f"{folder} has no regions for {len(without)} of {len(row_of)} images of {corpus.source}; the "
            f"first is '{corpus.image_ids[int(without[0])]}'; {fix}"
        )
    return replace(corpus, regions=precomputed.regions.subset(row_of))


def _clear_winner(ranked: list[tuple[int, int]]) -> int | None:
    """The winner of (image, votes) pairs in descending order; None for a tie, or without votes."""
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def _images_by_caption(corpus: Corpus, split: str) -> dict[str, set[int]]:
    """The images of a split that each caption describes; several if a sentence is used more than once."""
    images: dict[str, set[int]] = defaultdict(set)
    assert corpus.captions is not None
    for row in corpus.caption_rows(split).tolist():
        images[_key(corpus.captions[row])].add(int(corpus.caption_image[row]))
    return images


def _captions_by_image(corpus: Corpus, split: str) -> dict[int, list[str]]:
    captions: dict[int, list[str]] = defaultdict(list)
    assert corpus.captions is not None
    for row in corpus.caption_rows(split).tolist():
        captions[int(corpus.caption_image[row])].append(_key(corpus.captions[row]))
    return captions


def _key(caption: str) -> str:
    return _NOISE.sub("", caption.lower())
