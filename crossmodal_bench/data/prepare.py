"""What `crossmodal-bench prepare` and `extract` do with a data module."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datamodule import CrossModalDataModule
from crossmodal_bench.data.images import unreadable
from crossmodal_bench.data.text import Vocabulary
from crossmodal_bench.data.view_builders import train_captions


def prepare(data: CrossModalDataModule, min_count: int) -> Iterator[str]:
    """Check every file of a data set and say what was found, a line at a time.

    Raises:
        BadInput: the first thing that is wrong; every image is decoded.
    """
    corpus = data.corpus
    if corpus.images is not None and data.images.on_bad_image == "fail":
        bad = unreadable(corpus.images)
        if bad:
            raise BadInput(f"{next(iter(bad.values()))} ({len(bad)} such image{'s' * (len(bad) > 1)} in all)")
    yield f"{corpus.name}: {corpus.source}"
    for split, counts in corpus.counts().items():
        if counts["images"]:
            owners = corpus.caption_image[corpus.caption_rows(split)]
            per_image = np.bincount(owners, minlength=len(corpus.image_ids))[corpus.image_rows(split)]
            low, high = int(per_image.min()), int(per_image.max())
            spread = f"{low}" if low == high else f"{low} to {high}"
            line = (
                f"  {split:5s} {counts['images']} images, {counts['captions']} captions, {spread} per image"
            )
            if corpus.identities is not None:
                line += f", {len(np.unique(corpus.identities[corpus.image_rows(split)]))} identities"
            yield line
    if corpus.captions is not None:
        words = Vocabulary.fit(train_captions(data.corpus), min_count, data.text.words)
        kept = f"words with at least {min_count} occurrences, 4 special tokens"
        yield f"  vocabulary {len(words)} entries ({kept})"
    for what, array in (("image features", corpus.image_features), ("text features", corpus.text_features)):
        if array is not None:
            yield f"  {what} {array.shape[1]} wide, given by the data set"
    rule = (
        f"{corpus.n_labels} ({corpus.label_rule})"
        if corpus.labels is not None
        else "none: content words will serve"
    )
    yield f"  labels {rule}"
    without = "none: regions only" if corpus.regions is not None else "none: features only"
    yield f"  images {'readable, all of them' if corpus.images is not None else without}"
    yield f"  regions {_regions(corpus)}"
    if corpus.skipped:
        yield f"  skipped {len(corpus.skipped)} unreadable: {', '.join(corpus.skipped)}"
    yield f"  fingerprint {corpus.fingerprint}"


def _regions(corpus: Corpus) -> str:
    if corpus.regions is not None:
        where = f"of {corpus.regions.origin}" if corpus.regions.origin else "given by the data set"
        return f"{corpus.regions.count} per image, {corpus.regions.dim} wide, {where}"
    return "none" if corpus.images is None else "none: data.images.regions grid or detector extracts them"


def extract(data: CrossModalDataModule, batch_size: int = 32, device: str = "auto") -> str:
    """Extract the data module's features, or its regions where they are not its own, with a progress bar.

    Returns the sentence that says where they are.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        what = None if data.images.regions == "auto" else data.images.regions
        task = bar.add_task(data.images.network or what or "", total=len(data.corpus.image_ids))
        store = data.extract(
            what,
            batch_size=batch_size,
            device=device,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        bar.update(task, completed=len(data.corpus.image_ids))
    source = store.source
    made_by = f"{source.network}, weights {source.weights} ({source.weights_sha256})"
    shape = store.shapes(len(data.corpus.image_ids))[".npy"]
    return f"{store.path}: {' x '.join(map(str, shape))}, {made_by}"
