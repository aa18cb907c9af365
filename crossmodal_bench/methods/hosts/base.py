"""The contract of a host: the matching network that ADDR is added to, or that is trained on its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.networks import TextSource


class Encoded(NamedTuple):
    """B encoded items.

    ``scored`` is what the similarity compares, ``fragments`` what ADDR's discriminators look at: (B, R, D)
    regions, or words packed one after another with their lengths. Both of one width D in both modalities.
    """

    scored: Encoding
    fragments: Encoding


class Host(nn.Module, ABC):
    """Two encoders and a similarity. ``requires`` names the views that they read.

    Attributes:
        fragment_dim: width of the fragments; known once it is built.
        text_source: what reads the captions; None where a host does not say.
    """

    requires: frozenset[str] = frozenset({"regions", "words"})
    fragment_dim: int
    text_source: TextSource | None = None

    @abstractmethod
    def build(self, spec: DataSpec) -> None:
        """Make the networks, from the sizes of the data; sets ``fragment_dim``."""

    @abstractmethod
    def images(self, batch: ImageBatch) -> Encoded:
        """B encoded images."""

    @abstractmethod
    def texts(self, batch: TextBatch) -> Encoded:
        """B encoded captions."""

    @abstractmethod
    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """(n_images, n_texts) similarities of what is ``scored``; higher is better."""

    def auxiliary_loss(self, images: Encoded, texts: TextBatch) -> Tensor | None:
        """What the host minimises beside ranking, over B pairs (row b of both); None for nothing."""
        return None
