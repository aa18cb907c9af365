"""Items that no model can tell apart: captions with the same words, pictures with the same bytes."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.images import ImageFiles
from crossmodal_bench.data.language.words import tokenize


def equal_captions(captions: Sequence[str]) -> NDArray[np.int64]:
    """(n,) numbers, equal for captions that are the same sentence.

    Case, spacing and punctuation don't count, just as in the words that models receive; a caption without any
    words is compared literally.
    """
    sentences = [" ".join(tokenize(caption)) or unicodedata.normalize("NFC", caption) for caption in captions]
    return np.unique(np.array(sentences), return_inverse=True)[1].astype(np.int64)


def equal_pictures(corpus: Corpus, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) numbers, equal for images whose files hold the same bytes.

    Args:
        corpus: the images' corpus.
        rows: (n,) which of them.

    Returns:
        All distinct if the data set has no image files: features may coincide because of how they were
        computed.

    Raises:
        BadInput: a file cannot be read.
    """
    if not isinstance(corpus.images, ImageFiles):
        return np.arange(len(rows))
    paths = corpus.images.subset(rows).paths
    try:
        sizes = [path.stat().st_size for path in paths]
        # Files of different sizes differ, which leaves few to read.
        shared = {size for size, count in Counter(sizes).items() if count > 1}
        contents = [
            hashlib.sha256(path.read_bytes()).hexdigest() if size in shared else str(row)
            for row, (path, size) in enumerate(zip(paths, sizes, strict=True))
        ]
    except OSError as error:
        raise BadInput(f"{error.filename} cannot be read ({error.strerror}); restore it") from error
    return np.unique(np.array(contents), return_inverse=True)[1].astype(np.int64)


def repeated_captions(corpus: Corpus, split: str) -> int:
    """How many captions of a split repeat a caption of another image, word for word."""
    rows = corpus.caption_rows(split)
    if corpus.captions is None or not len(rows):
        return 0
    sentence = equal_captions([corpus.captions[row] for row in rows])
    pairs = np.unique(np.stack([sentence, corpus.caption_image[rows]], 1), axis=0)
    images = np.bincount(pairs[:, 0])
    return int((images[sentence] > 1).sum())


def equal_input_pairs(corpus: Corpus, split: str) -> NDArray[np.int64]:
    """(n_pairs, 2) rows (image, caption) of a split that are correct if equal inputs are equal answers.

    An image and a caption match if some image with the same bytes and some caption with the same words do.
    This is not transitive: two images that share one caption don't share their others.
    """
    images, captions = corpus.image_rows(split), corpus.caption_rows(split)
    picture = equal_pictures(corpus, images)
    sentence = np.arange(len(captions))
    if corpus.captions is not None:
        sentence = equal_captions([corpus.captions[row] for row in captions])
    owner = np.searchsorted(images, corpus.caption_image[captions])
    members: dict[int, list[int]] = {}
    for row, number in enumerate(picture.tolist()):
        members.setdefault(number, []).append(row)
    sayings: dict[int, list[int]] = {}
    for row, number in enumerate(sentence.tolist()):
        sayings.setdefault(number, []).append(row)
    related = np.unique(np.stack([picture[owner], sentence], 1), axis=0)
    return np.array(
        [
            (image, caption)
            for shown, said in related.tolist()
            for image in members[shown]
            for caption in sayings[said]
        ],
        dtype=np.int64,
    )
