"""How time and memory grow with gallery size, scored pairs, batch size, regions and words.

    python benchmarks/scaling.py [--markdown]

Each size of one quantity, all others fixed, runs in a separate process, forked after the imports: the fastest
of ``--repeats`` calls in CPU seconds, on one thread, and the peak memory beyond what the process had at its
start. Exponents are slopes of straight lines through the logarithms: 1 means proportional growth, 2 means
four times as much for twice the size. They only apply to the sizes shown: an exponent is lower if a part of
the work that does not grow is not yet negligible.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import streamed_ranks
from crossmodal_bench.losses import triplet_ranking_loss
from crossmodal_bench.similarity import scan_similarity

DIM = 256
REGIONS, WORDS, BATCH = 36, 14, 32


@dataclass(frozen=True)
class Quantity:
    """A quantity that grows.

    Attributes:
        name: its name.
        work: the work, including the fixed sizes.
        sizes: the measured sizes.
        prepare: returns the work for a size, with its inputs prepared.
    """

    name: str
    work: str
    sizes: Sequence[int]
    prepare: Callable[[int], Callable[[], object]]


@dataclass(frozen=True)
class Growth:
    """Seconds and bytes at each size of a quantity, and their exponents."""

    quantity: Quantity
    seconds: list[float]
    peak_bytes: list[int]

    @property
    def exponents(self) -> tuple[float, float]:
        """The exponents of time and of memory."""
        return exponent(self.quantity.sizes, self.seconds), exponent(self.quantity.sizes, self.peak_bytes)


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope of the values' logarithms over the sizes'."""
    x = np.log(np.asarray(sizes, dtype=np.float64))
    y = np.log(np.maximum(np.asarray(values, dtype=np.float64), 1e-12))
    return float(np.polyfit(x, y, 1)[0])


def unit_vectors(count: int) -> Tensor:
    """(count, DIM) in random directions."""
    return F.normalize(torch.randn(count, DIM), dim=1)


def attention(images: Encoding, texts: Encoding) -> Tensor:
    """SCAN's text-to-image scores."""
    assert texts.lengths is not None
    return scan_similarity(
        images.values, texts.values, texts.lengths, "t2i", "LogSumExp", "clipped_l2norm", 9.0, 6.0
    )


def fragments(images: int, captions: int, regions: int, words: int) -> tuple[Encoding, Encoding]:
    """Regions of images, and words of captions."""
    lengths = torch.full((captions,), words)
    return (
        Encoding(unit_vectors(images * regions).view(images, regions, DIM)),
        Encoding(unit_vectors(captions * words), lengths),
    )


def ranked_vectors(images: int) -> Callable[[], object]:
    """Ranks of both directions by vectors, five captions per image."""
    image, text = Encoding(unit_vectors(images)), Encoding(unit_vectors(5 * images))
    owner = np.arange(5 * images) // 5
    return lambda: streamed_ranks(image, text, lambda i, t: i.values @ t.values.T, owner)


def ranked_fragments(images: int) -> Callable[[], object]:
    """Ranks of both directions by cross attention, one caption per image."""
    image, text = fragments(images, images, REGIONS, WORDS)
    return lambda: streamed_ranks(image, text, attention, np.arange(images))


def step(batch: int, regions: int, words: int) -> Callable[[], object]:
    """Similarity, loss and gradients of a batch of pairs."""
    image, text = fragments(batch, batch, regions, words)
    image.values.requires_grad_()
    text.values.requires_grad_()
    return lambda: torch.autograd.grad(
        triplet_ranking_loss(attention(image, text)), (image.values, text.values)
    )


QUANTITIES = (
    Quantity(
        "gallery",
        f"ranks of n images x 5 n captions, vectors of {DIM}",
        (500, 1000, 2000, 4000),
        ranked_vectors,
    ),
    Quantity(
        "pairs",
        f"ranks of n images x n captions, cross attention, {DIM} wide",
        (64, 128, 256),
        ranked_fragments,
    ),
    Quantity(
        "batch",
        f"a step of cross attention, {REGIONS} regions, {WORDS} words",
        (16, 32, 64),
        lambda batch: step(batch, REGIONS, WORDS),
    ),
    Quantity(
        "regions",
        f"the same, {BATCH} pairs, {WORDS} words",
        (18, 36, 72),
        lambda regions: step(BATCH, regions, WORDS),
    ),
    Quantity(
        "words",
        f"the same, {BATCH} pairs, {REGIONS} regions",
        (7, 14, 28),
        lambda words: step(BATCH, REGIONS, words),
    ),
)


def peak() -> int:
    """Highest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run(quantity: Quantity, size: int, repeats: int) -> tuple[float, int]:
    """CPU seconds of the fastest call, and bytes beyond those of the inputs."""
    torch.manual_seed(0)
    work = quantity.prepare(size)
    before = peak()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds), max(peak() - before, 1)


def in_a_process(quantity: Quantity, size: int, repeats: int) -> tuple[float, int]:
    """``run`` in a fresh process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(run(quantity, size, repeats)))
    child.start()
    # Close this copy of the sending end, so that a dead child is an end of file, not an endless wait.
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise SystemExit(f"{quantity.name} at {size:,} failed; its own message is above") from None
    finally:
        child.join()


def growths(repeats: int) -> list[Growth]:
    """All quantities at all their sizes."""
    found = []
    for quantity in QUANTITIES:
        measured = [in_a_process(quantity, size, repeats) for size in quantity.sizes]
        seconds, peaks = [seconds for seconds, _ in measured], [size for _, size in measured]
        found.append(Growth(quantity, seconds, peaks))
    return found


def markdown(growth: Growth) -> str:
    """A line of the table in docs/scaling.md."""
    of_time, of_memory = growth.exponents
    sizes = " / ".join(f"{size:,}" for size in growth.quantity.sizes)
    times = " / ".join(f"{1000 * seconds:.0f}" for seconds in growth.seconds)
    memory = " / ".join(f"{size / 2**20:.0f}" for size in growth.peak_bytes)
    cells = (growth.quantity.name, growth.quantity.work, sizes, times, f"{of_time:.2f}", memory)
    return "| " + " | ".join([*cells, f"{of_memory:.2f}"]) + " |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--markdown", action="store_true", help="as lines of docs/scaling.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for growth in growths(options.repeats):
        if options.markdown:
            print(markdown(growth), flush=True)
            continue
        of_time, of_memory = growth.exponents
        print(f"{growth.quantity.name}: {growth.quantity.work}")
        for size, seconds, memory in zip(
            growth.quantity.sizes, growth.seconds, growth.peak_bytes, strict=True
        ):
            print(f"  {size:8,}  {1000 * seconds:9.1f} ms  {memory / 2**20:8.1f} MiB")
        print(f"  exponent  {of_time:9.2f}     {of_memory:8.2f}", flush=True)


if __name__ == "__main__":
    main()
