"""Image encoders: one vector per image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec, ImageBatch, require
from crossmodal_bench.networks.backbones import BackboneSource, trained_network
from crossmodal_bench.networks.embedding import single
from crossmodal_bench.networks.freezing import Freezable, Freeze
from crossmodal_bench.networks.perceptron import Perceptron


class ImageEncoder(nn.Module, ABC):
    """Images to vectors. ``requires`` names the views it reads; ``source`` is its pre-trained network."""

    requires: frozenset[str]
    source: BackboneSource | None = None
    freeze: Freeze = "never"

    @property
    def fine_tuned(self) -> bool:
        """Whether its pre-trained network is trained along with the rest, rather than kept as loaded."""
        return False

    @abstractmethod
    def build(self, spec: DataSpec, dim: int) -> None:
        """Create the layers, for vectors of width ``dim``."""

    @abstractmethod
    def forward(self, batch: ImageBatch) -> Tensor:
        """(B, dim)."""


class ConvNetEncoder(ImageEncoder):
    """A torchvision network, and one linear layer on its pooled last feature map (TIMAM, 3.1).

    Args:
        network: resnet18, resnet50, resnet101, resnet152, mobilenet_v2 or vgg19 (fc7); None for the data
            module's.
        weights: see crossmodal_bench.networks.backbones.load_backbone; None for the data module's.
        freeze: whether, and for how long, the network stays as loaded.
    """

    requires = frozenset({"pixels"})

    def __init__(
        self, network: str | None = None, weights: str | None = None, freeze: Freeze = "never"
    ) -> None:
        super().__init__()
        self.name, self.weights = network, weights
        self.freeze = freeze

    def build(self, spec: DataSpec, dim: int) -> None:
        """Load the network; its weights are random if a checkpoint is about to supply them.

        Raises:
            BadInput: no network is named, or its weights cannot be loaded.
        """
        network, source = trained_network(spec, self.name, self.weights)
        self.source = None if spec.weights_root is None else source
        self.backbone = Freezable(network, self.freeze)
        self.projection = nn.Linear(source.dim, dim)

    @property
    def fine_tuned(self) -> bool:
        """Whether the network has been unfrozen at this point of the training."""
        return not bool(self.backbone.frozen)

    def forward(self, batch: ImageBatch) -> Tensor:
        """(B, dim)."""
        features = self.backbone(require(batch.pixels, "pixels"))
        # In single precision, whatever precision the network ran in: vectors are ranked.
        with torch.autocast(features.device.type, enabled=False):
            return self.projection(single(features))


class FeatureEncoder(ImageEncoder):
    """Precomputed features of a frozen network, through linear layers.

    Args:
        hidden: widths between the features and the vector.
        dropout: on the features and on hidden units.
        standardise: whether features are first standardised by batch statistics.
    """

    requires = frozenset({"features"})

    def __init__(self, hidden: Sequence[int] = (), dropout: float = 0.0, standardise: bool = False) -> None:
        super().__init__()
        self.hidden, self.dropout = tuple(hidden), dropout
        self.standardise = standardise

    def build(self, spec: DataSpec, dim: int) -> None:
        """Create the layers, starting at the features' width."""
        scale = nn.BatchNorm1d(spec.feature_dim, affine=False) if self.standardise else nn.Identity()
        self.prepare = nn.Sequential(scale, nn.Dropout(self.dropout))
        self.projection = Perceptron((spec.feature_dim, *self.hidden, dim), "relu", dropout=self.dropout)

    def forward(self, batch: ImageBatch) -> Tensor:
        """(B, dim)."""
        return self.projection(self.prepare(require(batch.features, "features")))
