"""How good the captions are that a model retrieves for an image, or writes (GXN, Table 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.data.text import tokenize
from crossmodal_bench.evaluation.captions import bleu_scores, cider_score
from crossmodal_bench.evaluation.metrics import fold_slices

RANKS = 5


def caption_quality(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU-1 to BLEU-4 and CIDEr of a caption for each image with the image's own, in percent.

    Words are lower-case, without punctuation, as the standard tools make them; document frequencies are
    those of ``references``, likewise.
    """
    words = [" ".join(tokenize(one)) for one in candidates]
    own = [[" ".join(tokenize(one)) for one in captions] for captions in references]
    bleu = {f"BLEU-{n}": 100 * value for n, value in enumerate(bleu_scores(words, own), start=1)}
    return {**bleu, "CIDEr": 100 * cider_score(words, own)[0]}


def retrieved_caption_quality(
    top: NDArray[np.int64], captions: Sequence[str], owner: NDArray[np.int64], folds: int = 1
) -> dict[str, float]:
    """``caption_quality`` of the captions at ranks 1 to 5, as ``BLEU-1`` and, from rank 2 on, ``BLEU-1@2``.

    An image's references are all of its captions, the retrieved one included where it is one of them: the
    paper says "over five reference sentences".

    Args:
        top: (n_images, k) rows of captions by descending score.
        captions: M sentences.
        owner: (M,) the image of each.
        folds: blocks of images that are scored by themselves and averaged, as the protocol's recalls are.

    Returns:
        Empty where an image has no caption.
    """
    references: list[list[str]] = [[] for _ in top]
    for row, image in enumerate(owner):
        references[image].append(captions[row])
    if not all(references):
        return {}
    found: dict[str, float] = {}
    blocks = fold_slices(len(top), folds)
    for rank, rows in enumerate(top.T[:RANKS], start=1):
        retrieved = [captions[row] for row in rows]
        parts = [caption_quality(retrieved[block], references[block]) for block in blocks]
        means = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
        found |= {name if rank == 1 else f"{name}@{rank}": value for name, value in means.items()}
    return found
