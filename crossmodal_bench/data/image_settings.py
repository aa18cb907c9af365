"""The keys below ``data.images``: how pictures become numbers, and by which network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.pixels import Augmentation, ImageFit
from crossmodal_bench.data.regions import RegionChoice


@dataclass(frozen=True)
class ImageSettings:
    """How pictures become numbers.

    Attributes:
        network: image network for the view ``features`` if the data set has none, or instead of its own;
            also for a grid of regions, and for methods that train on pixels and name none.
        weights: see crossmodal_bench.networks.backbones.load_backbone; also those of a detector.
        regions: ``auto``: the data set's own, or those of its folder ``*_precomp``; ``grid``, ``detector``:
            extracted on first use, see crossmodal_bench.data.features.
        size: pixels per side, for training on pixels and for extraction.
        fit: how a picture is resized to that; see crossmodal_bench.data.pixels.normalised_pixels.
        augmentation: of training pixels, see crossmodal_bench.data.pixels.augmented_pixels; not applied to
            extracted features.
        on_bad_image: ``fail`` or ``skip`` if an image cannot be decoded.

    Raises:
        BadInput: a size below one pixel.
    """

    network: str | None = None
    weights: str = "auto"
    regions: RegionChoice = "auto"
    size: int = 224
    fit: ImageFit = "crop"
    augmentation: Augmentation = "none"
    on_bad_image: Literal["fail", "skip"] = "fail"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise BadInput(f"data.images.size is {self.size}; it must be at least 1")
