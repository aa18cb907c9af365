"""The contract of a host: a matching network that ADDR extends or that is trained on its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch
from crossmodal_bench.core.encoding import Encoding, VectorSimilarity
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.networks import Freezable, TextSource
from crossmodal_bench.networks.backbones import BackboneSource


class Encoded(NamedTuple):
    """B encoded items.

    ``scored`` is what the similarity compares, ``fragments`` what ADDR's discriminators see: (B, R, D)
    regions, or packed words with their lengths. Fragments have the same width D in both modalities.
    """

    scored: Encoding
    fragments: Encoding


class Host(nn.Module, ABC):
    """Two encoders and a similarity. ``requires`` names the views that they read.

    Attributes:
        fragment_dim: width of the fragments; known once it is built.
        text_source: what encodes the captions; None if a host does not say.
        source: the pre-trained image network that the host runs and trains itself; None if it reads features.
    """

    requires: frozenset[str] = frozenset({"regions", "words"})
    fragment_dim: int
    text_source: TextSource | None = None
    source: BackboneSource | None = None

    @abstractmethod
    def build(self, spec: DataSpec) -> None:
        """Build the networks from the sizes of the data; sets ``fragment_dim``."""

    @abstractmethod
    def images(self, batch: ImageBatch) -> Encoded:
        """B encoded images."""

    @abstractmethod
    def texts(self, batch: TextBatch) -> Encoded:
        """B encoded captions."""

    @abstractmethod
    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """(n_images, n_texts) similarities of ``scored`` encodings; higher is better."""

    @property
    def vector_similarity(self) -> VectorSimilarity | None:
        """See RetrievalMethod; None for hosts that compare fragments."""
        return None

    @property
    def fine_tuned(self) -> bool:
        """Whether an image network is trained too."""
        return False

    def inherit(self, weights: Mapping[str, Tensor]) -> None:
        """Start from the trained weights of a host with the same layers, with or without its image network.

        Args:
            weights: its state dictionary.

        Raises:
            BadInput: there are weights for layers that this host lacks, or layers without weights.
            RuntimeError: weights have another shape.
        """
        own = set(self.state_dict())
        pretrained = {
            f"{name}.{key}"
            for name, module in self.named_modules()
            if isinstance(module, Freezable)
            for key in module.state_dict()
        }
        unknown, missing = set(weights) - own, own - pretrained - set(weights)
        if unknown or missing:
            what = f"has weights for {min(unknown)}" if unknown else f"has no weights for {min(missing)}"
            raise BadInput(
                f"the model to start from {what}, unlike {type(self).__name__} as configured here; name a "
                "parent with the same host"
            )
        self.load_state_dict(weights, strict=False)

    def auxiliary_loss(self, images: Encoded, texts: TextBatch) -> Tensor | None:
        """What the host minimises in addition to ranking, over B pairs (row b of both); None for nothing."""
        return None
