"""SCAN and BFAN: regions and words in one space, compared by cross attention."""

from __future__ import annotations

from torch import Tensor

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch, require
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.methods.hosts.base import Encoded, Host
from crossmodal_bench.networks import TextSource, UnitEmbedding, WordStates, unit
from crossmodal_bench.similarity import bfan_similarity, scan_similarity
from crossmodal_bench.similarity.bfan import Focal
from crossmodal_bench.similarity.cross_attention import FeatureNorm
from crossmodal_bench.similarity.scan import Aggregation, Direction


class RegionWordHost(Host):
    """A linear layer on regions and a bidirectional GRU over words, both normalised to unit length.

    Args:
        dim: width of both.
        embedding: width of the word vectors.
    """

    text_source = TextSource("bigru")

    def __init__(self, dim: int = 1024, embedding: int = 300) -> None:
        super().__init__()
        self.fragment_dim, self.embedding = dim, embedding

    def build(self, spec: DataSpec) -> None:
        """Build the layers from the regions' width and the vocabulary."""
        self.regions = UnitEmbedding(spec.region_dim, self.fragment_dim)
        self.words = WordStates(spec.vocabulary_size, self.embedding, self.fragment_dim, bidirectional=True)

    def images(self, batch: ImageBatch) -> Encoded:
        """(B, R, dim) regions."""
        regions = Encoding(self.regions(require(batch.regions, "regions")))
        return Encoded(regions, regions)

    def texts(self, batch: TextBatch) -> Encoded:
        """Packed words, (sum of lengths, dim)."""
        lengths = require(batch.lengths, "lengths")
        states, _ = self.words(require(batch.words, "words"), lengths)
        words = Encoding(unit(states), lengths)
        return Encoded(words, words)


class SCAN(RegionWordHost):
    """Stacked cross attention (Lee et al., ECCV 2018).

    Args:
        dim, embedding: see RegionWordHost.
        direction, aggregation, feature_norm, lambda_softmax, lambda_lse: see
            crossmodal_bench.similarity.scan_similarity.
    """

    def __init__(
        self,
        dim: int = 1024,
        embedding: int = 300,
        direction: Direction = "t2i",
        aggregation: Aggregation = "Mean",
        feature_norm: FeatureNorm = "clipped_l2norm",
        lambda_softmax: float = 9.0,
        lambda_lse: float = 6.0,
    ) -> None:
        super().__init__(dim, embedding)
        self.direction, self.aggregation = direction, aggregation
        self.feature_norm = feature_norm
        self.lambda_softmax, self.lambda_lse = lambda_softmax, lambda_lse

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """SCAN's similarity."""
        assert texts.lengths is not None
        return scan_similarity(
            images.values,
            texts.values,
            texts.lengths,
            self.direction,
            self.aggregation,
            self.feature_norm,
            self.lambda_softmax,
            self.lambda_lse,
        )


class BFAN(RegionWordHost):
    """Bidirectional focal attention (Liu et al., ACM MM 2019).

    Args:
        dim, embedding: see RegionWordHost.
        focal, lambda_softmax: see crossmodal_bench.similarity.bfan_similarity.
    """

    def __init__(
        self, dim: int = 1024, embedding: int = 300, focal: Focal = "equal", lambda_softmax: float = 20.0
    ) -> None:
        super().__init__(dim, embedding)
        self.focal, self.lambda_softmax = focal, lambda_softmax

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """BFAN's similarity."""
        assert texts.lengths is not None
        return bfan_similarity(images.values, texts.values, texts.lengths, self.focal, self.lambda_softmax)
