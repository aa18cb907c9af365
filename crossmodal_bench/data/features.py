"""Image features of a frozen network: extracted once, resumable, memory-mapped, named by what made them."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossmodal_bench.backbones import BackboneSource, load_backbone
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.images import ImageSource
from crossmodal_bench.data.pixels import ImageFit, normalised_pixels
from crossmodal_bench.errors import BadInput

Progress = Callable[[int, int], None]
"""Told (images done, images in all) after each batch."""


@dataclass(frozen=True)
class FeatureSource(BackboneSource):
    """What made a feature store; part of every record."""

    image_size: int
    image_fit: ImageFit


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
    image_fit: ImageFit = "crop",
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
        network, weights: see crossmodal_bench.backbones.load_backbone.
        data_root: where weights are looked for.
        image_size, image_fit: see crossmodal_bench.data.pixels.normalised_pixels.
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
    module, backbone = load_backbone(network, weights, data_root)
    source = FeatureSource(**asdict(backbone), image_size=image_size, image_fit=image_fit)
    fit = "" if image_fit == "crop" else f"-{image_fit}"
    name = f"{corpus.fingerprint}-{network}-{source.weights_sha256}-{image_size}{fit}"
    name = re.sub(r"[^\w.-]", "_", name)
    store = FeatureStore(cache / "features" / f"{name}.npy", source)
    if not store.path.is_file():
        try:
            with _alone(store.path):
                if not store.path.is_file():
                    _extract(module.to(device), corpus.images, store, batch_size, device, progress)
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
        _Pixels(images, store.source, done),
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
    def __init__(self, images: ImageSource, source: FeatureSource, start: int) -> None:
        self.images, self.source, self.start = images, source, start

    def __len__(self) -> int:
        return len(self.images) - self.start

    def __getitem__(self, i: int) -> Tensor:
        return normalised_pixels(self.images[self.start + i], self.source.image_size, self.source.image_fit)


def _write_atomic(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
