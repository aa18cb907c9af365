"""Speed and memory of SCAN's and BFAN's similarity, relative to attending caption by caption.

    python benchmarks/cross_attention.py
    python benchmarks/cross_attention.py --kinds t2i --only evaluation

A training step on 128 pairs, and the ranks of 1,000 images x 5,000 captions. The baseline does what the
original implementations do: for each caption, it repeats the words for all images, computes attention by two
batched products, and compares the attended vectors with the words. In training it runs on the whole batch; in
evaluation on ``--sampled`` captions, extrapolated to all of them. Both sides are measured in this run in
single precision, each in a fresh process; memory is that process's total peak. Values and gradients of both
are asserted to be equal in double precision.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from measurement import Measurement, alternate
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import streamed_ranks
from crossmodal_bench.losses import triplet_ranking_loss
from crossmodal_bench.similarity import bfan_similarity, scan_similarity
from crossmodal_bench.similarity.bfan import focal_weights

BATCH = 128
TINY = {"batch": 4, "dim": 16, "repeats": 1}
KINDS = ("t2i", "i2t", "bfan_equal", "bfan_prob")


def fragments(
    images: int, captions: int, regions: int, dim: int, fewest: int, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Unit regions (N, R, D), packed unit words, and lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(fewest, most + 1, (captions,), generator=generator)
    v = F.normalize(torch.randn(images, regions, dim, generator=generator), dim=2)
    w = F.normalize(torch.randn(int(lengths.sum()), dim, generator=generator), dim=1)
    return v, w, lengths


def ours(kind: str, v: Tensor, w: Tensor, lengths: Tensor) -> Tensor:
    """(N, M) scores computed by this package."""
    if kind.startswith("bfan"):
        return bfan_similarity(v, w, lengths, kind.removeprefix("bfan_"))  # type: ignore[arg-type]
    if kind == "t2i":
        return scan_similarity(v, w, lengths, "t2i", "LogSumExp", "clipped_l2norm", 9.0, 6.0)
    return scan_similarity(v, w, lengths, "i2t", "LogSumExp", "clipped_l2norm", 4.0, 5.0)


def caption_by_caption(kind: str, v: Tensor, w: Tensor, lengths: Tensor) -> Tensor:
    """(N, M) scores computed from the attended vectors."""
    columns = []
    for words in w.split(lengths.tolist()):
        repeated = words.expand(len(v), -1, -1)
        if kind.startswith("bfan"):
            focal = kind.removeprefix("bfan_")
            both = [_cosines(repeated, v, 20.0, focal), _cosines(v, repeated, 20.0, focal)]
            columns.append(both[0].mean(1) + both[1].mean(1))
        elif kind == "t2i":
            columns.append(torch.logsumexp(6.0 * _cosines(repeated, v, 9.0), 1) / 6.0)
        else:
            columns.append(torch.logsumexp(5.0 * _cosines(v, repeated, 4.0), 1) / 5.0)
    return torch.stack(columns, 1)


def _cosines(query: Tensor, context: Tensor, temperature: float, focal: str = "") -> Tensor:
    affinities = F.leaky_relu(torch.bmm(context, query.transpose(1, 2)), 0.1)
    affinities = affinities / (affinities.square().sum(2, keepdim=True).sqrt() + 1e-8)
    weights = (temperature * affinities.transpose(1, 2)).softmax(2)
    if focal:
        weights = focal_weights(weights, 2, focal)  # type: ignore[arg-type]
    return F.cosine_similarity(query, torch.bmm(weights, context), dim=2)


def peak_mb() -> float:
    """Highest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def training(kind: str, score: Callable[..., Tensor], repeats: int) -> dict[str, float]:
    """Seconds of similarity, loss and gradients of one batch, the best of ``repeats``; peak MiB."""
    v, w, lengths = fragments(BATCH, BATCH, 36, 1024, 12, 20)
    v.requires_grad_(), w.requires_grad_()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        triplet_ranking_loss(score(kind, v, w, lengths)).backward()
        seconds.append(time.perf_counter() - start)
        v.grad = w.grad = None
    return {"seconds": min(seconds), "memory_mb": peak_mb()}


