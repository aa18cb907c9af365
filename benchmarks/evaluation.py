"""Speed and memory of the streamed evaluation, relative to ranking query by query.

    python benchmarks/evaluation.py --images 5000 --captions 25000 --dim 1024

The baseline does what the original implementations do: for each query one row of scores, a full argsort, and
a search for the positives. It runs on evenly spaced queries, ``--queries`` per direction, whose ranks are
asserted to be equal, and is extrapolated to all of them. Both are measured in this run, the streamed side in
a fresh process whose peak memory is counted from the moment its encodings exist.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping

import numpy as np
import torch
from measurement import Measurement
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import streamed_ranks

TINY = {"images": 20, "captions": 60, "dim": 16, "queries": 10}
Asked = dict[str, tuple[np.ndarray, np.ndarray]]
"""Queries and their ranks, by direction."""


def dot(images: Encoding, texts: Encoding) -> Tensor:
    """(n_images, n_texts) dot products."""
    return images.values @ texts.values.T


def galleries(images: int, captions: int, dim: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Unit vectors, captions scattered around their image's, and the image of each caption."""
    generator = torch.Generator().manual_seed(0)
    owner = np.arange(captions) * images // captions
    image = torch.randn(images, dim, generator=generator)
    text = torch.randn(captions, dim, generator=generator).mul_(2)
    for start in range(0, captions, 4096):
        text[start : start + 4096] += image[torch.from_numpy(owner[start : start + 4096])]
    for values in (image, text):
        for block in values.split(4096):
            block /= block.norm(dim=1, keepdim=True)
    return image, text, owner


def peak_mb() -> float:
    """Highest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def streamed(images: int, captions: int, dim: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """CPU seconds, and peak MiB beyond the encodings, of one sweep in both directions; and all ranks."""
    image, text, owner = galleries(images, captions, dim)
    # The first product loads the numerical libraries, which must not be measured.
    streamed_ranks(Encoding(image[:16]), Encoding(text[:16]), dot, np.arange(16))
    before = peak_mb()
    start = time.process_time()
    ranks = streamed_ranks(Encoding(image), Encoding(text), dot, owner)
    seconds = time.process_time() - start
    found = {"seconds": seconds, "memory_mb": peak_mb() - before}
    return found, {"i2t": ranks.i2t, "t2i": ranks.t2i}


def query_by_query(images: int, captions: int, dim: int, queries: int) -> tuple[float, Asked]:
    """CPU seconds for all queries of both directions, from ``queries`` of each, and the ranks of these."""
    image, text, owner = (values if isinstance(values, np.ndarray) else values.numpy() for values in
                          galleries(images, captions, dim))  # fmt: skip
    seconds = 0.0
    found: Asked = {}
    for side, asked, gallery, positives in (
        ("i2t", image, text, lambda query: np.flatnonzero(owner == query)),
        ("t2i", text, image, lambda query: owner[query : query + 1]),
    ):
        chosen = np.linspace(0, len(asked) - 1, min(queries, len(asked))).astype(int)
        ranks = np.zeros(len(chosen), dtype=np.int64)
        start = time.process_time()
        for row, query in enumerate(chosen):
            order = np.argsort(asked[query] @ gallery.T)[::-1]
            ranks[row] = 1 + min(int(np.flatnonzero(order == positive)[0]) for positive in positives(query))
        seconds += (time.process_time() - start) * len(asked) / len(chosen)
        found[side] = chosen, ranks
    return seconds, found


def compare(asked: Asked, ranks: Mapping[str, np.ndarray]) -> None:
    """The streamed ranks of all queries with those that were asked one by one."""
    for side, (queries, expected) in asked.items():
        np.testing.assert_array_equal(ranks[side][queries], expected, err_msg=side)


def measure(images: int = 1000, captions: int = 5000, dim: int = 256, queries: int = 40) -> list[Measurement]:
    """The sweep compared with single queries; small enough for seconds, and without memory."""
    image, text, owner = galleries(images, captions, dim)
    streamed_ranks(Encoding(image[:16]), Encoding(text[:16]), dot, np.arange(16))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        ranks = streamed_ranks(Encoding(image), Encoding(text), dot, owner)
        seconds.append(time.process_time() - start)
    plain, asked = query_by_query(images, captions, dim, queries)
    compare(asked, {"i2t": ranks.i2t, "t2i": ranks.t2i})
    return [
        Measurement(
            f"evaluation, {images:,} x {captions:,} x {dim}, query by query",
            plain,
            statistics.median(seconds),
            flops=2.0 * images * captions * dim,
            note=f"the plain way extrapolated from {queries} queries per direction, with equal ranks",
        )
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--captions", type=int, default=25000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=100, help="queries per direction for the baseline")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.images, options.dim, options.queries) < 1 or options.captions < max(16, options.images):
        parser.error("every image needs a caption, and there must be at least 16 captions")
    if options.images < 16:
        parser.error("--images must be at least 16")
    size = (options.images, options.captions, options.dim)
    if options.child:
        found, ranks = streamed(*size)
        print(json.dumps([found, {side: values.tolist() for side, values in ranks.items()}]))
        return
    child = subprocess.run(
        [sys.executable, *sys.argv, "--child"], check=True, stdout=subprocess.PIPE, text=True
    )
    ours, of_ours = json.loads(child.stdout)
    baseline, asked = query_by_query(*size, options.queries)
    compare(asked, {side: np.array(values) for side, values in of_ours.items()})
    print(f"{options.images} images x {options.captions} captions, {options.dim} dimensions, both directions")
    print(f"  query by query   {baseline:8.1f} s")
    print(f"  streamed         {ours['seconds']:8.1f} s   {ours['memory_mb']:.0f} MiB above the encodings")
    print(f"  ratio            {baseline / ours['seconds']:8.1f} x")


if __name__ == "__main__":
    main()
