"""Image networks of torchvision and timm with their weights, to extract features or to train in a method."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crossmodal_bench.core.batch import DataSpec
from crossmodal_bench.core.errors import BadInput, MissingInput, nearest
from crossmodal_bench.core.files import first_line
from crossmodal_bench.networks.checksums import parameter_checksum
from crossmodal_bench.networks.classifiers import (
    SIDE,
    ChannelsFirst,
    Grid,
    Renormalised,
    VectorAndGrid,
    head_keys,
    last_map,
    no_map,
    width,
    without_classifier,
)
from crossmodal_bench.networks.dual_encoders import HF, load_image_tower
from crossmodal_bench.networks.seeding import seeded
from crossmodal_bench.networks.weight_files import fit_state, load_state


@dataclass(frozen=True)
class BackboneSource:
    """Which network with which weights; part of every record.

    ``weights`` is a file name, the name of a torchvision enum, or ``none``; ``weights_sha256`` the checksum
    of the parameters as loaded, so that one file under two names is one source; ``dim`` the width.
    """

    network: str
    weights: str
    weights_sha256: str
    dim: int


TIMM = "timm:"
"""Prefix of the names of timm's networks."""
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
"""What can only be the name of weights of torchvision."""


def load_backbone(
    name: str, weights: str, data_root: Path, grid: int | None = None
) -> tuple[nn.Module, BackboneSource]:
    """An image network in eval mode that maps (B, 3, H, W) to (B, dim), or to a grid of regions.

    Args:
        name: one of torchvision's classification networks, ``timm:NAME``, or ``hf:NAME`` for the image tower
            of a dual encoder, whose ``preprocess`` prepares its pixels.
        weights: a path to a state dict; a torchvision name such as ``IMAGENET1K_V1`` (what papers before 2021
            mean) or ``DEFAULT`` (the best, V2 for a ResNet), looked up in ``data_root/weights`` and otherwise
            downloaded; ``none`` for random ones (seed 0); ``auto``: ``data_root/weights/<name>_*.pth`` if it
            exists, else ``DEFAULT``. For timm, ``DEFAULT`` means those that the name's tag selects.
        data_root: where ``auto`` and names are looked up.
        grid: cells per side; the network then maps to (B, grid * grid, dim).

    Raises:
        BadInput: an unknown network, one without a feature map for a grid, weights that are missing, damaged
            or of another network, or a timm network when timm is not installed.
    """
    if name.startswith(TIMM):
        return load_timm(name, weights, data_root, grid)
    if name.startswith(HF):
        if grid is not None:
            raise no_map(name)
        loaded = load_image_tower(name, weights)
        return loaded.tower, BackboneSource(name, loaded.weights, loaded.checksum, loaded.dim)
    network, label, digest = _load_classifier(name, weights, data_root)
    if grid is None:
        module, dim = without_classifier(network, name)
    else:
        maps, dim = last_map(network, name)
        module = Grid(maps, grid)
    return module.eval(), BackboneSource(name, label, digest, dim)


def load_with_grid(
    name: str, weights: str, data_root: Path, grid: int
) -> tuple[nn.Module, BackboneSource, BackboneSource]:
    """An image network in eval mode that maps (B, 3, H, W) to (B, dim) and to a grid of regions.

    Args:
        name, weights, data_root: see load_backbone, also for the exceptions.
        grid: cells per side; dual encoders have none.

    Returns:
        The network, with two outputs; the source of its vectors, and that of its grid.
    """
    if name.startswith(HF):
        raise no_map(name)
    if name.startswith(TIMM):
        own, settings, label, digest = _load_timm_network(name, weights, data_root)
        maps: nn.Module = ChannelsFirst(own, name)
        side = _side(settings)
        widths = width(own, 1, side), width(maps, 3, side)
        module: nn.Module = Renormalised(VectorAndGrid(own, maps, grid), settings)
    else:
        network, label, digest = _load_classifier(name, weights, data_root)
        # The map first: the network without its classifier shares the same modules.
        maps, map_dim = last_map(network, name)
        vectors, dim = without_classifier(network, name)
        widths = dim, map_dim
        module = VectorAndGrid(vectors, maps, grid)
    pooled, cells = (BackboneSource(name, label, digest, dim) for dim in widths)
    return module.eval(), pooled, cells