def evaluation(kind: str, images: int, captions: int, sampled: int) -> dict[str, float]:
    """Seconds of a whole evaluation, ranks included, or of ``sampled`` captions in proportion; peak MiB."""
    v, w, lengths = fragments(images, captions, 36, 1024, 9, 21)
    start = time.perf_counter()
    if sampled:
        with torch.no_grad():
            some = lengths[:sampled]
            caption_by_caption(kind, v, w[: int(some.sum())], some)
        return {
            "seconds": (time.perf_counter() - start) * captions / sampled,
            "memory_mb": peak_mb(),
        }

    def score(i: Encoding, t: Encoding) -> Tensor:
        assert t.lengths is not None
        return ours(kind, i.values, t.values, t.lengths)

    owner = np.arange(captions) * images // captions
    streamed_ranks(Encoding(v), Encoding(w, lengths), score, owner)
    return {"seconds": time.perf_counter() - start, "memory_mb": peak_mb()}


def apart(*words: str) -> dict[str, float]:
    """Run the measurement given by ``words`` in a separate process."""
    command = [sys.executable, sys.argv[0], *words, "--child"]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(child.stdout)


def compare(kind: str, v: Tensor, w: Tensor, lengths: Tensor) -> None:
    """Scores and the loss's gradients both ways, in double precision; and ours in single precision."""
    exact = [values.detach().double().requires_grad_() for values in (v, w)]
    plain, here = caption_by_caption(kind, *exact, lengths), ours(kind, *exact, lengths)
    torch.testing.assert_close(here, plain, rtol=1e-5, atol=0)
    gradients = (torch.autograd.grad(triplet_ranking_loss(scores), exact) for scores in (here, plain))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(ours(kind, v, w, lengths).double(), plain, rtol=1e-5, atol=1e-6)


def measure(batch: int = 16, dim: int = 512, repeats: int = 3) -> list[Measurement]:
    """Similarity, loss and gradients of a batch of pairs, each kind both ways; values agree to 1e-5."""
    v, w, lengths = fragments(batch, batch, 36, dim, 12, 20)
    v.requires_grad_(), w.requires_grad_()
    measurements = []
    for kind in KINDS:
        compare(kind, v, w, lengths)

        def step(score: Callable[..., Tensor], kind: str = kind) -> None:
            torch.autograd.grad(triplet_ranking_loss(score(kind, v, w, lengths)), (v, w))

        seconds = alternate(lambda step=step: step(caption_by_caption), lambda step=step: step(ours), repeats)
        measurements.append(
            Measurement(
                f"cross attention, {kind}, a step of {batch} pairs, {dim} wide",
                *seconds,
                # Affinities of all regions and words, and the gradients of both.
                flops=6.0 * batch * 36 * len(w) * dim,
            )
        )
    return measurements


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--captions", type=int, default=5000)
    parser.add_argument("--sampled", type=int, default=40, help="captions of the baseline's evaluation")
    parser.add_argument("--only", choices=("training", "evaluation"), default=None)
    parser.add_argument("--baseline", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.images, options.sampled) < 1 or options.captions < max(options.sampled, options.images):
        parser.error("every image needs a caption, and there must be at least --sampled captions")
    if options.child:
        (kind,) = options.kinds
        if options.only == "training":
            found = training(kind, caption_by_caption if options.baseline else ours, 3)
        else:
            found = evaluation(kind, options.images, options.captions, options.baseline * options.sampled)
        print(json.dumps(found))
        return
    size = [
        "--images",
        str(options.images),
        "--captions",
        str(options.captions),
        "--sampled",
        str(options.sampled),
    ]
    for only, text in (
        (
            "training",
            f"a batch of {BATCH} pairs, 36 regions, 12 to 20 words, 1,024 wide, forwards and backwards",
        ),
        (
            "evaluation",
            f"{options.images} images x {options.captions} captions, 36 regions, 9 to 21 words, 1,024 wide",
        ),
    ):
        if options.only not in (None, only):
            continue
        print(text)
        for kind in options.kinds:
            words = ["--kinds", kind, "--only", only, *size]
            mine, theirs = apart(*words), apart(*words, "--baseline")
            print(
                f"  {kind:11s} caption by caption {theirs['seconds']:8.2f} s {theirs['memory_mb']:6.0f} MiB "
                f"  here {mine['seconds']:8.2f} s {mine['memory_mb']:6.0f} MiB   "
                f"ratio {theirs['seconds'] / mine['seconds']:5.1f} x",
                flush=True,
            )


if __name__ == "__main__":
    main()
