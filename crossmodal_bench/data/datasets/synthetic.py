"""Scenes of coloured, sized, placed shapes and sentences about them: seeded, learnable, not trivial."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.corpus import Corpus, Labels
from crossmodal_bench.data.datasets.base import DatasetReader

Drawing = TypeVar("Drawing", NDArray[np.uint8], NDArray[np.float32])
GENERATOR = 1
"""Increase this when the drawing or the wording changes: it is part of the fingerprint."""
SIDE = 64
COLOURS = {
    "red": (214, 39, 40),
    "blue": (31, 119, 180),
    "green": (44, 160, 44),
    "yellow": (240, 200, 30),
    "purple": (148, 80, 189),
    "white": (245, 245, 245),
}
SHAPES = {
    "circle": ("circle", "disc", "round shape"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus sign"),
}
SIZES = {"small": 8, "large": 13}
"""Half of a shape's height, in pixels."""
POSITIONS = {
    (0, 0): "top left",
    (0, 1): "top right",
    (1, 0): "bottom left",
    (1, 1): "bottom right",
}
SCENES = {
    "sea": (60, 110, 160),
    "meadow": (90, 140, 70),
    "desert": (200, 170, 110),
    "night": (30, 30, 50),
    "snow": (205, 215, 225),
    "brick": (150, 80, 60),
    "fog": (140, 140, 145),
    "dusk": (130, 85, 120),
}
SIZE_NAMES = {"tiny": (160, 48, 48, 3), "small": (1000, 200, 400, 5)}
"""Images for training, validation and test, and captions per image."""
REGIONS = 6
"""Regions per scene."""
REGION_SIDE = 6
"""Pixels per side to which a region is scaled."""
KEPT = 20_000
"""Number of drawn scenes to keep, in 300 MB; the others are redrawn at each access."""
CATEGORIES = tuple(SCENES)
KINDS = tuple(SHAPES)
COLOUR_NAMES = tuple(COLOURS)
SHAPE_SIZES = tuple(SIZES)
OPENINGS = ("there is", "a picture of", "we see", "someone drew", "")
BEFORE_SCENE = ("over", "in front of", "on a background of")
_ROWS_AND_COLUMNS = np.mgrid[0:SIDE, 0:SIDE]
GRID = 4
"""Cells per side for ``grid_descriptor``."""


@dataclass(frozen=True)
class Shape:
    """One object of a scene; ``place`` is the row and the column of its quadrant."""

    kind: str
    colour: str
    size: str
    place: tuple[int, int]


@dataclass(frozen=True)
class Scene:
    """A category (the label), its objects, and a seed for light and noise."""

    category: str
    shapes: tuple[Shape, ...]
    seed: int


class Synthetic(DatasetReader):
    """A data set that needs no files.

    Every fourth scene is a near-duplicate of another one in its split, with one object changed: a hard
    negative. Captions vary in wording and completeness; some leave out colour, size or whole objects, as
    people do.

    Args:
        size: ``tiny`` (160/48/48 images, 3 captions each), ``small`` (1,000/200/400, 5 captions), or the
            number of training images (a fifth as many for validation, and for test).
        seed: which data set.
    """

    describes_pictures = True

    def __init__(self, size: str | int = "small", seed: int = 0) -> None:
        self.size = size
        self.seed = seed

    def read(self, root: Path) -> Corpus:
        """The corpus; ``root`` is ignored."""
        n_train, n_val, n_test, per_image = _sizes(self.size)
        scenes: list[Scene] = []
        split: list[str] = []
        counts = {"train": n_train, "val": n_val, "test": n_test}
        for part, (name, count) in enumerate(counts.items()):
            scenes += _scenes(count, np.random.default_rng([self.seed, part]))
            split += [name] * count
        rng = np.random.default_rng([self.seed, 3])
        captions = [_sentence(scene, rng) for scene in scenes for _ in range(per_image)]
        n = len(scenes)
        ids = tuple(f"scene{i:06d}" for i in range(n))
        source = Renderings(tuple(scenes))
        return Corpus(
            name="synthetic",
            image_ids=ids,
            caption_ids=tuple(f"{name}#{k}" for name in ids for k in range(per_image)),
            caption_image=np.repeat(np.arange(n), per_image),
            split=np.array(split),
            captions=tuple(captions),
            labels=Labels(
                np.array([list(SCENES).index(scene.category) for scene in scenes], dtype=np.int64),
                names=tuple(SCENES),
                rule=f"{len(SCENES)} scene categories of the generator",
            ),
            images=source,
            regions=RenderedRegions(source),
            image_features=np.stack([grid_descriptor(source.array(i)) for i in range(n)]),
            source=f"synthetic (size {self.size}, seed {self.seed})",
        )

    def features_of(self, picture: Image.Image) -> NDArray[np.float32]:
        """The ``grid_descriptor`` of the picture, resized to the scenes' size."""
        return grid_descriptor(np.asarray(ImageOps.fit(picture, (SIDE, SIDE), Image.Resampling.BILINEAR)))


