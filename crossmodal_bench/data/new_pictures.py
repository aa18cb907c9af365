"""How new pictures become the batches that a model was trained on: by its transform, and its networks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from crossmodal_bench.core.batch import ImageBatch
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.datasets.base import DatasetReader
from crossmodal_bench.data.detector import load_detector
from crossmodal_bench.data.features import GRID
from crossmodal_bench.data.pixels import normalised_pixels, plain_pixels
from crossmodal_bench.data.preprocessing import NetworkState, PreprocessingState
from crossmodal_bench.networks.backbones import load_backbone
from crossmodal_bench.networks.dual_encoders import HF, ImageTower


class PictureEncoding:
    """Pictures to batches.

    Args:
        state: the checkpoint's description of its training pictures.
        dataset: the reader of the data set it was trained on; nothing is read with it.
        weights: of the networks, as named in the run's configuration.
        data_root: where they are looked up.
        device: where the networks run.
    """

    def __init__(
        self,
        state: PreprocessingState,
        dataset: DatasetReader,
        weights: str,
        data_root: Path,
        device: torch.device,
    ) -> None:
        self.state = state
        self.dataset = dataset
        self.weights = weights
        self.data_root = data_root
        self.device = device

    @property
    def refusal(self) -> str:
        """Why new pictures cannot be encoded, and what would be needed; empty if they can."""
        state = self.state
        if "regions" in state.requires and state.regions is None:
            return (
                f"the model reads the regions that come with {state.dataset}, which new pictures don't have; "
                "train it on extracted ones, which any picture has (--set data.images.regions=grid, or "
                "detector)"
            )
        if "features" in state.requires and state.features is None and not self.dataset.describes_pictures:
            return (
                f"the model reads the image features that come with {state.dataset}, which new pictures "
                "don't have; train it on those of a network, which any picture has (--network mobilenet_v2)"
            )
        return ""

    def batch(self, pictures: Sequence[Image.Image]) -> ImageBatch:
        """RGB pictures with every view that the model reads; ``index`` counts them.

        Raises:
            BadInput: views that no new picture can have, or a network other than in training.
        """
        if self.refusal:
            raise BadInput(self.refusal)
        state = self.state
        pixels = None
        if "pixels" in state.requires:
            pixels = torch.stack(
                [normalised_pixels(each, state.image_size, state.image_fit) for each in pictures]
            )
        return ImageBatch(
            index=torch.arange(len(pictures)),
            pixels=pixels,
            regions=self._regions(pictures) if "regions" in state.requires else None,
            features=self._features(pictures) if "features" in state.requires else None,
        )

    def _features(self, pictures: Sequence[Image.Image]) -> Tensor:
        if self.state.features is None:
            return torch.from_numpy(np.stack([self.dataset.features_of(picture) for picture in pictures]))
        return self._run(self._feature_network, pictures, self.state.features)

    def _regions(self, pictures: Sequence[Image.Image]) -> Tensor:
        assert self.state.regions is not None
        return self._run(self._region_network, pictures, self.state.regions)

    @cached_property
    def _feature_network(self) -> nn.Module:
        assert self.state.features is not None
        return self._network(self.state.features)

    @cached_property
    def _region_network(self) -> nn.Module:
        assert self.state.regions is not None
        return self._network(self.state.regions)

    def _network(self, state: NetworkState) -> nn.Module:
        """The network used in training, verified by the checksum of its weights."""
        if state.regions == "detector":
            module, source = load_detector(self.weights, self.data_root, state.count)
        else:
            grid = GRID if state.regions == "grid" else None
            module, source = load_backbone(state.network, self.weights, self.data_root, grid)
        by_name = state.network.startswith(HF)
        if source.weights_sha256 != state.weights_sha256:
            raise BadInput(
                f"the weights of {state.network} ({source.weights}) are not those used in training "
                f"({state.weights}, checksum {state.weights_sha256}); put "
                + ("that model there" if by_name else f"that file into {self.data_root}/weights")
            )
        return module.eval().to(self.device)

    @torch.inference_mode()
    def _run(self, network: nn.Module, pictures: Sequence[Image.Image], state: NetworkState) -> Tensor:
        if isinstance(network, ImageTower):
            own = torch.stack([network.preprocess(picture) for picture in pictures])
            return network(own.to(self.device)).float().cpu()
        if state.image_size is None or state.image_fit is None:
            # A detector takes each picture at its own size; its regions must not depend on other pictures.
            outputs = [network(plain_pixels(picture)[None].to(self.device))[0] for picture in pictures]
            return torch.cat(outputs).float().cpu()
        pixels = [normalised_pixels(picture, state.image_size, state.image_fit) for picture in pictures]
        vectors: Tensor = network(torch.stack(pixels).to(self.device))
        return vectors.float().cpu()
