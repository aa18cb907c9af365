"""Reads a data set's files into a corpus under given settings, with or without the data module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datasets.base import DatasetReader
from crossmodal_bench.data.images import unreadable


def read_corpus(
    dataset: DatasetReader, root: Path, *, skip_unreadable: bool = False, validation: float = 0.0
) -> Corpus:
    """Read a data set.

    Args:
        dataset: its reader.
        root: the data root.
        skip_unreadable: leave out images that cannot be decoded, which decodes all of them once.
        validation: share of train held out for validation, as for ``Corpus.with_validation``.

    Raises:
        BadInput: a missing, damaged or inconsistent file, or a share that cannot be held out.
    """
    corpus = dataset.read(root)
    if skip_unreadable and corpus.images is not None:
        bad = sorted(unreadable(corpus.images))
        names = tuple(corpus.image_ids[row] for row in bad)
        corpus = replace(corpus.without_images(bad), skipped=names) if bad else corpus
    return corpus.with_validation(validation)
