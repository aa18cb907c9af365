"""Speed of TIMAM's identification loss over thousands of identities, full and sampled.

    python benchmarks/identification.py [--batch 128] [--identities 6993] [--dim 256] [--sampled 512]

Loss and gradients of both modalities, and Adam's step on the class weights. Sampling is an option that is off
by default, and computes a different loss: some identities stand for all in the softmax's denominator. With
all of them drawn the two are equal, which is asserted to 1e-5.
"""

from __future__ import annotations

import argparse

import torch
from measurement import Measurement, alternate, print_table

from crossmodal_bench.losses import SampledClasses, norm_softmax_loss, sampled_norm_softmax_loss

TINY = {"batch": 4, "identities": 20, "dim": 8, "sampled": 8, "repeats": 1}


def measure(
    batch: int = 128, identities: int = 6993, dim: int = 256, sampled: int = 512, repeats: int = 5
) -> list[Measurement]:
    """A step each way, including the optimiser."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(dim, identities)
    features = torch.randn(2 * batch, dim, requires_grad=True)
    who = torch.randint(identities, (batch,)).repeat(2)
    adam = torch.optim.Adam(layer.parameters(), 1e-5, weight_decay=4e-4, fused=True)
    whole = norm_softmax_loss(features, layer.weight, layer.bias, who)
    drawn = SampledClasses.draw(who, identities, identities)
    torch.testing.assert_close(
        sampled_norm_softmax_loss(features, layer.weight, layer.bias, drawn), whole, rtol=1e-5, atol=0
    )

    def step(some: bool) -> None:
        if some:
            drawn = SampledClasses.draw(who, identities, sampled)
            loss = sampled_norm_softmax_loss(features, layer.weight, layer.bias, drawn)
        else:
            loss = norm_softmax_loss(features, layer.weight, layer.bias, who)
        loss.backward()
        adam.step()
        adam.zero_grad()

    seconds = alternate(lambda: step(some=False), lambda: step(some=True), repeats)
    with torch.no_grad():
        draws = [SampledClasses.draw(who, identities, sampled) for _ in range(20)]
        losses = [
            float(sampled_norm_softmax_loss(features, layer.weight, layer.bias, draw)) for draw in draws
        ]
        whole = norm_softmax_loss(features, layer.weight, layer.bias, who)
    difference = sum(losses) / len(losses) / float(whole) - 1
    return [
        Measurement(
            f"identities, {2 * batch} x {identities:,} x {dim}, {sampled} sampled",
            *seconds,
            note=f"an option; the mean of 20 losses is {100 * difference:+.2f} % off the full one",
        )
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128, help="pairs")
    parser.add_argument("--identities", type=int, default=6993)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--sampled", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    print_table(measure(options.batch, options.identities, options.dim, options.sampled, options.repeats))


if __name__ == "__main__":
    main()
