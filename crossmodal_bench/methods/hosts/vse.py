"""VSE++: one vector per image and per caption (Faghri et al., BMVC 2018)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch, require
from crossmodal_bench.core.encoding import Encoding, VectorSimilarity
from crossmodal_bench.methods.hosts.base import Encoded, Host
from crossmodal_bench.networks import Freezable, TextSource, UnitEmbedding, WordStates, unit
from crossmodal_bench.networks.backbones import trained_network
from crossmodal_bench.networks.embedding import single
from crossmodal_bench.similarity import cosine_similarity, order_similarity


class VSE(Host):
    """A linear layer on image features and the last state of a GRU over words, both of unit length.

    The features are the data module's, or those of the same network applied to pixels, which is then trained
    too. VSE++'s code has another normalisation between network and linear layer; here there is none, as for
    features extracted beforehand. It would only change the bias's share, because the vectors are normalised
    after that layer; so a network can continue from a model that was trained on its features.

    Args:
        dim: width of the vectors.
        embedding: width of the word vectors.
        measure: ``cosine``, or ``order``: VSE++'s order violation of the absolute values.
        fine_tune: whether the network of ``data.images`` runs on pixels and is trained.
    """

    text_source = TextSource("gru")

    def __init__(
        self,
        dim: int = 1024,
        embedding: int = 300,
        measure: Literal["cosine", "order"] = "cosine",
        fine_tune: bool = False,
    ) -> None:
        super().__init__()
        self.fragment_dim, self.embedding = dim, embedding
        self.measure = measure
        self.fine_tune = fine_tune
        self.requires = frozenset({"pixels" if fine_tune else "features", "words"})
        self.network: Freezable | None = None

    def build(self, spec: DataSpec) -> None:
        """Build the layers from the features' width and the vocabulary, and the network if it is trained.

        Raises:
            BadInput: no network is named, or its weights cannot be loaded.
        """
        feature_dim = spec.feature_dim
        if self.fine_tune:
            network, source = trained_network(spec)
            self.source = None if spec.weights_root is None else source
            self.network = Freezable(network, "never")
            feature_dim = source.dim
        self.features = UnitEmbedding(feature_dim, self.fragment_dim)
        self.words = WordStates(spec.vocabulary_size, self.embedding, self.fragment_dim, bidirectional=False)

    def images(self, batch: ImageBatch) -> Encoded:
        """(B, dim) vectors, which are also the only fragment of each image."""
        if self.network is None:
            features = require(batch.features, "features")
        else:
            features = single(self.network(require(batch.pixels, "pixels")))
        vectors = self._measured(self.features(features))
        return Encoded(Encoding(vectors), Encoding(vectors[:, None]))

    def texts(self, batch: TextBatch) -> Encoded:
        """(B, dim) vectors, and the states after each word."""
        lengths = require(batch.lengths, "lengths")
        states, last = self.words(require(batch.words, "words"), lengths)
        return Encoded(Encoding(self._measured(unit(last))), Encoding(self._measured(unit(states)), lengths))

    @property
    def fine_tuned(self) -> bool:
        """Whether the image network is trained too."""
        return self.fine_tune

    def _measured(self, vectors: Tensor) -> Tensor:
        return vectors.abs() if self.measure == "order" else vectors

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """The cosine, or the negative order violation."""
        # Always in single precision: scores often differ only in the third digit.
        with torch.autocast(images.values.device.type, enabled=False):
            if self.measure == "cosine":
                return cosine_similarity(images.values, texts.values)
            return order_similarity(images.values, texts.values, "text_minus_image", squared=False)

    @property
    def vector_similarity(self) -> VectorSimilarity | None:
        """The cosine; None for the order violation, which is not symmetric."""
        return "cosine" if self.measure == "cosine" else None
