"""Image features and regions of a frozen network: extracted once, resumable, named after what made them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
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
from crossmodal_bench.networks.backbones import BackboneSource, load_backbone, load_with_grid
from crossmodal_bench.networks.dual_encoders import HF, ImageTower
from crossmodal_bench.networks.folding import fold_batch_norms

Extracted = Literal["grid", "detector"]
GRID = 6
"""Regions of the kind ``grid``: the last feature map averaged over 6 x 6 cells."""
BOXES = 36
"""Regions of the kind ``detector``: this many of its best boxes, as in bottom-up attention."""
ARITHMETIC = "folded"
"""Part of every store's name; change it whenever computed values change in their rounding."""
Progress = Callable[[int, int], None]
"""Called with (images done, total images) after each batch."""


@dataclass(frozen=True)
class FeatureSource(BackboneSource):
    """What made a feature store; part of every record.

    ``image_size`` and ``image_fit`` are None if images were used at their own size, or as preprocessed by the
    network's own processor. ``regions``: which kind, None for one vector per image; ``count``: vectors per
    image.
    """

    image_size: int | None
    image_fit: ImageFit | None
    regions: Extracted | None = None
    count: int = 1


@dataclass(frozen=True)
class FeatureStore:
    """(N, D) float32 features, or (N, R, D) regions, on disk, opened as a read-only memory map.

    For a detector's regions, ``.boxes.npy`` has the boxes: (N, R, 4) as x1, y1, x2, y2 in 0..1.
    """

    path: Path
    source: FeatureSource

    def array(self) -> NDArray[np.float32]:
        """The memory map; workers share its pages.

        Raises:
            BadInput: the file's type or shape differs from what ``source`` says.
        """
        array = map_npy(self.path)
        per_image = self.shapes(0)[".npy"][1:]
        if array.dtype != np.float32 or not array.ndim or array.shape[1:] != per_image:
            raise BadInput(
                f"{self.path} does not hold features of {self.source.network}; delete it to extract anew"
            )
        return array

    def regions(self) -> RegionFiles:
        """The regions of the images, in the corpus's order."""
        return RegionFiles.whole(self.path)

    def shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """Suffixes and shapes of the files for ``n`` images, in the order of the network's outputs."""
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
    with_grid: bool = False,
    image_size: int = 224,
    image_fit: ImageFit = "crop",
    batch_size: int = 32,
    device: str = "cpu",
    progress: Progress | None = None,
) -> FeatureStore:
    """The store for (data fingerprint, network, weights, image size), extracted if it does not exist yet.

    Extraction writes to a partial file and notes every finished batch, so that a killed run resumes where it
    stopped. A pass that extracts a grid also yields the one vector per image, at no extra cost.

    Args:
        corpus: with pixels.
        cache: folder of the stores.
        network, weights: see networks.backbones.load_backbone; for a detector, the network is fixed.
        data_root: where weights are looked up.
        regions: which kind to extract; None for one vector per image.
        with_grid: whether a pass for one vector per image should extract a grid of regions too, because it
            will be needed; ignored for networks without one.
        image_size, image_fit: see crossmodal_bench.data.pixels.normalised_pixels; a detector takes images as
            they are.
        batch_size: images at a time; a detector takes one, because its regions must not depend on other
            images in the batch.
        device: where the network runs.
        progress: receives progress updates.

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
        sources = [replace(source, regions=regions, count=BOXES)]
        batch_size = 1
    elif network is None:
        raise BadInput(
            f"{corpus.name}: no network is named to extract with; set NETWORK or data.images.network"
        )
    else:
        module, backbones = _loaded(
            network, weights, data_root, needs_grid=regions == "grid", with_grid=with_grid
        )
        sources = [
            FeatureSource(**asdict(backbone), image_size=None, image_fit=None)
            if isinstance(module, ImageTower)
            else FeatureSource(**asdict(backbone), image_size=image_size, image_fit=image_fit)
            for backbone in backbones
        ]
        sources[1:] = [replace(source, regions="grid", count=GRID**2) for source in sources[1:]]
    stores = [
        FeatureStore(cache / "features" / f"{store_name(corpus.fingerprint, source)}.npy", source)
        for source in sources
    ]
    store = next(store for store in stores if store.source.regions == regions)
    if not store.path.is_file():
        try:
            with ExitStack() as locks:
                # Always in this order, to avoid a deadlock between processes.
                for each in stores:
                    locks.enter_context(locked_store(each.path))
                if not store.path.is_file():
                    if regions != "detector" and not isinstance(module, ImageTower):
                        fold_batch_norms(module)
                    _extract(module, corpus.images, stores, batch_size, device, progress)
        except OSError as error:
            raise BadInput(
                f"{store.path.parent} cannot be written ({error.strerror}); "
                "free space or choose another RUNS folder"
            ) from error
    return store


def _loaded(
    network: str, weights: str, data_root: Path, *, needs_grid: bool, with_grid: bool
) -> tuple[nn.Module, list[BackboneSource]]:
    """The network and the sources of its outputs: of its vectors, and of its grid if it has one."""
    if needs_grid or with_grid:
        try:
            module, pooled, cells = load_with_grid(network, weights, data_root, GRID)
            return module, [pooled, cells]
        except BadInput:
            # Whoever requires the grid gets the error; here it is optional.
            if needs_grid:
                raise
    module, pooled = load_backbone(network, weights, data_root)
    return module, [pooled]


def note_of(store: FeatureStore) -> Path:
    """The path of the note about a store's progress and origin."""
    return store.path.with_suffix(".json")


