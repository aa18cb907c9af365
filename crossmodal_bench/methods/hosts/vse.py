"""VSE++: one vector per image and per caption (Faghri et al., BMVC 2018)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch, require
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.methods.hosts.base import Encoded, Host
from crossmodal_bench.networks import TextSource, UnitEmbedding, WordStates, unit
from crossmodal_bench.similarity import cosine_similarity, order_similarity


class VSE(Host):
    """A linear layer on image features, the last state of a GRU over the words, both to unit length.

    Args:
        dim: width of the vectors.
        embedding: width of the word vectors.
        measure: ``cosine``, or ``order``: VSE++'s order violation of the absolute values.
    """

    requires = frozenset({"features", "words"})
    text_source = TextSource("gru")

    def __init__(
        self, dim: int = 1024, embedding: int = 300, measure: Literal["cosine", "order"] = "cosine"
    ) -> None:
        super().__init__()
        self.fragment_dim, self.embedding = dim, embedding
        self.measure = measure

    def build(self, spec: DataSpec) -> None:
        """Layers from the features' width and the vocabulary."""
        self.features = UnitEmbedding(spec.feature_dim, self.fragment_dim)
        self.words = WordStates(spec.vocabulary_size, self.embedding, self.fragment_dim, bidirectional=False)

    def images(self, batch: ImageBatch) -> Encoded:
        """(B, dim) vectors, which are also the only fragment of each image."""
        vectors = self._measured(self.features(require(batch.features, "features")))
        return Encoded(Encoding(vectors), Encoding(vectors[:, None]))

    def texts(self, batch: TextBatch) -> Encoded:
        """(B, dim) vectors, and the states after each word."""
        lengths = require(batch.lengths, "lengths")
        states, last = self.words(require(batch.words, "words"), lengths)
        return Encoded(Encoding(self._measured(unit(last))), Encoding(self._measured(unit(states)), lengths))

    def _measured(self, vectors: Tensor) -> Tensor:
        return vectors.abs() if self.measure == "order" else vectors

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """The cosine, or minus the order violation."""
        # In single precision whatever surrounds the call: what is ranked differs in the third digit.
        with torch.autocast(images.values.device.type, enabled=False):
            if self.measure == "cosine":
                return cosine_similarity(images.values, texts.values)
            return order_similarity(images.values, texts.values, "text_minus_image", squared=False)
