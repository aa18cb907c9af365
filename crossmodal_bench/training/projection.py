"""Images and texts of the common space, projected to two dimensions (ACMR, Figure 4)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.data.corpus import Corpus

MOST = 1000
"""The largest number of images, and of texts, that are projected."""


def save_projection(path: Path, images: Encoding, texts: Encoding, corpus: Corpus, split: str) -> None:
    """Write t-SNE coordinates of up to 1,000 images and texts each, with their labels.

    Only if items have a single true label and encodings are vectors: then the figure shows whether the
    modalities mix and the labels separate.

    Args:
        path: of the ``.npz``: ``image`` and ``text`` (n, 2), ``image_labels`` and ``text_labels`` (n,).
        images, texts: of the whole split, in its order.
        corpus, split: whose they are.
    """
    if corpus.labels is None or corpus.labels.multi_label:
        return
    if images.values.ndim != 2 or texts.lengths is not None or texts.values.ndim != 2:
        return
    from sklearn.manifold import TSNE

    image_rows, caption_rows = corpus.image_rows(split), corpus.caption_rows(split)
    rng = np.random.default_rng(0)
    some_images = np.sort(rng.permutation(len(image_rows))[:MOST])
    some_texts = np.sort(rng.permutation(len(caption_rows))[:MOST])
    both = np.concatenate(
        [images.values[some_images].float().numpy(), texts.values[some_texts].float().numpy()]
    )
    if len(both) < 20 or not both.std():
        return
    tsne = TSNE(perplexity=min(30, len(both) // 4), random_state=0, init="pca", max_iter=500)
    points = tsne.fit_transform(both)
    arrays = {
        "image": points[: len(some_images)],
        "text": points[len(some_images) :],
        "image_labels": corpus.labels.values[image_rows][some_images],
        "text_labels": corpus.labels.values[corpus.caption_image[caption_rows]][some_texts],
    }
    replace_file(path, lambda stream: np.savez_compressed(stream, allow_pickle=False, **arrays))