def store_name(fingerprint: str, source: FeatureSource) -> str:
    """A file name that differs if anything does on which the features depend."""
    # For a local folder, only its own name: the checksum distinguishes it from others.
    network = HF + Path(source.network).name if source.network.startswith(HF) else source.network
    parts = [fingerprint, network, source.weights_sha256, ARITHMETIC]
    if source.image_size is not None:
        parts.append(str(source.image_size))
    if source.image_fit not in (None, "crop"):
        parts.append(str(source.image_fit))
    if source.regions is not None:
        parts.append(f"{source.regions}{source.count}")
    return re.sub(r"[^\w.-]", "_", "-".join(parts))


@contextmanager
def locked_store(path: Path) -> Iterator[None]:
    """Wait while another process makes the same store; the kernel frees the lock however that one ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_suffix(".lock")
    with lock.open("a") as handle:
        wait_for_lock(handle, lock)
        yield


class PartialStore:
    """A store in the making: files of rows, and a note of how many of them are on disk.

    Args:
        store: what it will become.
        n: number of images, or captions.
        facts: further content of the note, which stays with the finished store.
    """

    def __init__(self, store: FeatureStore, n: int, facts: Mapping[str, Any] | None = None) -> None:
        self.store = store
        self.facts = dict(facts or {})
        self.shapes = store.shapes(n)
        self.paths = [store.path.with_suffix(suffix.replace("npy", "partial")) for suffix in self.shapes]
        self.note = note_of(store)
        self.arrays: list[Any] = []

    def noted(self) -> int:
        """How many images an earlier run has noted; 0 if what it left is incomplete."""
        shapes = list(self.shapes.values())
        try:
            noted = read_json(self.note)
            fits = all(map_npy(path).shape == shape for path, shape in zip(self.paths, shapes, strict=True))
        except BadInput:
            return 0
        done = noted.get("done") if isinstance(noted, dict) else None
        return done if fits and isinstance(done, int) and 0 <= done <= shapes[0][0] else 0

    def open(self, done: int) -> None:
        """Map the files, keeping their content if ``done`` rows exist."""
        self.arrays = [
            np.lib.format.open_memmap(path, mode="r+" if done else "w+", dtype=np.float32, shape=shape)
            for path, shape in zip(self.paths, self.shapes.values(), strict=True)
        ]

    def write(self, blocks: Sequence[Tensor], done: int) -> None:
        """Write the outputs of a batch after ``done`` rows, and note them once they are on disk."""
        if not all(torch.isfinite(block).all() for block in blocks):
            raise BadInput(
                f"{self.store.source.network} outputs non-finite features from row {done}; check its weights"
            )
        for array, block in zip(self.arrays, blocks, strict=True):
            array[done : done + len(block)] = block.numpy()
            array.flush()
        _write_note(self.note, {"done": done + len(blocks[0]), **asdict(self.store.source), **self.facts})

    def finish(self) -> None:
        """Rename the files, the store's own last: if it exists, so do the others."""
        self.arrays = []
        for path, suffix in reversed(list(zip(self.paths, self.shapes, strict=True))):
            os.replace(path, self.store.path.with_suffix(suffix))


@torch.inference_mode()
def _extract(
    module: nn.Module,
    images: ImageSource,
    stores: Sequence[FeatureStore],
    batch_size: int,
    device: str,
    progress: Progress | None,
) -> None:
    """Make those of ``stores`` that don't exist yet, from the outputs of ``module`` in the same order."""
    # The memory layout that convolutions prefer: MobileNet-V2 takes two thirds of the time on a CPU.
    module = module.to(device).to(memory_format=torch.channels_last)
    partial = {
        position: PartialStore(store, len(images))
        for position, store in enumerate(stores)
        if not store.path.is_file()
    }
    done = min(each.noted() for each in partial.values())
    for each in partial.values():
        each.open(done)
    own_pixels = module.preprocess if isinstance(module, ImageTower) else None
    loader = torch.utils.data.DataLoader(
        _Pixels(images, stores[0].source, done, own_pixels),
        batch_size=batch_size,
        num_workers=2 if len(images) - done > 512 else 0,
        # Its own generator: with the global one, a run that extracts would train on other random numbers
        # than one that finds its features in the cache.
        generator=torch.Generator(),
        worker_init_fn=outlive_signals,
    )
    for pixels in loader:
        output = module(pixels.to(device=device, memory_format=torch.channels_last))
        blocks = [tensor.float().cpu() for tensor in (output if isinstance(output, tuple) else (output,))]
        for position, each in partial.items():
            # A detector outputs boxes along with its vectors, for a single store.
            each.write(blocks if len(stores) == 1 else [blocks[position]], done)
        done += len(pixels)
        if progress is not None:
            progress(done, len(images))
    for each in partial.values():
        each.finish()


class _Pixels(torch.utils.data.Dataset[Tensor]):
    """The images from ``start`` on, preprocessed for the network that ``source`` names.

    ``preprocess`` is the network's own preprocessing; None: ours.
    """

    def __init__(
        self,
        images: ImageSource,
        source: FeatureSource,
        start: int,
        preprocess: Callable[[Image.Image], Tensor] | None,
    ) -> None:
        self.images = images
        self.source = source
        self.start = start
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.images) - self.start

    def __getitem__(self, i: int) -> Tensor:
        image = self.images[self.start + i]
        if self.preprocess is not None:
            return self.preprocess(image)
        size = self.source.image_size
        fit = self.source.image_fit
        return plain_pixels(image) if size is None or fit is None else normalised_pixels(image, size, fit)


def _write_note(note: Path, content: dict[str, Any]) -> None:
    replace_file(note, lambda stream: stream.write(json.dumps(content).encode()), durable=False)
