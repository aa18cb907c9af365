"""The cost of batches: regions from files, drawn scenes, caption words, pixels together with pictures.

    python benchmarks/batches.py

The plain way reads and checks one row of a memory map at a time, draws a scene whenever it is requested,
tokenises all captions in every process, and decodes a JPEG once per view of it. All results are asserted to
be equal to the last bit.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from measurement import Measurement, alternate, print_table
from PIL import Image

from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datasets.synthetic import Renderings, Synthetic
from crossmodal_bench.data.images import ImageFiles
from crossmodal_bench.data.language import token_cache
from crossmodal_bench.data.language.token_cache import cached_tokens
from crossmodal_bench.data.language.tokens import NamedTokens, TokenRows
from crossmodal_bench.data.language.words import SPLITTERS, splitter_version
from crossmodal_bench.data.pixels import normalised_pixels, small_picture
from crossmodal_bench.data.regions import RegionFiles
from crossmodal_bench.data.text import Vocabulary
from crossmodal_bench.data.views import Views

TINY = {"images": 8, "dim": 8, "scenes": 2, "captions": 40, "repeats": 1}


def measure_regions(folder: Path, images: int, dim: int, repeats: int) -> Measurement:
    """Random rows of 36 regions, as in a step of SCAN."""
    path = folder / "regions.npy"
    generator = np.random.default_rng(0)
    np.save(path, generator.standard_normal((3 * images, 36, dim), dtype=np.float32))
    source = RegionFiles.whole(path)
    rows = generator.permutation(3 * images)[:images]

    def plain() -> np.ndarray:
        return np.stack([source[int(row)] for row in rows])

    assert np.array_equal(plain(), source.batch(rows))
    seconds = alternate(plain, lambda: source.batch(rows), repeats)
    path.unlink()
    return Measurement(f"regions of {images} images, 36 x {dim:,}", *seconds, note="equal")


def measure_scenes(n: int, repeats: int) -> Measurement:
    """The regions and the pixels of so many scenes, in each of three epochs."""
    scenes = Synthetic("tiny").read(Path()).images
    assert isinstance(scenes, Renderings)
    rows = range(n)

    def epochs(keeps: bool) -> list[np.ndarray]:
        source = Renderings(scenes.scenes)
        outputs = []
        for _ in range(3):
            for row in rows:
                # A new instance has no cached drawings.
                drawing = source if keeps else Renderings(scenes.scenes)
                outputs += [drawing.regions(row), drawing.array(row)]
        return outputs

    assert all(map(np.array_equal, epochs(False), epochs(True)))
    seconds = alternate(lambda: epochs(False), lambda: epochs(True), repeats)
    return Measurement(f"{n} synthetic scenes, 3 epochs", *seconds, note="equal")


def measure_words(folder: Path, n: int) -> Measurement:
    """The vocabulary and the word ids of ``n`` captions as tokenised for SCAN."""
    rng = np.random.default_rng(0)
    words = [f"{letter}{number}" for letter in "abcdefgh" for number in range(500)]
    chosen = rng.integers(len(words), size=(n, 11))
    captions = tuple(" ".join(words[number] for number in row).capitalize() + "." for row in chosen)
    train = np.arange(n * 9 // 10)

    def plain() -> TokenRows:
        splitter = SPLITTERS["treebank"]
        counts = Counter(word for row in train for word in splitter(captions[row]))
        vocabulary = Vocabulary.of(counts, 4, "treebank")
        return TokenRows.of(vocabulary.encode(caption) for caption in captions)

    def ours() -> TokenRows:
        tokens = cached_tokens(
            folder,
            captions,
            splitter_version("treebank"),
            lambda: NamedTokens.split(captions, SPLITTERS["treebank"]),
        )
        return Vocabulary.of(tokens.counts(train), 4, "treebank").encode_all(tokens)

    # The first process, which caches them.
    ours()
    rows: list[TokenRows] = []
    # Tokenising all captions takes seconds, so the measured results are also those compared.
    seconds = alternate(lambda: rows.append(plain()), lambda: rows.append(ours()), repeats=1, warm_up=False)
    expected, found = rows
    assert np.array_equal(expected.ids, found.ids) and np.array_equal(expected.starts, found.starts)
    return Measurement(f"words of {n:,} captions, second process", *seconds, note="equal")


def measure_pictures(folder: Path, n: int, repeats: int) -> Measurement:
    """Pixels of 224 and pictures of 64 pixels of ``n`` JPEG files, as used by GXN on pixels."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{i}.jpg" for i in range(n)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    images = ImageFiles(paths)
    corpus = Corpus(
        name="pictures",
        image_ids=tuple(str(i) for i in range(n)),
        caption_ids=tuple(str(i) for i in range(n)),
        caption_image=np.arange(n),
        split=np.array(["train"] * (n - 1) + ["test"]),
        captions=("a picture",) * n,
        images=images,
    )
    views = Views(corpus, pixels=True, pictures=True)
    rows = np.arange(n)

    def plain() -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.stack([normalised_pixels(images[row], 224) for row in rows])
        return pixels, torch.stack([small_picture(images[row]) for row in rows])

    def ours() -> tuple[torch.Tensor | None, torch.Tensor | None]:
        batch = views.images(rows, lambda position, image: normalised_pixels(image, 224))
        return batch.pixels, batch.pictures

    for expected, found in zip(plain(), ours(), strict=True):
        assert found is not None and torch.equal(expected, found)
    return Measurement(f"pixels and pictures of {n} JPEGs", *alternate(plain, ours, repeats), note="equal")


def measure(
    images: int = 128,
    dim: int = 2048,
    scenes: int = 48,
    captions: int = token_cache.WORTH_KEEPING,
    repeats: int = 3,
) -> list[Measurement]:
    """One measurement per kind of batch."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            measure_regions(folder, images, dim, repeats),
            measure_scenes(scenes, repeats),
            measure_words(folder, captions),
            measure_pictures(folder, images // 4, repeats),
        ]


def main() -> None:
    """Print the table."""
    print_table(measure())


if __name__ == "__main__":
    main()
