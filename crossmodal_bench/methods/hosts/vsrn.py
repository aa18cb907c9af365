"""VSRN (Li et al., "Visual Semantic Reasoning for Image-Text Matching", ICCV 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch, require
from crossmodal_bench.core.encoding import Encoding, VectorSimilarity
from crossmodal_bench.methods.hosts.base import Encoded, Host
from crossmodal_bench.networks.captioning import CaptionGenerator
from crossmodal_bench.networks.embedding import unit
from crossmodal_bench.networks.reasoning import RegionReasoning
from crossmodal_bench.networks.texts import TextSource
from crossmodal_bench.networks.words import WordStates


class VSRN(Host):
    """One vector per image by reasoning over its regions, one per caption by a GRU, compared by the cosine.

    A second task generates the caption from the reasoned regions. The authors' code passes the caption
    branch's parameters to its optimiser twice; ours does not. The defaults are those for Flickr30K.

    Args:
        dim: width of vectors and fragments.
        embedding: width of the word vectors.
        blocks: graph blocks.
        normalise_regions: whether regions are normalised before the graph, as in the authors' code on
            MS-COCO.
        standardise: whether image vectors pass a batch norm, as in the authors' code on Flickr30K.
        caption_weight: of the generation loss relative to the ranking loss; 0: no caption branch is built.
        caption_hidden: units of the caption branch.
        caption_embedding: width of the caption branch's own word vectors.
        dropout: of the caption branch's inputs.
    """

    text_source = TextSource("gru")

    def __init__(
        self,
        dim: int = 2048,
        embedding: int = 300,
        blocks: int = 4,
        normalise_regions: bool = False,
        standardise: bool = True,
        caption_weight: float = 1.0,
        caption_hidden: int = 512,
        caption_embedding: int = 300,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.fragment_dim, self.embedding = dim, embedding
        self.blocks = blocks
        self.normalise_regions, self.standardise = normalise_regions, standardise
        self.caption_weight, self.caption_hidden = caption_weight, caption_hidden
        self.caption_embedding, self.dropout = caption_embedding, dropout
        self.captions: CaptionGenerator | None = None

    def build(self, spec: DataSpec) -> None:
        """Build region reasoning, the word GRU and, unless its weight is 0, the caption branch."""
        dim = self.fragment_dim
        self.reasoning = RegionReasoning(
            spec.region_dim, dim, self.blocks, self.normalise_regions, self.standardise
        )
        self.words = WordStates(spec.vocabulary_size, self.embedding, dim, bidirectional=False)
        if self.caption_weight:
            self.captions = CaptionGenerator(
                spec.vocabulary_size, dim, self.caption_hidden, self.caption_embedding, self.dropout
            )

    def images(self, batch: ImageBatch) -> Encoded:
        """Unit vectors (B, dim), and the regions after the graph (B, R, dim)."""
        vectors, regions = self.reasoning(require(batch.regions, "regions"))
        return Encoded(Encoding(vectors), Encoding(regions))

    def texts(self, batch: TextBatch) -> Encoded:
        """Unit vectors (B, dim), and the GRU's states of the words (sum of lengths, dim), packed."""
        lengths = require(batch.lengths, "lengths")
        states, last = self.words(require(batch.words, "words"), lengths)
        return Encoded(Encoding(unit(last)), Encoding(states, lengths))

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """(n_images, n_texts) cosines: products of unit vectors, in the vectors' own precision."""
        with torch.autocast(images.values.device.type, enabled=False):
            return images.values @ texts.values.T

    @property
    def vector_similarity(self) -> VectorSimilarity:
        """The inner product of unit vectors."""
        return "dot"

    def auxiliary_loss(self, images: Encoded, texts: TextBatch) -> Tensor | None:
        """The weighted loss of generating each caption from its image's reasoned regions."""
        if self.captions is None:
            return None
        words, lengths = require(texts.words, "words"), require(texts.lengths, "lengths")
        return self.caption_weight * self.captions.loss(images.fragments.values, words, lengths)
