"""Image features and regions of a frozen network: extracted once, resumable, named by what made them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.file_locks import wait_for_lock
from crossmodal_bench.core.files import read_json
from crossmodal_bench.core.npy import map_npy
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.detector import load_detector
from crossmodal_bench.data.images import ImageSource
from crossmodal_bench.data.loader import outlive_signals
from crossmodal_bench.data.pixels import ImageFit, normalised_pixels, plain_pixels
from crossmodal_bench.data.regions import RegionFiles
from crossmodal_bench.networks.backbones import BackboneSource, load_backbone

Extracted = Literal["grid", "detector"]
GRID = 6
"""Regions of the kind ``grid``: the last feature map averaged in 6 x 6 cells."""
BOXES = 36
"""Regions of the kind ``detector``: so many of its best boxes, as in bottom-up attention."""
Progress = Callable[[int, int], None]
"""Told (images done, images in all) after each batch."""


@dataclass(frozen=True)
class FeatureSource(BackboneSource):
    """What made a feature store; part of every record.

    ``image_size`` and ``image_fit`` are None where images were taken at their own size. ``regions``: which
    kind, None for one vector per image; ``count``: vectors per image.
    """

    image_size: int | None
    image_fit: ImageFit | None
    regions: Extracted | None = None
    count: int = 1


@dataclass(frozen=True)
class FeatureStore:
    """(N, D) float32 features, or (N, R, D) of regions, on a disk, opened as a read-only memory map.

    Beside regions of a detector, ``.boxes.npy`` has their boxes: (N, R, 4) as x1, y1, x2, y2 in 0..1.
    """

    path: Path
    source: FeatureSource

    def array(self) -> NDArray[np.float32]:
        """The memory map; workers share its pages.

        Raises:
            BadInput: the file holds another type or shape than ``source`` says.
        """
        array = map_npy(self.path)
        per_image = self.shapes(0)[".npy"][1:]
        if array.dtype != np.float32 or not array.ndim or array.shape[1:] != per_image:
            raise BadInput(
                f"{self.path} holds no features of {self.source.network}; delete it, to extract anew"
            )
        return array

    def regions(self) -> RegionFiles:
        """The regions of the images, in the corpus's order."""
        return RegionFiles.whole(self.path)

    def shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """Suffixes and shapes of the files for ``n`` images, in the order in which the network gives them."""
        per_image = () if self.source.regions is None else (self.source.count,)
        shapes: dict[str, tuple[int, ...]] = {".npy": (n, *per_image, self.source.dim)}
        if self.source.regions == "detector":
            shapes[".boxes.npy"] = (n, *per_image, 4)
        return shapes


