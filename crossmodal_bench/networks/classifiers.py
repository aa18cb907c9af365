"""Image networks without their classifiers: one vector per picture, or the last feature map.

The six networks that the papers use are written out. For other torchvision networks, the last linear layer is
the classifier, and the input of its pooling is the last feature map; timm's networks report both themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crossmodal_bench.core.errors import BadInput

AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
"""Keys of the auxiliary classifiers of Inception and GoogLeNet, for training on ImageNet."""
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Per channel, for ImageNet pixels from 0 to 1: what torchvision's networks are trained with."""
SIDE = 224
"""Pixels per side of the all-zero picture used to measure widths."""


class Network(NamedTuple):
    """How a torchvision network gives one vector, and how it gives a map.

    pooled: to (B, dim). last_map: to (B, map_dim, h, w), the last feature map.
    """

    pooled: Callable[[Any], nn.Module]
    dim: int
    last_map: Callable[[Any], nn.Module]
    map_dim: int


class Grid(nn.Module):
    """(B, 3, H, W) to (B, side * side, C): the feature map averaged over a grid of cells, row by row."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side

    def forward(self, pixels: Tensor) -> Tensor:
        """The cells."""
        return self.cells(self.network(pixels))

    def cells(self, last_map: Tensor) -> Tensor:
        """(B, side * side, C) of a feature map (B, C, h, w)."""
        cells = nn.functional.adaptive_avg_pool2d(last_map, self.side)
        return cells.flatten(2).transpose(1, 2)


class BeforePooling(nn.Module):
    """(B, 3, H, W) to (B, C, h, w): the input of a network's ``avgpool``.

    Args:
        network: has a module ``avgpool``; whatever follows it is computed and discarded.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        network.avgpool.register_forward_pre_hook(self._keep)
        self._map: Tensor | None = None

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._map = inputs[0]

    def forward(self, pixels: Tensor) -> Tensor:
        """The map."""
        self.network(pixels)
        return self.taken()

    def taken(self) -> Tensor:
        """The map of the latest forward pass, which is then released."""
        last, self._map = self._map, None
        assert last is not None
        return last