class Renderings:
    """An image source that draws scenes with NumPy, so that every machine gets the same pixels.

    A scene is drawn on first access, and the first ``KEPT`` of them are kept.
    """

    def __init__(self, scenes: tuple[Scene, ...]) -> None:
        self.scenes = scenes
        self._arrays: dict[int, NDArray[np.uint8]] = {}
        self._regions: dict[int, NDArray[np.float32]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Other processes draw what they need; otherwise, loader processes would receive all drawings.
        return Renderings, (self.scenes,)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, row: int) -> Image.Image:
        return Image.fromarray(self.array(row))

    def array(self, row: int) -> NDArray[np.uint8]:
        """(64, 64, 3) pixels of scene ``row``, read-only."""
        return _kept(self._arrays, row, self._drawn)

    def _drawn(self, row: int) -> NDArray[np.uint8]:
        scene = self.scenes[row]
        rng = np.random.default_rng(scene.seed)
        pixels = np.array(SCENES[scene.category]) * rng.uniform(0.75, 1.25) + rng.normal(
            0, 12, (SIDE, SIDE, 1)
        )
        y, x = _ROWS_AND_COLUMNS
        for shape, (cy, cx) in zip(scene.shapes, _centres(scene), strict=True):
            mask = _mask(shape.kind, y - cy, x - cx, SIZES[shape.size])
            pixels[mask] = np.array(COLOURS[shape.colour]) * rng.uniform(0.8, 1.1)
        pixels += rng.normal(0, 6, pixels.shape)
        return pixels.clip(0, 255).astype(np.uint8)

    def regions(self, row: int) -> NDArray[np.float32]:
        """(6, 112) crops of the objects, then of the empty corners: 6x6x3 pixels and the box in 0..1."""
        return _kept(self._regions, row, self._cropped)

    def _cropped(self, row: int) -> NDArray[np.float32]:
        scene = self.scenes[row]
        boxes = []
        for shape, (cy, cx) in zip(scene.shapes, _centres(scene), strict=True):
            half = SIZES[shape.size] + 2
            boxes.append((cy - half, cx - half, 2 * half))
        taken = {shape.place for shape in scene.shapes}
        boxes += [(4 + 32 * r, 4 + 32 * c, 24) for r, c in POSITIONS if (r, c) not in taken]
        boxes += [(0, 0, SIDE), (SIDE // 4, SIDE // 4, SIDE // 2)]
        pixels = self.array(row).astype(np.float32) / np.float32(255)
        return np.stack([_region(pixels, top, left, side) for top, left, side in boxes[:REGIONS]])

    def subset(self, rows: NDArray[np.int64]) -> Renderings:
        """The scenes ``rows``, in that order."""
        return Renderings(tuple(self.scenes[int(row)] for row in rows))

    def fingerprint(self) -> str:
        """The scenes and the generator's version."""
        # Hashes the scenes' repr: renaming one of their fields would change it.
        return hashlib.sha256(f"{GENERATOR}{self.scenes}".encode()).hexdigest()


def _kept(kept: dict[int, Drawing], row: int, draw: Callable[[int], Drawing]) -> Drawing:
    """The drawing of a row, drawn now if it isn't kept yet."""
    drawing = kept.get(row)
    if drawing is None:
        drawing = draw(row)
        # All callers share it.
        drawing.flags.writeable = False
        if row < KEPT:
            kept[row] = drawing
    return drawing


class RenderedRegions:
    """The regions of rendered scenes, cropped on access."""

    count = REGIONS
    dim = 3 * REGION_SIDE**2 + 4
    origin = ""

    def __init__(self, renderings: Renderings) -> None:
        self.renderings = renderings

    def __len__(self) -> int:
        return len(self.renderings)

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        return self.renderings.regions(row)

    def batch(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, R, D) of the scenes ``rows``."""
        return np.stack([self.renderings.regions(int(row)) for row in rows])

    def subset(self, rows: NDArray[np.int64]) -> RenderedRegions:
        """The regions of the scenes ``rows``, in that order."""
        return RenderedRegions(self.renderings.subset(rows))

    def fingerprint(self) -> str:
        """Nothing beyond that of the scenes."""
        return ""


def grid_descriptor(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(192,) mean, deviation and soft histogram over six colours in a 4x4 grid: features without a network.

    Computed in double precision and rounded, so that all processors, whatever their vector instructions,
    agree on every bit.
    """
    half = SIDE // 2 // GRID
    cells = pixels[::2, ::2].astype(np.float64).reshape(GRID, half, GRID, half, 3) / 255
    cells = cells.transpose(0, 2, 1, 3, 4).reshape(GRID * GRID, -1, 3)
    palette = np.array(list(COLOURS.values())) / 255
    # Channel by channel: over an axis of length three, NumPy runs a separate loop for each sum.
    distance = sum((cells[:, :, None, channel] - palette[:, channel]) ** 2 for channel in range(3))
    histogram = np.exp(-distance / 0.02).mean(1)
    cell_features = np.concatenate([cells.mean(1), cells.std(1), histogram], axis=1)
    return cell_features.reshape(-1).round(5).astype(np.float32)


def _sizes(size: str | int) -> tuple[int, int, int, int]:
    """Images for training, validation and test, and captions per image."""
    if isinstance(size, str) and size in SIZE_NAMES:
        return SIZE_NAMES[size]
    if not str(size).isdigit() or int(size) < 20:
        raise BadInput(
            f"synthetic size '{size}' is unknown; use tiny, small or a number of training images from 20 up"
        )
    return int(size), max(int(size) // 5, 4), max(int(size) // 5, 4), 5


def _scenes(n: int, rng: np.random.Generator) -> list[Scene]:
    scenes: list[Scene] = []
    for i in range(n):
        seed = int(rng.integers(2**31))
        if i % 4 == 3:
            scenes.append(_near_duplicate(scenes[int(rng.integers(len(scenes)))], seed, rng))
            continue
        category = _chosen(CATEGORIES, rng)
        order = rng.permutation(len(POSITIONS))[: rng.integers(2, 5)]
        shapes = tuple(_shape(list(POSITIONS)[number], rng) for number in order)
        scenes.append(Scene(category, shapes, seed))
    return scenes


def _shape(place: tuple[int, int], rng: np.random.Generator) -> Shape:
    return Shape(_chosen(KINDS, rng), _chosen(COLOUR_NAMES, rng), _chosen(SHAPE_SIZES, rng), place)


def _chosen(words: Sequence[str], rng: np.random.Generator) -> str:
    """The word that ``rng.choice`` would draw, without the array of all words that makes that slow."""
    return words[int(rng.integers(len(words)))]


def _near_duplicate(scene: Scene, seed: int, rng: np.random.Generator) -> Scene:
    shapes = list(scene.shapes)
    changed = int(rng.integers(len(shapes)))
    while (new := _shape(shapes[changed].place, rng)) == shapes[changed]:
        continue
    shapes[changed] = new
    return Scene(scene.category, tuple(shapes), seed)


def _sentence(scene: Scene, rng: np.random.Generator) -> str:
    shown = [scene.shapes[i] for i in rng.permutation(len(scene.shapes))]
    if len(shown) > 1 and rng.random() < 0.4:
        shown = shown[:-1]
    parts = []
    for shape in shown:
        words = [_chosen(SHAPES[shape.kind], rng)]
        if rng.random() < 0.85:
            words.insert(0, shape.colour)
        if rng.random() < 0.5:
            words.insert(0, shape.size)
        phrase = f"a {' '.join(words)}"
        if rng.random() < 0.6:
            phrase += f" at the {POSITIONS[shape.place]}"
        parts.append(phrase)
    objects = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    opening = _chosen(OPENINGS, rng)
    background = ""
    if rng.random() < 0.5:
        background = f" {_chosen(BEFORE_SCENE, rng)} {scene.category}"
    sentence = f"{opening} {objects}{background}".strip()
    return f"{sentence[0].upper()}{sentence[1:]}."


def _centres(scene: Scene) -> list[tuple[int, int]]:
    """Row and column of each shape's centre, in pixels."""
    jitter = np.random.default_rng([scene.seed, 1]).integers(-3, 4, size=(len(scene.shapes), 2))
    return [
        (16 + 32 * shape.place[0] + int(dy), 16 + 32 * shape.place[1] + int(dx))
        for shape, (dy, dx) in zip(scene.shapes, jitter, strict=True)
    ]


def _mask(kind: str, dy: NDArray[np.int64], dx: NDArray[np.int64], half: int) -> NDArray[np.bool_]:
    """The pixels that a shape covers, given their offsets from its centre; ``half`` as in SIZES."""
    if kind == "circle":
        return dy**2 + dx**2 <= half**2
    if kind == "square":
        return (np.abs(dy) <= half * 0.85) & (np.abs(dx) <= half * 0.85)
    if kind == "triangle":
        return (np.abs(dy) <= half) & (np.abs(dx) <= (dy + half) / 2)
    if kind == "diamond":
        return np.abs(dy) + np.abs(dx) <= half
    arm = half / 3
    return (np.maximum(np.abs(dy), np.abs(dx)) <= half) & (np.minimum(np.abs(dy), np.abs(dx)) <= arm)


def _region(pixels: NDArray[np.float32], top: int, left: int, side: int) -> NDArray[np.float32]:
    """(112,) pixels of a square, scaled to 6 x 6 by nearest neighbour, and its box in 0..1."""
    rows = np.linspace(top, top + side - 1, REGION_SIDE).round().astype(int).clip(0, SIDE - 1)
    columns = np.linspace(left, left + side - 1, REGION_SIDE).round().astype(int).clip(0, SIDE - 1)
    crop = pixels[rows][:, columns].reshape(-1)
    box = np.array([top, left, top + side, left + side], np.float32) / SIDE
    return np.concatenate([crop, box]).astype(np.float32)
