"""From files to batches: Corpus, views, loaders, CrossModalDataModule."""

from crossmodal_bench.data.batch import DataSpec, ImageBatch, PairBatch, TextBatch
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datamodule import CrossModalDataModule
from crossmodal_bench.data.text import TextSettings

__all__ = [
    "Corpus",
    "CrossModalDataModule",
    "DataSpec",
    "ImageBatch",
    "PairBatch",
    "TextBatch",
    "TextSettings",
]