class VectorAndGrid(nn.Module):
    """(B, 3, H, W) to (B, D) and (B, side * side, C): a network's own vector, and a grid of its last map.

    One pass gives both if the network computes its vector from that map; otherwise there are two.

    Args:
        network: to (B, D).
        maps: to (B, C, h, w), of the same modules.
        side: cells per side.
    """

    def __init__(self, network: nn.Module, maps: nn.Module, side: int) -> None:
        super().__init__()
        self.network = network
        self.grid = Grid(maps, side)
        self._map: Tensor | None = None
        end = maps
        while isinstance(end, nn.Sequential):
            end = end[-1]
        if any(end is module for module in network.modules()):
            end.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._map = output

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors, and the cells."""
        vectors: Tensor = self.network(pixels)
        last, self._map = self._map, None
        if last is None:
            maps = self.grid.network
            last = maps.taken() if isinstance(maps, BeforePooling) else maps(pixels)
        return vectors, self.grid.cells(last)


class ChannelsFirst(nn.Module):
    """(B, 3, H, W) to (B, C, h, w): a timm network's last feature map, whatever its channel order.

    Args:
        network: timm's.
        name: its name, for error messages.
    """

    def __init__(self, network: Any, name: str) -> None:
        super().__init__()
        self.network, self.name = network, name

    def forward(self, pixels: Tensor) -> Tensor:
        """The map; raises BadInput if the network has none."""
        features: Tensor = self.network.forward_features(pixels)
        if features.ndim != 4:
            raise no_map(self.name)
        channels_last = str(getattr(self.network, "output_fmt", "NCHW")).endswith("NHWC")
        return features.permute(0, 3, 1, 2) if channels_last else features


class Renormalised(nn.Module):
    """A network whose weights were trained on pixels with a mean and deviation other than ImageNet's.

    Args:
        network: reads pixels of its own mean and deviation.
        settings: timm's, with ``mean`` and ``std`` of three channels each.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, settings: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        usual = torch.tensor(MEAN), torch.tensor(STD)
        mean, std = (
            torch.tensor(settings.get(key) or ours, dtype=torch.float32)
            for key, ours in (("mean", MEAN), ("std", STD))
        )
        self.register_buffer("scale", (usual[1] / std).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((usual[0] - mean) / std).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Any:
        """The network's output for pixels with ImageNet's mean and deviation."""
        return self.network(pixels * self.scale + self.shift)


def _vgg19(network: Any) -> nn.Module:
    network.classifier = network.classifier[:5]
    return network


def _resnet(network: Any) -> nn.Module:
    network.fc = nn.Identity()
    return network


def _mobilenet(network: Any) -> nn.Module:
    network.classifier = nn.Identity()
    return network


def _convolutions(network: Any) -> nn.Module:
    return network.features


def _stages(network: Any) -> nn.Module:
    return nn.Sequential(*(part for name, part in network.named_children() if name not in ("avgpool", "fc")))


NETWORKS: dict[str, Network] = {
    "vgg19": Network(_vgg19, 4096, _convolutions, 512),
    "resnet18": Network(_resnet, 512, _stages, 512),
    "resnet50": Network(_resnet, 2048, _stages, 2048),
    "resnet101": Network(_resnet, 2048, _stages, 2048),
    "resnet152": Network(_resnet, 2048, _stages, 2048),
    "mobilenet_v2": Network(_mobilenet, 1280, _convolutions, 1280),
}
"""The vectors are fc7 after its ReLU for VGG-19, and the averaged last feature map for the others."""


def without_classifier(network: Any, name: str) -> tuple[nn.Module, int]:
    """(B, 3, H, W) to (B, dim), and dim: the input of a torchvision network's classifier.

    Args:
        network: torchvision's; it is modified.
        name: its name.
    """
    if name in NETWORKS:
        return NETWORKS[name].pooled(network), NETWORKS[name].dim
    if name.startswith("squeezenet"):
        network.classifier = nn.AdaptiveAvgPool2d(1)
    else:
        path, _ = _last_linear(network)
        parent, _, child = path.rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
    _drop_auxiliary(network)
    return network, width(network, 1)


def last_map(network: Any, name: str) -> tuple[nn.Module, int]:
    """(B, 3, H, W) to (B, C, h, w), and C: the last feature map of a torchvision network.

    Raises:
        BadInput: the network has none.
    """
    if name in NETWORKS:
        return NETWORKS[name].last_map(network), NETWORKS[name].map_dim
    _drop_auxiliary(network)
    if hasattr(network, "avgpool"):
        maps: nn.Module = BeforePooling(network)
    elif name.startswith("densenet"):
        maps = nn.Sequential(network.features, nn.ReLU())
    elif name.startswith("mnasnet"):
        maps = network.layers
    elif name.startswith("shufflenet"):
        maps = _stages(network)
    elif isinstance(getattr(network, "features", None), nn.Module):
        maps = network.features
    else:
        raise no_map(name)
    return maps, width(maps, 3)


def no_map(name: str) -> BadInput:
    """The exception for a network without a feature map."""
    return BadInput(
        f"network '{name}' has no last feature map to take a grid of regions from; name a convolutional one, "
        "such as resnet152, or set data.images.regions to detector"
    )


def head_keys(network: Any, name: str) -> tuple[str, ...]:
    """Key prefixes of the layers of a torchvision network that ``without_classifier`` removes."""
    if name.startswith("squeezenet"):
        return ("classifier.",)
    path, _ = _last_linear(network)
    return (f"{path}.", *AUXILIARY)


def width(module: nn.Module, dimensions: int, side: int | None = None) -> int:
    """The number of channels of a network's output for a picture.

    Args:
        module: the network; it is left in eval mode.
        dimensions: of its output for one picture: 1 for (B, C), 3 for (B, C, h, w).
        side: pixels per side of the picture; None for the network's own ``image_size``, or SIDE.

    Raises:
        BadInput: its output has other dimensions.
    """
    side = int(getattr(module, "image_size", SIDE)) if side is None else side
    with torch.inference_mode():
        output = module.eval()(torch.zeros(1, 3, side, side))
    if output.ndim != dimensions + 1:
        raise BadInput(
            f"{type(module).__name__} outputs {tuple(output.shape)} for a picture; name another network"
        )
    return int(output.shape[1])


def _last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    linear = [(path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1]


def _drop_auxiliary(network: Any) -> None:
    """Remove the auxiliary classifiers that Inception and GoogLeNet use in training."""
    if getattr(network, "aux_logits", False):
        network.aux_logits = False
        for key in AUXILIARY:
            if hasattr(network, key[:-1]):
                setattr(network, key[:-1], None)
