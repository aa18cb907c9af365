"""Records with whole rankings, from scores that a test gives, and the split that they are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crossmodal_bench.data import Corpus
from crossmodal_bench.evaluation import rank_metrics
from crossmodal_bench.evaluation.evaluate import clusters
from crossmodal_bench.evaluation.ranking.positives import PositivePairs
from crossmodal_bench.evaluation.ranking.ranks import retrieval_ranks, write_results
from crossmodal_bench.jobs.record import Record

WORDS = ["dog", "house", "tree", "boat", "horse", "child", "street", "water", "ball", "snow", "bench", "bird"]


class Pictures:
    """Drawn pictures, each another one unless ``like`` says which earlier one it repeats."""

    def __init__(self, count: int, like: Mapping[int, int]) -> None:
        self.looks = [like.get(row, row) for row in range(count)]

    def __len__(self) -> int:
        return len(self.looks)

    def __getitem__(self, row: int) -> Image.Image:
        rng = np.random.default_rng(self.looks[row])
        picture = Image.new("RGB", (160, 120), tuple(rng.integers(0, 256, 3).tolist()))
        draw = ImageDraw.Draw(picture)
        for _ in range(4):
            left, top = rng.integers(0, 100, 2).tolist()
            box = (left, top, left + 50, top + 40)
            draw.rectangle(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
        return picture

    def subset(self, rows: NDArray[np.int64]) -> Pictures:
        chosen = Pictures(0, {})
        chosen.looks = [self.looks[row] for row in rows]
        return chosen

    def fingerprint(self) -> str:
        return str(self.looks)


def sentence(row: int, k: int) -> str:
    """A caption of 4 to 12 words."""
    rng = np.random.default_rng([row, k])
    return " ".join(rng.choice(WORDS, 4 + (3 * row + k) % 9, replace=False))


def split_corpus(images: int = 12, per_image: int = 3, like: Mapping[int, int] | None = None) -> Corpus:
    """Four training images and ``images`` test images, whose first caption has a word of its own.

    like: the test images that look like an earlier one.
    """
    count = 4 + images
    captions = [
        sentence(row, k) + (f" word{row}" if k == 0 else "") for row in range(count) for k in range(per_image)
    ]
    captions[0] = " ".join(WORDS * 2)
    repeats = {4 + row: 4 + other for row, other in (like or {}).items()}
    return Corpus(
        name="flickr8k",
        image_ids=tuple(f"{row}.jpg" for row in range(count)),
        caption_ids=tuple(f"{row}.jpg#{k}" for row in range(count) for k in range(per_image)),
        caption_image=np.repeat(np.arange(count), per_image),
        split=np.array(["train"] * 4 + ["test"] * images),
        captions=tuple(captions),
        images=Pictures(count, repeats),
    )


def scores_of(images: int, texts: int, seed: int = 0, tied: bool = False) -> NDArray[np.float32]:
    """(images, texts) scores between 0 and 1; of few values if ``tied``."""
    scores = np.random.default_rng(seed).random((images, texts), dtype=np.float32)
    return np.round(scores, 1) if tied else scores


def ranked_record(
    make_record: Callable[..., Record],
    scores: NDArray[np.float32],
    ids: tuple[list[str], list[str]],
    owner: NDArray[np.int64],
    *,
    identities: NDArray[np.int64] | None = None,
    pairs: NDArray[np.int64] | None = None,
    **changes: Any,
) -> Record:
    """A record of recalls, with the file of its ranks beside it."""
    images, texts = scores.shape
    positives = None if pairs is None else PositivePairs.of(pairs, images, texts)
    ranks = retrieval_ranks(scores, owner, image_identity=identities, positives=positives)
    defaults = {
        "dataset": "flickr8k",
        "protocol": "flickr8k-1k",
        "protocol_version": 1,
        "curves": {},
        "metrics": rank_metrics(ranks.of("i2t"), ranks.of("t2i")),
        "intervals": {},
    }
    record = make_record(**{**defaults, **changes})
    image_cluster, text_cluster = clusters(owner, identities, images, texts)
    arrays = {**ranks.arrays(), "image_cluster": image_cluster, "text_cluster": text_cluster}
    write_results(record.ranks, arrays, *ids, (images, texts))
    return record