def trained_network(
    spec: DataSpec, name: str | None = None, weights: str | None = None
) -> tuple[nn.Module, BackboneSource]:
    """The image network that a method trains itself, from pixels to features.

    Args:
        spec: the data's; its weights are random if a checkpoint is about to supply them.
        name: torchvision's name; None for the data module's network.
        weights: see load_backbone; None for the data module's.

    Raises:
        BadInput: no network is named, or its weights cannot be loaded.
    """
    name = name or spec.network
    if name is None:
        raise BadInput("no image network is named; set NETWORK, data.images.network or image_encoder.network")
    if name.startswith(HF):
        raise BadInput(
            f"network '{name}' is a frozen tower that only provides features, but this method trains a "
            "network on pixels: name one of torchvision or timm:NAME, or use a preset with features, such as "
            "small"
        )
    weights = "none" if spec.weights_root is None else weights or spec.weights
    return load_backbone(name, weights, Path(spec.weights_root or ""))


def _load_classifier(name: str, weights: str, data_root: Path) -> tuple[nn.Module, str, str]:
    """As ``load_network``, for a name that may not be one of torchvision's classification networks."""
    import torchvision.models

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        hint = nearest(name, names) or "; name one of torchvision, timm:NAME or hf:NAME"
        raise BadInput(f"network '{name}' is unknown{hint}")
    return load_network(name, weights, data_root, classifies=True)


def load_network(
    name: str, weights: str, data_root: Path, *, classifies: bool = False, **settings: Any
) -> tuple[nn.Module, str, str]:
    """A complete torchvision network in eval mode, the name of its weights and their checksum.

    Args:
        name: torchvision's name.
        weights, data_root: see load_backbone.
        classifies: its last layer is a classifier, which will be cut off and may be missing in a file.
        settings: further arguments of torchvision's constructor.

    Raises:
        BadInput: weights that are missing, damaged, or of another network.
    """
    import torchvision.models

    label = weights
    # Only `auto` uses a file of the user's own; names don't.
    own_file = f"or another state dict at {data_root / 'weights' / name}_*.pth, " if weights == "auto" else ""
    if weights == "auto":
        weights = own_weights(name, data_root) or "DEFAULT"
        label = weights
    named = torchvision.models.get_model_weights(name).__members__
    settings |= _settings_for(name, named.get(weights))
    network = seeded(lambda: torchvision.models.get_model(name, weights=None, **settings)).eval()
    head = head_keys(network, name) if classifies else ()
    if weights in named:
        _load_named(network, named[weights], data_root, name, own_file, head)
        label = str(named[weights])
    elif _NAME.fullmatch(weights) and not Path(weights).exists():
        raise BadInput(
            f"weights '{weights}' are none of torchvision's for {name}; use {', '.join(named)} or a path"
        )
    elif weights != "none":
        load_state(network, Path(weights), name, head)
        label = Path(weights).name
    return network, label, checksum(network, random=weights == "none")


def _settings_for(name: str, weights: Any) -> dict[str, Any]:
    """Arguments of torchvision's constructor that a member of its weights enum requires, if any."""
    if name in ("googlenet", "inception_v3"):
        # Their weights expect pixels between -1 and 1; this converts the usual ones. Their own random
        # initialisation takes minutes.
        return {"transform_input": True, "init_weights": False}
    if name.startswith("vit_") and weights is not None:
        return {"image_size": weights.meta["min_size"][0]}
    return {}


def own_weights(name: str, data_root: Path) -> str:
    """The path of the user's own weights for a network, which ``auto`` uses; empty if there are none."""
    files = sorted((data_root / "weights").glob(f"{name}_*.pth"))
    return str(files[0]) if files else ""


def checksum(network: nn.Module, *, random: bool) -> str:
    """16 hex digits of a network's parameters and statistics; random networks are then calibrated."""
    if not random:
        return parameter_checksum(network)
    digits = parameter_checksum(network, b"calibrated")
    # After the checksum: the measured statistics differ in their last bits between processors.
    # A detector takes lists; only its backbone has batch norms before the regions are known.
    _calibrate(getattr(network, "backbone", network))
    return digits


