"""The commands `crossmodal-bench prepare` and `extract`, on a data module."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datamodule import CrossModalDataModule
from crossmodal_bench.data.equal_inputs import repeated_captions
from crossmodal_bench.data.images import unreadable
from crossmodal_bench.data.language.tokens import TokenRows
from crossmodal_bench.data.regions import RegionFiles
from crossmodal_bench.data.text import Vocabulary
from crossmodal_bench.data.view_builders import (
    captions_without_words,
    train_captions,
    warn_where_unsplit,
)


def prepare(data: CrossModalDataModule, min_count: int) -> Iterator[str]:
    """Check every file of a data set and describe it, line by line.

    Args:
        data: the data set's module; its settings determine which files must be there.
        min_count: words with fewer occurrences in the training captions don't count as vocabulary.

    Raises:
        BadInput: the first fault found; every image is decoded.
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
    repeats = repeated_captions(corpus, "test")
    if repeats:
        share = repeats / corpus.counts()["test"]["captions"]
        yield (
            f"  {repeats} test captions ({100 * share:.1f} %) repeat, word for word, a caption of another "
            "test image"
        )
    if corpus.captions is not None:
        warn_where_unsplit(corpus)
        vocabulary = Vocabulary.fit(train_captions(corpus), min_count, data.text.words)
        kept = f"words with at least {min_count} occurrences, 4 special tokens"
        yield f"  vocabulary {len(vocabulary)} entries ({kept})"
        words = TokenRows.of(vocabulary.encode(caption) for caption in corpus.captions)
        wordless = captions_without_words(words)
        if len(wordless):
            others = f"and {len(wordless) - 1} more have" if len(wordless) > 1 else "has"
            yield (
                f"  caption '{corpus.caption_ids[wordless[0]]}' {others} no word of it: methods that read "
                "words cannot run unless data.text.unknown_captions is keep"
            )
    for kind, array in (("image features", corpus.image_features), ("text features", corpus.text_features)):
        if array is not None:
            yield f"  {kind} {array.shape[1]} wide, from the data set"
    labels = corpus.labels
    if labels is not None:
        yield f"  labels {labels.count} ({labels.rule})"
        for split, counts in corpus.counts().items():
            if missing := int((~labels.known[corpus.image_rows(split)]).sum()):
                what = f"{missing} of {counts['images']} {split} images have no label"
                yield f"  {what}: metrics by label leave them out"
    else:
        yield "  labels none: content words are used instead"
    if corpus.images is not None:
        yield "  images all readable"
    else:
        yield f"  images none: {'features' if corpus.regions is None else 'regions'} only"
    if isinstance(corpus.regions, RegionFiles):
        corpus.regions.check_rows()
    yield f"  regions {_regions(corpus)}"
    if corpus.skipped:
        yield f"  skipped {len(corpus.skipped)} unreadable: {', '.join(corpus.skipped)}"
    yield f"  fingerprint {corpus.fingerprint}"


def _regions(corpus: Corpus) -> str:
    if corpus.regions is not None:
        origin = f"from {corpus.regions.origin}" if corpus.regions.origin else "from the data set"
        return f"{corpus.regions.count} per image, {corpus.regions.dim} wide, {origin}"
    return "none" if corpus.images is None else "none: set data.images.regions to grid or detector to extract"


def extract(data: CrossModalDataModule, batch_size: int = 32, device: str = "auto") -> str:
    """Extract features with the data module's network, or regions if its settings name a kind of them.

    A progress bar is shown meanwhile.

    Args:
        data: has the images, the network and the cache.
        batch_size: images at a time.
        device: where the network runs; ``auto``: on a GPU if there is one.

    Returns:
        A sentence that says where they are, of which shape, and what made them.

    Raises:
        BadInput: see crossmodal_bench.data.features.extract_features.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = None if data.images.regions == "auto" else data.images.regions
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    ) as bar:
        task = bar.add_task(data.images.network or kind or "", total=len(data.corpus.image_ids))
        store = data.extract(
            kind,
            batch_size=batch_size,
            device=device,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        bar.update(task, completed=len(data.corpus.image_ids))
    source = store.source
    made_by = f"{source.network}, weights {source.weights} ({source.weights_sha256})"
    shape = store.shapes(len(data.corpus.image_ids))[".npy"]
    return f"{store.path}: {' x '.join(map(str, shape))}, {made_by}"
