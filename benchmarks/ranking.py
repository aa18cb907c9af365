"""Speed of a sweep that ranks both directions, compared with the same sweep without any shortcuts.

    python benchmarks/ranking.py [--images 5000] [--captions 25000] [--dim 256]

The plain way scores the same tiles, takes each tile's ten best of both directions by ``torch.topk``, merges
them into the lists, and counts competitors by comparing all scores with the positives'. Ranks, ties and top
lists are equal to the last digit. Three models: one that finds nearly everything, a mediocre one, and one at
chance, whose positives have thousands of competitors above them.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from measurement import Measurement, alternate, print_table
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import streamed_ranks
from crossmodal_bench.evaluation.ranking.tiles import ScoreTiles
from crossmodal_bench.evaluation.ranking.top import ordered_top

MODELS = {"good": 2.0, "middling": 5.0, "at chance": 1e6}
"""Standard deviation of the noise in a caption's vector, relative to its image's, which is 1."""
TOP = 10
TINY = {"images": 20, "captions": 60, "dim": 8, "repeats": 1}


def dot(images: Encoding, texts: Encoding) -> Tensor:
    """(n_images, n_texts) dot products."""
    return images.values @ texts.values.T


def galleries(images: int, captions: int, dim: int, noise: float) -> tuple[Encoding, Encoding, np.ndarray]:
    """Unit vectors of images and captions, and the image of each caption, ascending."""
    generator = torch.Generator().manual_seed(0)
    owner = np.arange(captions) * images // captions
    image = torch.randn(images, dim, generator=generator)
    text = image[torch.from_numpy(owner)] + noise * torch.randn(captions, dim, generator=generator)
    normalize = torch.nn.functional.normalize
    return Encoding(normalize(image, dim=1)), Encoding(normalize(text, dim=1)), owner


def tile_by_tile(images: Encoding, texts: Encoding, owner: np.ndarray) -> dict[str, np.ndarray]:
    """Ranks and top lists without shortcuts, by the field names of ``Ranks``."""
    tiles = ScoreTiles(images, texts, dot)
    of_caption = torch.from_numpy(owner)
    n_images, n_texts = len(images), len(texts)
    best = {"i2t": torch.full((n_images,), -torch.inf), "t2i": torch.full((n_texts,), -torch.inf)}
    counts = {"i2t": torch.zeros(n_images).long(), "t2i": torch.zeros(n_texts).long()}
    lists = {
        side: (torch.full((n, TOP), -torch.inf), torch.zeros(n, TOP).long())
        for side, n in (("i2t", n_images), ("t2i", n_texts))
    }
    for counting in (False, True):
        for row, (top, bottom) in enumerate(tiles.rows):
            for column, (left, right) in enumerate(tiles.columns):
                inside = (of_caption[left:right] >= top) & (of_caption[left:right] < bottom)
                text = torch.nonzero(inside)[:, 0]
                image = of_caption[left:right][text] - top
                if not counting and not len(text):
                    continue
                tile = tiles(row, column)
                if not counting:
                    best["i2t"][top:bottom].scatter_reduce_(0, image, tile[image, text], "amax")
                    best["t2i"][left:right].scatter_reduce_(0, text, tile[image, text], "amax")
                    continue
                for side, scores, start, stop, offset in (
                    ("i2t", tile, top, bottom, left),
                    ("t2i", tile.T.contiguous(), left, right, top),
                ):
                    held, indices = lists[side]
                    values, places = ordered_top(scores, TOP)
                    values, order = torch.sort(
                        torch.cat([held[start:stop], values], 1), dim=1, descending=True, stable=True
                    )
                    both = torch.cat([indices[start:stop], places + offset], 1)
                    held[start:stop], indices[start:stop] = values[:, :TOP], both.gather(1, order)[:, :TOP]
                rivals = tile.index_put((image, text), torch.tensor(-torch.inf))
                counts["i2t"][top:bottom] += (rivals >= best["i2t"][top:bottom, None]).sum(1)
                counts["t2i"][left:right] += (rivals >= best["t2i"][left:right]).sum(0)
    results = {side: (count + 1).numpy() for side, count in counts.items()}
    for side, (held, indices) in lists.items():
        results |= {f"{side}_top": indices.numpy(), f"{side}_top_scores": held.numpy()}
    return results


def compare(model: str, images: int, captions: int, dim: int, repeats: int) -> Measurement:
    """Both ways on one model's vectors."""
    image, text, owner = galleries(images, captions, dim, MODELS[model])
    expected, ranks = tile_by_tile(image, text, owner), streamed_ranks(image, text, dot, owner)
    for name, values in expected.items():
        np.testing.assert_array_equal(ranks.arrays()[name], values, err_msg=name)
    plain, ours = alternate(
        lambda: tile_by_tile(image, text, owner), lambda: streamed_ranks(image, text, dot, owner), repeats
    )
    return Measurement(
        f"ranks, {images:,} x {captions:,} x {dim}, {model}",
        plain,
        ours,
        flops=2.0 * images * captions * dim,
        note="equal ranks and top lists",
    )


def measure(
    images: int = 2000, captions: int = 10_000, dim: int = 256, repeats: int = 2
) -> list[Measurement]:
    """All models, on galleries small enough for seconds."""
    return [compare(model, images, captions, dim, repeats) for model in MODELS]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--captions", type=int, default=25_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.images < TOP or options.captions < options.images:
        parser.error(f"there must be at least {TOP} images, with at least one caption each")
    torch.set_num_threads(1)
    print_table(measure(options.images, options.captions, options.dim, options.repeats))


if __name__ == "__main__":
    main()
