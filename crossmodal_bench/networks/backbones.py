"""Image networks of torchvision without their classifiers, for features, regions or inside a method."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec
from crossmodal_bench.core.errors import BadInput, MissingInput, nearest
from crossmodal_bench.core.files import first_line


@dataclass(frozen=True)
class BackboneSource:
    """Which network with which weights; part of every record.

    ``weights`` is a file name, the name of a torchvision enum, or ``none``; ``weights_sha256`` the checksum
    of the parameters as loaded, so that the same file under two names is the same source; ``dim`` the width.
    """

    network: str
    weights: str
    weights_sha256: str
    dim: int


_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
"""What can only be meant as a name of torchvision's weights."""


class Network(NamedTuple):
    """What is left of a torchvision network where it gives one vector, and where it gives a map.

    pooled: to (B, dim). last_map: to (B, map_dim, h, w), the last feature map.
    """

    pooled: Callable[[Any], nn.Module]
    dim: int
    last_map: Callable[[Any], nn.Module]
    map_dim: int


class Grid(nn.Module):
    """(B, 3, H, W) to (B, side * side, C): the feature map averaged in a raster of cells, row by row."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side

    def forward(self, pixels: Tensor) -> Tensor:
        """The cells."""
        cells = nn.functional.adaptive_avg_pool2d(self.network(pixels), self.side)
        return cells.flatten(2).transpose(1, 2)


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
"""The vectors are fc7 with its ReLU for VGG-19, and the averaged last feature map elsewhere."""


def load_backbone(
    name: str, weights: str, data_root: Path, grid: int | None = None
) -> tuple[nn.Module, BackboneSource]:
    """A torchvision network in eval mode that maps (B, 3, H, W) to (B, dim), or to a grid of regions.

    Args:
        name: one of NETWORKS.
        weights: a path to a state dict; a name of torchvision's, as ``IMAGENET1K_V1`` (what papers before
            2021 mean) or ``DEFAULT`` (its best, V2 of a ResNet), for its file in ``data_root/weights``, else
            downloaded; ``none`` for random ones (seed 0); ``auto``: ``data_root/weights/<name>_*.pth`` if
            there, else ``DEFAULT``.
        data_root: where ``auto`` and names look.
        grid: cells of a side; the network then maps to (B, grid * grid, dim).

    Raises:
        BadInput: unknown network, weights that are missing, damaged, or of another network.
    """
    if name not in NETWORKS:
        raise BadInput(f"network '{name}' is unknown{nearest(name, NETWORKS)}")
    network, label, checksum = load_network(name, weights, data_root)
    known = NETWORKS[name]
    if grid is None:
        return known.pooled(network).eval(), BackboneSource(name, label, checksum, known.dim)
    cells = Grid(known.last_map(network), grid)
    return cells.eval(), BackboneSource(name, label, checksum, known.map_dim)


def trained_network(
    spec: DataSpec, name: str | None = None, weights: str | None = None
) -> tuple[nn.Module, BackboneSource]:
    """The image network that a method runs itself, from pixels to features.

    Args:
        spec: of the data; where a checkpoint is about to bring all weights, they are random.
        name: of torchvision's network; None for the data module's.
        weights: see load_backbone; None for the data module's.

    Raises:
        BadInput: no network is named, or its weights cannot be loaded.
    """
    name = name or spec.network
    if name is None:
        raise BadInput(
            "no image network is named; give NETWORK, data.images.network or image_encoder.network"
        )
    weights = "none" if spec.weights_root is None else weights or spec.weights
    return load_backbone(name, weights, Path(spec.weights_root or ""))


def load_network(name: str, weights: str, data_root: Path, **settings: Any) -> tuple[nn.Module, str, str]:
    """A whole torchvision network in eval mode, the name of its weights and their checksum.

    Args:
        name: torchvision's.
        weights, data_root: see load_backbone.
        settings: further arguments of torchvision's constructor.

    Raises:
        BadInput: weights that are missing, damaged, or of another network.
    """
    import torchvision.models

    torch_state = torch.random.get_rng_state()
    # Not torch.manual_seed: that would reset the accelerator's generators too, for every seed alike.
    torch.default_generator.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, **settings).eval()
    torch.random.set_rng_state(torch_state)
    label = weights
    # A file of the user's own is what `auto` takes, and no name does.
    own_file = f"or another state dict at {data_root / 'weights' / name}_*.pth, " if weights == "auto" else ""
    if weights == "auto":
        files = sorted((data_root / "weights").glob(f"{name}_*.pth"))
        weights = str(files[0]) if files else "DEFAULT"
        label = weights
    named = torchvision.models.get_model_weights(name).__members__
    if weights in named:
        _load_named(network, named[weights], data_root, name, own_file)
        label = str(named[weights])
    elif _NAME.fullmatch(weights) and not Path(weights).exists():
        raise BadInput(
            f"weights '{weights}' are none of torchvision's for {name}; give {', '.join(named)} or a path"
        )
    elif weights != "none":
        load_state(network, Path(weights), name)
        label = Path(weights).name
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    if weights == "none":
        # Behind the checksum: what is measured differs in its last bits from one processor to the next.
        digest.update(b"calibrated")
        # A detector takes lists; what has batch norms before its regions are known is its backbone.
        _calibrate(getattr(network, "backbone", network))
    return network, label, digest.hexdigest()[:16]


def published_file(weights: Any, data_root: Path) -> Path:
    """Where torchvision's weights (a member of its enumeration) are looked for before they are downloaded."""
    return data_root / "weights" / str(weights.url).rpartition("/")[2]


def _load_named(network: nn.Module, weights: Any, data_root: Path, name: str, own_file: str) -> None:
    """Load a member of torchvision's enumeration; ``own_file`` is what else a MissingInput proposes."""
    path = published_file(weights, data_root)
    if path.is_file():
        load_state(network, path, name)
        return
    try:
        network.load_state_dict(weights.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise MissingInput(
            f"{path} is missing, and torchvision's {weights} cannot be downloaded ({error}); put "
            f"{weights.url} there, {own_file}or pass WEIGHTS=path, or WEIGHTS=none for random ones"
        ) from error


@torch.inference_mode()
def _calibrate(network: nn.Module) -> None:
    """Let the batch norms of a random network see smooth noise once.

    With the statistics that they start with (mean 0, variance 1), signals vanish or explode layer by layer:
    MobileNet-V2 gives features of 1e-10, ResNet-152 of 1e7.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        coarse = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        network(nn.functional.interpolate(coarse, size=128, mode="bilinear"))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def load_state(network: nn.Module, path: Path, name: str) -> None:
    """Give a network the state dict in a file; ``name`` of the network, for the sentence of a BadInput."""
    if not path.is_file():
        raise MissingInput(
            f"weights {path} are missing; give the path of a {name} state dict, DEFAULT or none"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BadInput(
            f"{path} cannot be read as weights; it must be a state dict saved with "
            "torch.save(model.state_dict(), path), which loads without running code"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    try:
        network.load_state_dict(state)
    # Whatever a state dict's keys and values may be instead of names and tensors.
    except Exception as error:
        raise BadInput(
            f"{path} holds no weights of {name} ({first_line(error)}); name the right file"
        ) from error
