"""Image features of a frozen network: extracted once, resumable, memory-mapped, named by what made them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.images import ImageSource
from crossmodal_bench.data.views import normalised_pixels
from crossmodal_bench.errors import BadInput, MissingInput, nearest

Progress = Callable[[int, int], None]
"""Told (images done, images in all) after each batch."""


@dataclass(frozen=True)
class FeatureSource:
    """What made a feature store; part of every record.

    ``weights`` is a file name, the name of a torchvision enum, or ``none``; ``weights_sha256`` the checksum
    of the parameters as loaded, so that the same file under two names is the same source.
    """

    network: str
    weights: str
    weights_sha256: str
    image_size: int
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


def load_network(name: str, weights: str, data_root: Path) -> tuple[nn.Module, FeatureSource]:
    """A frozen torchvision network in eval mode.

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
    network = cut(network).eval().requires_grad_(False)
    return network, FeatureSource(name, label, digest.hexdigest()[:16], 224, dim)


@torch.inference_mode()
def _calibrate(network: nn.Module) -> None:
    """Let the batch norms of a random network see smooth noise once.

    With the statistics that they start with (mean 0, variance 1), signals vanish or explode layer by layer:
    MobileNet-V2 gives features of 1e-10, ResNet-152 of 1e7.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        coarse = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        network(nn.functional.interpolate(coarse, size=128, mode="bilinear"))


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


@dataclass(frozen=True)
class FeatureStore:
    """(N, D) float32 features on a disk, opened as a read-only memory map."""

    path: Path
    source: FeatureSource

    def array(self) -> NDArray[np.float32]:
        """The memory map; workers share its pages."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False)


def extract_features(
    corpus: Corpus,
    cache: Path,
    network: str,
    weights: str = "auto",
    *,
    data_root: Path,
    image_size: int = 224,
    batch_size: int = 32,
    device: str = "cpu",
    progress: Progress | None = None,
) -> FeatureStore:
    """The store for (data fingerprint, network, weights, image size); made where it is not there yet.

    Extraction writes into a partial file and notes every finished batch, so that a killed run goes on where
    it was.

    Args:
        corpus: with pixels.
        cache: folder of the stores.
        network, weights: see load_network.
        data_root: where weights are looked for.
        image_size: shorter side in pixels after resizing.
        batch_size: images at a time.
        device: where the network runs.
        progress: told how far it is.

    Raises:
        BadInput: no pixels, unusable weights, an unreadable image, or features that are not finite.
    """
    if corpus.images is None:
        raise BadInput(
            f"{corpus.name} has no images to extract features from; it comes with features of its own"
        )
    module, source = load_network(network, weights, data_root)
    source = FeatureSource(**{**asdict(source), "image_size": image_size})
    name = re.sub(r"[^\w.-]", "_", f"{corpus.fingerprint}-{network}-{source.weights_sha256}-{image_size}")
    store = FeatureStore(cache / "features" / f"{name}.npy", source)
    if not store.path.is_file():
        try:
            with _alone(store.path):
                if not store.path.is_file():
                    _extract(
                        module.to(device), corpus.images, store, image_size, batch_size, device, progress
                    )
        except OSError as error:
            raise BadInput(
                f"{store.path.parent} cannot be written ({error.strerror}); "
                "free space or choose another RUNS folder"
            ) from error
    return store


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait while another process makes the same store; the kernel frees the lock however that one ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@torch.inference_mode()
def _extract(
    module: nn.Module,
    images: ImageSource,
    store: FeatureStore,
    image_size: int,
    batch_size: int,
    device: str,
    progress: Progress | None,
) -> None:
    partial, note = store.path.with_suffix(".partial"), store.path.with_suffix(".json")
    shape = (len(images), store.source.dim)
    # The note is written after its rows are flushed: what it counts is on the disk.
    done = int(json.loads(note.read_text())["done"]) if note.is_file() and partial.is_file() else 0
    features = np.lib.format.open_memmap(partial, mode="r+" if done else "w+", dtype=np.float32, shape=shape)
    loader = torch.utils.data.DataLoader(
        _Pixels(images, image_size, done),
        batch_size=batch_size,
        num_workers=2 if len(images) - done > 512 else 0,
        # A generator of its own: with the global one, a run that extracts would train with other random
        # numbers than one that finds its features in the cache.
        generator=torch.Generator(),
    )
    for pixels in loader:
        rows = module(pixels.to(device)).float().cpu()
        if not torch.isfinite(rows).all():
            raise BadInput(
                f"{store.source.network} gives non-finite features from row {done}; check its weights"
            )
        features[done : done + len(rows)] = rows.numpy()
        done += len(rows)
        features.flush()
        _write_atomic(note, json.dumps({"done": done, **asdict(store.source)}))
        if progress is not None:
            progress(done, len(images))
    del features
    os.replace(partial, store.path)


class _Pixels(torch.utils.data.Dataset[Tensor]):
    def __init__(self, images: ImageSource, size: int, start: int) -> None:
        self.images, self.size, self.start = images, size, start

    def __len__(self) -> int:
        return len(self.images) - self.start

    def __getitem__(self, i: int) -> Tensor:
        return normalised_pixels(self.images[self.start + i], self.size)


def _write_atomic(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
