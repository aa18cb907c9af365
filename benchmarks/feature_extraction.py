"""The cost per image of extracting features and regions: one pass over the pictures, compared with two.

    python benchmarks/feature_extraction.py
    python benchmarks/feature_extraction.py --network resnet18 --images 64

The plain way runs torchvision's network twice over the same pictures: for one vector per image, and for a
grid of regions. Ours runs it once for both, with folded batch norms and in channels-last format. One line is
for the network alone, on decoded pixels, and one includes decoding the pictures, which the plain way does in
each pass. On both sides, networks are loaded before, and nothing is written.

The pictures are drawn here and stored as JPEG of 500 x 375 pixels, the size of Flickr's. Weights are random.
Both ways are asserted to be equal in double precision, and the results of ``extract_features`` to be as close
to that as the plain way.
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
from torch import Tensor, nn

from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.features import GRID, Extracted, extract_features
from crossmodal_bench.data.images import ImageFiles
from crossmodal_bench.data.pixels import normalised_pixels
from crossmodal_bench.networks.backbones import load_backbone, load_with_grid
from crossmodal_bench.networks.folding import fold_batch_norms

BATCH = 32
TINY = {"n": 2, "repeats": 1}


def pictures(folder: Path, n: int) -> ImageFiles:
    """``n`` JPEG files of smooth noise."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{i:05d}.jpg" for i in range(n)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        stream = io.BytesIO()
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        path.write_bytes(stream.getvalue())
    return ImageFiles(paths)


def decoded(images: ImageFiles) -> list[Tensor]:
    """(B, 3, 224, 224) pixels of each batch."""
    batches = [range(start, min(start + BATCH, len(images))) for start in range(0, len(images), BATCH)]
    return [torch.stack([normalised_pixels(images[i], 224) for i in batch]) for batch in batches]


@torch.inference_mode()
def two_passes(batches: list[Tensor], networks: list[nn.Module]) -> list[Tensor]:
    """The vectors of all images, and their regions, by one network each."""
    return [torch.cat([network(pixels) for pixels in batches]) for network in networks]


@torch.inference_mode()
def one_pass(batches: list[Tensor], network: nn.Module) -> list[Tensor]:
    """The same by one network for both, as run by ``extract_features``."""
    outputs = [network(pixels.to(memory_format=torch.channels_last)) for pixels in batches]
    return [torch.cat(blocks) for blocks in zip(*outputs, strict=True)]


def extracted(images: ImageFiles, folder: Path, network: str) -> list[Tensor]:
    """The same by ``extract_features``, read from the stores it writes."""
    n = len(images)
    corpus = Corpus(
        name="pictures",
        image_ids=tuple(str(i) for i in range(n)),
        caption_ids=tuple(str(i) for i in range(n)),
        caption_image=np.arange(n),
        split=np.array(["train"] * (n - 1) + ["test"]),
        captions=("a picture",) * n,
        images=images,
    )
    kinds: tuple[Extracted | None, ...] = ("grid", None)
    stores = [
        extract_features(
            corpus, folder / "cache", network, "none", data_root=folder, regions=kind, batch_size=BATCH
        )
        for kind in kinds
    ]
    return [torch.from_numpy(store.array().copy()) for store in reversed(stores)]


def _error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference, relative to the expected values."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def measure(network: str = "mobilenet_v2", n: int = 16, repeats: int = 3) -> list[Measurement]:
    """The network alone, and including decoding; for ``n`` images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = pictures(folder, n)
        plain = [load_backbone(network, "none", folder)[0], load_backbone(network, "none", folder, GRID)[0]]
        ours = load_with_grid(network, "none", folder, GRID)[0]
        ours_exact = copy.deepcopy(ours).double()
        for network_of_ours in (ours, ours_exact):
            fold_batch_norms(network_of_ours)
            network_of_ours.to(memory_format=torch.channels_last)
        pixels = decoded(images)

        # Random weights amplify small differences, including rounding. Compared with double precision, ours
        # may be no further off than the plain way.
        few = [batch.double() for batch in decoded(ImageFiles(images.paths[:4]))]
        exact = two_passes(few, [copy.deepcopy(each).double() for each in plain])
        for found, expected in zip(one_pass(few, ours_exact), exact, strict=True):
            assert _error(found, expected) <= 1e-5
        written = extracted(images, folder, network)
        errors = []
        for stored, found, expected, right in zip(
            written, one_pass(pixels, ours), two_passes(pixels, plain), exact, strict=True
        ):
            errors += [_error(stored[: len(right)], right), _error(expected[: len(right)], right)]
            assert errors[-2] <= 1.5 * errors[-1] + 1e-6
            assert _error(stored, expected) <= 1e-4
            assert _error(found, stored) <= 1e-6
        forward = alternate(
            lambda: two_passes(pixels, plain), lambda: one_pass(pixels, ours), repeats, warm_up=False
        )
        with_decoding = alternate(
            lambda: [two_passes(decoded(images), [each]) for each in plain],
            lambda: one_pass(decoded(images), ours),
            repeats,
            warm_up=False,
        )
    note = "off double precision by {:.0e} (plain {:.0e}), grid {:.0e} ({:.0e})".format(*errors)
    what = f"features and grid of {n} images, {network}"
    return [
        Measurement(f"{what}, from pixels", *forward, note=note),
        Measurement(f"{what}, from JPEG", *with_decoding, note=note),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The cost per image of extracting features.")
    parser.add_argument("--network", default="mobilenet_v2", help="torchvision's name")
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args()
    print_table(measure(options.network, options.images))


if __name__ == "__main__":
    main()
