"""What an image costs in the extraction of features and regions: one pass over the pictures, and two.

    python benchmarks/feature_extraction.py
    python benchmarks/feature_extraction.py --network resnet18 --images 64

The plain way runs the network as torchvision has it twice over the same pictures: for one vector per image,
and for a grid of regions. Ours decodes each picture once, runs the network once with its batch norms folded
and its channels last, and writes both. The pictures are drawn here and stored as JPEG of 500 x 375 pixels,
the size of Flickr's. Weights are random. Ours is asserted to be as
close to double precision as the plain way.
"""

from __future__ import annotations

import argparse
import copy
import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from measurement import Measurement, alternate, print_table
from PIL import Image
from torch import Tensor

from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.features import GRID, Extracted, extract_features
from crossmodal_bench.data.images import ImageFiles
from crossmodal_bench.data.pixels import normalised_pixels
from crossmodal_bench.networks.backbones import load_backbone

BATCH = 32


def pictures(folder: Path, n: int) -> ImageFiles:
    """So many JPEG files of smooth noise."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{i:05d}.jpg" for i in range(n)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        stream = io.BytesIO()
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        path.write_bytes(stream.getvalue())
    return ImageFiles(paths)


@torch.inference_mode()
def two_passes(
    images: ImageFiles, networks: list[torch.nn.Module], dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """The vectors of all images, and their regions."""
    outputs = []
    for network in networks:
        batches = [range(start, min(start + BATCH, len(images))) for start in range(0, len(images), BATCH)]
        stacked = (torch.stack([normalised_pixels(images[i], 224) for i in batch]) for batch in batches)
        outputs.append(torch.cat([network(pixels.to(dtype)) for pixels in stacked]))
    return outputs


def _error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference, relative to that of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def measure(network: str = "mobilenet_v2", n: int = 16, repeats: int = 2) -> list[Measurement]:
    """One measurement, per ``n`` images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = pictures(folder, n)
        corpus = Corpus(
            name="pictures",
            image_ids=tuple(str(i) for i in range(n)),
            caption_ids=tuple(str(i) for i in range(n)),
            caption_image=np.arange(n),
            split=np.array(["train"] * (n - 1) + ["test"]),
            captions=("a picture",) * n,
            images=images,
        )
        plain = [load_backbone(network, "none", folder)[0], load_backbone(network, "none", folder, GRID)[0]]
        calls = 0

        def ours() -> list[Tensor]:
            # A cache of its own for every call, or there would be nothing left to do.
            nonlocal calls
            calls += 1
            cache = folder / str(calls)
            kinds: tuple[Extracted | None, ...] = ("grid", None)
            stores = [
                extract_features(
                    corpus, cache, network, "none", data_root=folder, regions=kind, batch_size=BATCH
                )
                for kind in kinds
            ]
            return [torch.from_numpy(store.array().copy()) for store in reversed(stores)]

        # Random weights make small differences large, those of rounding too: against double precision, ours
        # may be no further off than the plain way.
        few = ImageFiles(images.paths[:4])
        exact = two_passes(few, [copy.deepcopy(each).double() for each in plain], torch.float64)
        errors = []
        for found, expected, right in zip(ours(), two_passes(images, plain), exact, strict=True):
            errors += [_error(found[: len(right)], right), _error(expected[: len(right)], right)]
            assert errors[-2] <= 1.5 * errors[-1] + 1e-6
            assert _error(found, expected) <= 1e-4
        seconds = alternate(lambda: two_passes(images, plain), ours, repeats)
    note = "off double precision by {:.0e} (plain {:.0e}), grid {:.0e} ({:.0e})".format(*errors)
    return [Measurement(f"features and grid of {n} pictures, {network}", *seconds, note=note)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What an image costs in the extraction of features.")
    parser.add_argument("--network", default="mobilenet_v2", help="torchvision's name")
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args()
    print_table(measure(options.network, options.images))


if __name__ == "__main__":
    main()