def extract_features(
    corpus: Corpus,
    cache: Path,
    network: str | None,
    weights: str = "auto",
    *,
    data_root: Path,
    regions: Extracted | None = None,
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
        network, weights: see networks.backbones.load_backbone; a detector's network is given.
        data_root: where weights are looked for.
        regions: which kind to extract; None for one vector per image.
        image_size, image_fit: see crossmodal_bench.data.pixels.normalised_pixels; a detector takes images as
            they are.
        batch_size: images at a time; a detector takes one, whose regions must not depend on its neighbours.
        device: where the network runs.
        progress: told how far it is.

    Raises:
        BadInput: no pixels, no network, unusable weights, an unreadable image, or features that are not
            finite.
    """
    if corpus.images is None:
        raise BadInput(
            f"{corpus.name} has no images to extract features from; it comes with features of its own"
        )
    if regions == "detector":
        module, backbone = load_detector(weights, data_root, BOXES)
        source = FeatureSource(**asdict(backbone), image_size=None, image_fit=None)
        source = replace(source, regions=regions, count=BOXES)
        batch_size = 1
    elif network is None:
        raise BadInput(
            f"{corpus.name}: no network is named to extract with; give NETWORK or data.images.network"
        )
    else:
        module, backbone = load_backbone(network, weights, data_root, GRID if regions == "grid" else None)
        source = FeatureSource(**asdict(backbone), image_size=image_size, image_fit=image_fit)
        if regions == "grid":
            source = replace(source, regions=regions, count=GRID**2)
    store = FeatureStore(cache / "features" / f"{_name(corpus.fingerprint, source)}.npy", source)
    if not store.path.is_file():
        try:
            with _locked(store.path):
                if not store.path.is_file():
                    _extract(module.to(device), corpus.images, store, batch_size, device, progress)
        except OSError as error:
            raise BadInput(
                f"{store.path.parent} cannot be written ({error.strerror}); "
                "free space or choose another RUNS folder"
            ) from error
    return store


def _name(fingerprint: str, source: FeatureSource) -> str:
    """A file name that differs where anything does that the features depend on."""
    parts = [fingerprint, source.network, source.weights_sha256]
    if source.image_size is not None:
        parts.append(str(source.image_size))
    if source.image_fit not in (None, "crop"):
        parts.append(str(source.image_fit))
    if source.regions is not None:
        parts.append(f"{source.regions}{source.count}")
    return re.sub(r"[^\w.-]", "_", "-".join(parts))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait while another process makes the same store; the kernel frees the lock however that one ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_suffix(".lock")
    with lock.open("a") as handle:
        wait_for_lock(handle, lock)
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
    shapes = store.shapes(len(images))
    note = store.path.with_suffix(".json")
    partial = [store.path.with_suffix(suffix.replace("npy", "partial")) for suffix in shapes]
    # The note is written after its rows are flushed: what it counts is on the disk.
    done = _already_done(note, partial, list(shapes.values()))
    arrays: list[Any] = [
        np.lib.format.open_memmap(path, mode="r+" if done else "w+", dtype=np.float32, shape=shape)
        for path, shape in zip(partial, shapes.values(), strict=True)
    ]
    loader = torch.utils.data.DataLoader(
        _Pixels(images, store.source, done),
        batch_size=batch_size,
        num_workers=2 if len(images) - done > 512 else 0,
        # A generator of its own: with the global one, a run that extracts would train with other random
        # numbers than one that finds its features in the cache.
        generator=torch.Generator(),
        worker_init_fn=outlive_signals,
    )
    for pixels in loader:
        output = module(pixels.to(device))
        # A detector gives boxes beside its vectors.
        outputs = output if isinstance(output, tuple) else (output,)
        blocks = [tensor.float().cpu() for tensor in outputs]
        if not all(torch.isfinite(block).all() for block in blocks):
            raise BadInput(
                f"{store.source.network} gives non-finite features from row {done}; check its weights"
            )
        for array, block in zip(arrays, blocks, strict=True):
            array[done : done + len(block)] = block.numpy()
            array.flush()
        done += len(pixels)
        _write_note(note, {"done": done, **asdict(store.source)})
        if progress is not None:
            progress(done, len(images))
    del arrays
    # The store's own file last: where it is, the others are.
    for path, suffix in reversed(list(zip(partial, shapes, strict=True))):
        os.replace(path, store.path.with_suffix(suffix))


def _already_done(note: Path, partial: list[Path], shapes: list[tuple[int, ...]]) -> int:
    """How many images an earlier run has noted; 0 where what it left is not whole."""
    try:
        noted = read_json(note)
        fits = all(map_npy(path).shape == shape for path, shape in zip(partial, shapes, strict=True))
    except BadInput:
        return 0
    done = noted.get("done") if isinstance(noted, dict) else None
    return done if fits and isinstance(done, int) and 0 <= done <= shapes[0][0] else 0


class _Pixels(torch.utils.data.Dataset[Tensor]):
    """The images from ``start`` on, as the network that ``source`` names reads them."""

    def __init__(self, images: ImageSource, source: FeatureSource, start: int) -> None:
        self.images = images
        self.source = source
        self.start = start

    def __len__(self) -> int:
        return len(self.images) - self.start

    def __getitem__(self, i: int) -> Tensor:
        image = self.images[self.start + i]
        size = self.source.image_size
        fit = self.source.image_fit
        return plain_pixels(image) if size is None or fit is None else normalised_pixels(image, size, fit)


def _write_note(note: Path, content: dict[str, Any]) -> None:
    replace_file(note, lambda stream: stream.write(json.dumps(content).encode()), durable=False)