def published_file(weights: Any, data_root: Path) -> Path:
    """Where torchvision's weights (a member of its enum) are looked up before they are downloaded."""
    return data_root / "weights" / str(weights.url).rpartition("/")[2]


def _load_named(
    network: nn.Module, weights: Any, data_root: Path, name: str, own_file: str, head: Collection[str]
) -> None:
    """Load a member of torchvision's enum; ``own_file`` is an alternative for MissingInput to suggest."""
    path = published_file(weights, data_root)
    if path.is_file():
        load_state(network, path, name, head)
        return
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise MissingInput(
            f"{path} is missing, and torchvision's {weights} cannot be downloaded ({error}); put "
            f"{weights.url} there, {own_file}or pass WEIGHTS=path, or WEIGHTS=none for random ones"
        ) from error
    fit_state(network, state, str(weights.url), name, head)


def load_timm(
    name: str, weights: str, data_root: Path, grid: int | None = None
) -> tuple[nn.Module, BackboneSource]:
    """A network of the package timm, as for ``load_backbone``.

    Pixels normalised with ImageNet's mean and deviation are converted to those that its weights were trained
    with.

    Raises:
        BadInput: as there.
    """
    network, settings, label, digest = _load_timm_network(name, weights, data_root)
    module = network if grid is None else ChannelsFirst(network, name)
    dim = width(module, 1 if grid is None else 3, _side(settings))
    module = module if grid is None else Grid(module, grid)
    return Renormalised(module, settings).eval(), BackboneSource(name, label, digest, dim)


def _side(settings: dict[str, Any]) -> int:
    """Pixels per side that a timm network expects, according to its settings."""
    return int(settings.get("input_size", (3, SIDE, SIDE))[-1])


def _load_timm_network(
    name: str, weights: str, data_root: Path
) -> tuple[nn.Module, dict[str, Any], str, str]:
    """A timm network without its classifier, timm's settings, the name of its weights, their checksum."""
    try:
        import timm
    except ImportError as error:
        raise BadInput(
            f"network '{name}' needs the package timm; install it with pip install 'crossmodal-bench[timm]'"
        ) from error
    own_name = name.removeprefix(TIMM)
    architecture = own_name.partition(".")[0]
    if not timm.is_model(architecture):
        raise BadInput(f"network '{name}' is unknown{nearest(architecture, timm.list_models())}")
    if weights == "auto":
        weights = own_weights(own_name, data_root) or "DEFAULT"
    if _NAME.fullmatch(weights) and weights != "DEFAULT" and not Path(weights).exists():
        raise BadInput(
            f"weights '{weights}' are torchvision's; timm's are selected by the network's name, as in "
            f"timm:{architecture}.TAG, or by a path"
        )
    try:
        network: Any = seeded(lambda: timm.create_model(own_name, pretrained=False, num_classes=0)).eval()
    # For example an unknown tag, or an architecture that cannot be created in this way.
    except Exception as error:
        raise BadInput(f"network '{name}' cannot be created ({first_line(error)}); name another") from error
    settings: dict[str, Any] = network.pretrained_cfg
    label = weights
    if weights == "DEFAULT":
        label = str(settings.get("tag") or own_name)
        try:
            pretrained = timm.create_model(own_name, pretrained=True, num_classes=0)
        # Hub errors, and those of a missing hub, can be of any class.
        except Exception as error:
            raise MissingInput(
                f"the weights of {name} cannot be downloaded ({first_line(error)}); put a state dict at "
                f"{data_root / 'weights' / own_name}_*.pth, or pass WEIGHTS=path, or "
                "WEIGHTS=none for random ones"
            ) from error
        network = pretrained.eval()
    elif weights != "none":
        classifier = settings.get("classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        load_state(network, Path(weights), name, [f"{head}." for head in heads])
        label = Path(weights).name
    return network, settings, label, checksum(network, random=weights == "none")


@torch.inference_mode()
def _calibrate(network: nn.Module) -> None:
    """Let the batch norms of a random network see smooth noise once.

    With their initial statistics (mean 0, variance 1), signals vanish or explode layer by layer: MobileNet-V2
    gives features of 1e-10, ResNet-152 of 1e7.
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
