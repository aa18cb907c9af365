"""The cost of ADDR's discriminators: memory and seconds of the bank, and their share of a SCAN step.

    python benchmarks/discriminators.py

A bank of MS-COCO's size, and a step of 128 pairs, each an image of 36 regions with five captions of 15 words,
given the features and the hard negatives: gathering rows, risks and regularisation, gradients, Adam,
scattering rows. The hard negatives are those of an untrained SCAN, and in a second run one pair that is the
hard negative of all others (the worst case). In the same run, alternating, a step of SCAN (t2i, Mean) on 128
pairs: encoders forwards and backwards, similarity, ranking loss, Adam; and the discriminators' part of an
encoder step (Eq. 11). There is no second way to compute these values, so none are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from measurement import Measurement, alternate
from torch import Tensor

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.losses import domain_risks, hardest_negatives, triplet_ranking_loss
from crossmodal_bench.methods import ADDR
from crossmodal_bench.methods.addr.discriminators import DiscriminatorBank
from crossmodal_bench.methods.hosts import SCAN

BATCH, REGIONS, CAPTIONS, WORDS, FEATURES, VOCABULARY = 128, 36, 5, 15, 2048, 8481
TINY = {"rows": 16, "dim": 8, "batch": 4, "repeats": 1}


def resident_mb() -> float:
    """Current memory use of this process, in MiB (Linux)."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * 4096 / 2**20


def seconds(step: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Prepared:
    """A bank and its timed steps.

    Attributes:
        steps: by name.
        bank_bytes: size of the bank.
        allocated: seconds to allocate it.
        used_mb: memory after all rows have been trained.
    """

    steps: dict[str, Callable[[], object]]
    bank_bytes: int
    allocated: float
    used_mb: float


def prepare(rows: int, dim: int, batch: int = BATCH) -> Prepared:
    """A bank of ``rows`` discriminators, all trained once, and the steps that use it."""
    torch.manual_seed(0)
    before = resident_mb()
    start = time.perf_counter()
    bank = DiscriminatorBank(rows, dim)
    allocated = time.perf_counter() - start
    for some in torch.arange(rows).split(512):
        bank.step(some, torch.ones(len(some), dim + 1), 1e-3)
    used = resident_mb() - before

    host = SCAN(dim)
    host.build(DataSpec(rows, CAPTIONS * rows, region_dim=FEATURES, vocabulary_size=VOCABULARY))
    adam = torch.optim.Adam(host.parameters(), 1e-3)
    index = torch.arange(batch)
    images = ImageBatch(index, regions=torch.randn(batch, REGIONS, FEATURES))
    texts = TextBatch(
        index,
        index,
        words=torch.randint(4, VOCABULARY, (batch, WORDS)),
        lengths=torch.full((batch,), WORDS),
    )

    def scan_step() -> None:
        scores = host.score(host.images(images).scored, host.texts(texts).scored)
        triplet_ranking_loss(scores).backward()
        torch.nn.utils.clip_grad_norm_(host.parameters(), 2.0)
        adam.step()
        adam.zero_grad()

    method = ADDR(host)
    regions = torch.nn.functional.normalize(torch.randn(batch, REGIONS, dim), dim=2)
    words = torch.nn.functional.normalize(torch.randn(batch * CAPTIONS * WORDS, dim), dim=1)
    said = Encoding(words, torch.full((batch,), CAPTIONS * WORDS))
    with torch.no_grad():
        q, r = hardest_negatives(host.score(host.images(images).scored, host.texts(texts).scored))
    hub = torch.zeros(batch, dtype=torch.int64)

    def discriminator_step(q: Tensor = q, r: Tensor = r) -> None:
        chosen = torch.randperm(rows)[:batch]
        drawn = bank.gather(chosen).requires_grad_()
        loss, _ = method.discriminators_loss(Encoding(regions), said, drawn, q, r)
        bank.step(chosen, torch.autograd.grad(loss, drawn)[0], 1e-3)

    seen = regions.clone().requires_grad_()
    one_caption = words[: batch * WORDS].clone().requires_grad_()
    one_length = torch.full((batch,), WORDS)

    def adversary() -> Tensor:
        own = bank.gather(index)
        risks = domain_risks(seen, one_caption, one_length, own[:, None, :-1], own[:, None, -1])
        return torch.autograd.grad(risks.sum(), (seen, one_caption))[0]

    steps: dict[str, Callable[[], object]] = {
        "scan": scan_step,
        "discriminators": discriminator_step,
        "hub": lambda: discriminator_step(hub, hub),
        "adversary": adversary,
    }
    return Prepared(steps, DiscriminatorBank.size(rows, dim), allocated, used)


def measure(rows: int = 2000, dim: int = 256, batch: int = BATCH, repeats: int = 2) -> list[Measurement]:
    """ADDR's two parts and the SCAN step that they are added to: not two ways to the same result."""
    steps = prepare(rows, dim, batch).steps
    names = {"discriminators": "their own step", "adversary": "their part of an encoder step"}
    return [
        Measurement(
            f"discriminators of ADDR, {dim} wide, {text}",
            *alternate(steps["scan"], steps[name], repeats),
            note="plain: the step of SCAN that it is added to",
        )
        for name, text in names.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=113_287)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    if options.rows < BATCH or options.repeats < 2:
        parser.error(f"--rows must be at least {BATCH} and --repeats at least 2")
    prepared = prepare(options.rows, options.dim)
    steps = prepared.steps
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeats):
        for name, step in steps.items():
            times[name].append(seconds(step))
    median = {name: statistics.median(found) for name, found in times.items()}
    share = {
        name: statistics.median(100 * a / b for a, b in zip(found, times["scan"], strict=True))
        for name, found in times.items()
    }
    print(f"{options.rows} discriminators of {options.dim}: {prepared.bank_bytes / 1e9:.2f} GB")
    print(f"  allocated in                  {prepared.allocated:8.2f} s")
    print(f"  memory after training all     {prepared.used_mb * 2**20 / 1e9:8.2f} GB")
    print(f"{BATCH} pairs, medians of {options.repeats}")
    print(f"  SCAN step                     {1000 * median['scan']:8.1f} ms")
    for name, text in (
        ("discriminators", "discriminators' step         "),
        ("hub", "the same, one pair all others'"),
        ("adversary", "their part of an encoder step"),
    ):
        print(f"  {text} {1000 * median[name]:8.1f} ms   {share[name]:.1f} % of SCAN's")


if __name__ == "__main__":
    main()
