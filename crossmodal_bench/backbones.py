"""Image networks of torchvision without their classifiers, for features or inside a method."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crossmodal_bench.errors import BadInput, MissingInput, nearest


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


def _vgg19(network: Any) -> nn.Module:
    network.classifier = network.classifier[:5]
    return network


def _resnet(network: Any) -> nn.Module:
    network.fc = nn.Identity()
    return network


def _mobilenet(network: Any) -> nn.Module:
    network.classifier = nn.Identity()
    return network


NETWORKS: dict[str, tuple[Callable[[Any], nn.Module], int]] = {
    "vgg19": (_vgg19, 4096),
    "resnet18": (_resnet, 512),
    "resnet50": (_resnet, 2048),
    "resnet101": (_resnet, 2048),
    "resnet152": (_resnet, 2048),
    "mobilenet_v2": (_mobilenet, 1280),
}
"""Name to (what is cut off, width): fc7 with its ReLU for VGG-19, the pooled last feature map elsewhere."""


def load_backbone(name: str, weights: str, data_root: Path) -> tuple[nn.Module, BackboneSource]:
    """A torchvision network in eval mode that maps (B, 3, H, W) to (B, dim).

    Args:
        name: one of NETWORKS.
        weights: a path to a state dict; ``DEFAULT`` for torchvision's own (downloaded by torchvision);
            ``none`` for random ones (seed 0); ``auto``: ``data_root/weights/<name>_*.pth`` if there, else
            ``DEFAULT``.
        data_root: where ``auto`` looks.

    Raises:
        BadInput: unknown network, weights that are missing, damaged, or of another network.
    """
    import torchvision.models

    if name not in NETWORKS:
        raise BadInput(f"network '{name}' is unknown{nearest(name, NETWORKS)}")
    cut, dim = NETWORKS[name]
    torch_state = torch.random.get_rng_state()
    # Not torch.manual_seed: that would reset the accelerator's generators too, for every seed alike.
    torch.default_generator.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    torch.random.set_rng_state(torch_state)
    label = weights
    if weights == "auto":
        found = sorted((data_root / "weights").glob(f"{name}_*.pth"))
        weights = str(found[0]) if found else "DEFAULT"
        label = weights
    if weights == "DEFAULT":
        enum = torchvision.models.get_model_weights(name)
        try:
            network.load_state_dict(enum["DEFAULT"].get_state_dict(progress=True, check_hash=True))
        except (OSError, RuntimeError) as error:
            raise MissingInput(
                f"{data_root / 'weights' / name}_*.pth is missing and torchvision's weights cannot be "
                f"downloaded ({error}); put a state dict there, or pass WEIGHTS=path, or WEIGHTS=none for "
                "random ones"
            ) from error
        label = str(enum["DEFAULT"])
    elif weights != "none":
        _load_state(network, Path(weights), name)
        label = Path(weights).name
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    if weights == "none":
        # Behind the checksum: what is measured differs in its last bits from one processor to the next.
        digest.update(b"calibrated")
        _calibrate(network)
    return cut(network).eval(), BackboneSource(name, label, digest.hexdigest()[:16], dim)


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


def _load_state(network: nn.Module, path: Path, name: str) -> None:
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
    except (RuntimeError, AttributeError, TypeError) as error:
        raise BadInput(
            f"{path} holds no weights of {name} ({str(error).splitlines()[0]}); name the right file"
        ) from error
