"""Whether ADDR's discriminators can learn: their risk after training, under two readings of the paper.

    python benchmarks/discriminator_learning.py

Every pair has its own logistic discriminator of regions and words. Section V-A5 gives them the encoders'
learning rate, which drops to a fifth every 8,000 steps of the encoders, and in Algorithm 1 each sees its pair
once per epoch. Here the encoders are frozen, and a pair's regions and words are on two sides of a hyperplane,
far apart, like two modalities that nobody has tried to align: the easiest case to learn. Numbers of epochs,
rates, schedules and the weight of L_reg are read from the experiment files; q and r are random pairs.

A risk of 2 log 2 = 1.386 is that of an uninformed discriminator; 0 is perfect.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.jobs import experiments
from crossmodal_bench.methods import ADDR, DecaySettings, PairDiscriminatorSettings
from crossmodal_bench.methods.addr.discriminators import DiscriminatorBank
from crossmodal_bench.methods.hosts import SCAN

PAIRS, REGIONS, WORDS, CAPTIONS = 32, 36, 12, 5
IMAGES = {"flickr30k": 29_000, "coco": 113_287}
CONSTANT = DecaySettings()
READINGS = {
    "as printed": PairDiscriminatorSettings(),
    "5 passes": PairDiscriminatorSettings(passes=5),
    "constant rate": PairDiscriminatorSettings(schedule=CONSTANT),
    "both": PairDiscriminatorSettings(passes=5, schedule=CONSTANT),
}


def features(dim: int, separation: float, seed: int = 0) -> tuple[Encoding, Encoding]:
    """Unit-length regions (PAIRS, REGIONS, dim) and all words of each pair, packed.

    Args:
        dim: dimension of the features.
        separation: distance of the two modalities' centres, in standard deviations of either.
        seed: seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    centre = torch.nn.functional.normalize(torch.randn(PAIRS, 1, dim, generator=generator), dim=2)
    # The deviation along any one direction is 1 before the vectors are normalised.
    offset = 0.5 * separation * centre
    regions = torch.randn(PAIRS, REGIONS, dim, generator=generator) + offset
    words = torch.randn(PAIRS, CAPTIONS * WORDS, dim, generator=generator) - offset
    unit = torch.nn.functional.normalize
    lengths = torch.full((PAIRS,), CAPTIONS * WORDS)
    return Encoding(unit(regions, dim=2)), Encoding(unit(words, dim=2).flatten(0, 1), lengths)


def final_risk(
    method: str, dataset: str, reading: PairDiscriminatorSettings, separation: float
) -> tuple[float, int]:
    """The mean risk of the pairs' own discriminators after the last epoch, and the steps of each."""
    config = experiments.resolve(method, dataset, {}, "paper", {}, Path("data"))
    arguments = config["model"]["init_args"]
    dim = int(arguments["host"]["init_args"]["dim"])
    rate = float(arguments["optimizer"]["learning_rate"])
    literal = DecaySettings(**arguments["schedule"])
    settings = replace(reading, beta1=float(arguments["discriminator"]["beta1"]))
    model = ADDR(SCAN(), gamma=float(arguments["gamma"]), alpha=float(arguments["alpha"]))
    regions, words = features(dim, separation)
    bank = DiscriminatorBank(PAIRS, dim, settings.betas)
    epochs = int(config["trainer"]["max_epochs"])
    steps_per_epoch = CAPTIONS * IMAGES[dataset] // int(config["data"]["batch_size"])
    index = torch.arange(PAIRS)
    generator = torch.Generator().manual_seed(1)
    for epoch in range(epochs):
        shift = int(torch.randint(1, PAIRS, (1,), generator=generator))
        q, r = (index + shift) % PAIRS, (index - shift) % PAIRS
        now = (settings.schedule or literal).rate(rate, epoch, epoch * steps_per_epoch)
        for _ in range(settings.passes):
            rows = bank.gather(index).requires_grad_()
            loss, _ = model.discriminators_loss(regions, words, rows, q, r)
            bank.step(index, torch.autograd.grad(loss, rows)[0], now)
    with torch.no_grad():
        _, logged = model.discriminators_loss(regions, words, bank.gather(index), index, index)
    return float(logged["train/risk_own"]), epochs * settings.passes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text = "between the modalities' centres, in deviations (80)"
    parser.add_argument("--separation", type=float, default=80.0, help=text)
    options = parser.parse_args()
    print("| host | data set | epochs | " + " | ".join(READINGS) + " |")
    print("|---|---|---|" + "---|" * len(READINGS))
    for dataset in ("coco", "flickr30k"):
        for method in ("addr_scan", "addr_bfan", "addr_vsrn"):
            risks = {
                name: final_risk(method, dataset, reading, options.separation)
                for name, reading in READINGS.items()
            }
            epochs = risks["as printed"][1]
            row = " | ".join(f"{risk:.3f}" for risk, _ in risks.values())
            print(f"| {method} | {dataset} | {epochs} | {row} |", flush=True)


if __name__ == "__main__":
    main()
