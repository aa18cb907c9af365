"""Speed and memory of the streamed evaluation, relative to ranking query by query.

    python benchmarks/evaluation.py --images 5000 --captions 25000 --dim 1024

The baseline does what the original implementations do: for each query one row of scores, a full argsort, and
a search for the positives. It runs on evenly spaced queries, ``--queries`` per direction, and is extrapolated
to all of them. Both are measured in this run, the streamed side in a fresh process whose peak memory is
counted from the moment its encodings exist.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from measurement import Measurement
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import streamed_ranks


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


def streamed(images: int, captions: int, dim: int) -> dict[str, float]:
    """CPU seconds, and peak MiB beyond the encodings, of one sweep in both directions."""
    image, text, owner = galleries(images, captions, dim)
    # The first product loads the numerical libraries, which must not be measured.
    streamed_ranks(Encoding(image[:16]), Encoding(text[:16]), dot, np.arange(16))
    before = peak_mb()
    start = time.process_time()
    ranks = streamed_ranks(Encoding(image), Encoding(text), dot, owner)
    seconds = time.process_time() - start
    return {"seconds": seconds, "memory_mb": peak_mb() - before, "mean_rank": float(ranks.t2i.mean())}


def query_by_query(images: int, captions: int, dim: int, queries: int) -> float:
    """CPU seconds for all queries of both directions, from ``queries`` of each."""
    image, text, owner = (values if isinstance(values, np.ndarray) else values.numpy() for values in
                          galleries(images, captions, dim))  # fmt: skip
    seconds = 0.0
    for asked, gallery, positives in (
        (image, text, lambda query: np.flatnonzero(owner == query)),
        (text, image, lambda query: owner[query : query + 1]),
    ):
        chosen = np.linspace(0, len(asked) - 1, min(queries, len(asked))).astype(int)
        start = time.process_time()
        for query in chosen:
            order = np.argsort(asked[query] @ gallery.T)[::-1]
            min(int(np.flatnonzero(order == positive)[0]) for positive in positives(query))
        seconds += (time.process_time() - start) * len(asked) / len(chosen)
    return seconds


def measure(images: int = 1000, captions: int = 5000, dim: int = 256, queries: int = 40) -> list[Measurement]:
    """The sweep compared with single queries; small enough for seconds, and without memory."""
    image, text, owner = galleries(images, captions, dim)
    streamed_ranks(Encoding(image[:16]), Encoding(text[:16]), dot, np.arange(16))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        streamed_ranks(Encoding(image), Encoding(text), dot, owner)
        seconds.append(time.process_time() - start)
    return [
        Measurement(
            f"evaluation, {images:,} x {captions:,} x {dim}, query by query",
            query_by_query(images, captions, dim, queries),
            statistics.median(seconds),
            flops=2.0 * images * captions * dim,
            note=f"the plain way extrapolated from {queries} queries per direction",
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
        print(json.dumps(streamed(*size)))
        return
    child = subprocess.run(
        [sys.executable, *sys.argv, "--child"], check=True, stdout=subprocess.PIPE, text=True
    )
    ours = json.loads(child.stdout)
    baseline = query_by_query(*size, options.queries)
    print(f"{options.images} images x {options.captions} captions, {options.dim} dimensions, both directions")
    print(f"  query by query   {baseline:8.1f} s")
    print(f"  streamed         {ours['seconds']:8.1f} s   {ours['memory_mb']:.0f} MiB above the encodings")
    print(f"  ratio            {baseline / ours['seconds']:8.1f} x")


if __name__ == "__main__":
    main()
