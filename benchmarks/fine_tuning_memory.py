"""The memory needed for fine-tuning: activations of an image network, and ADDR's discriminators.

    python benchmarks/fine_tuning_memory.py

Nothing is computed: the forward pass runs on tensors without content, and what autograd saves for the
backward pass is counted, each buffer once and excluding parameters. Workspace, gradients and optimiser come
on top. Micro-batches (``fine_tuning.micro_batch_size``) only keep the activations of one of them. A bank of
discriminators consists of its parameters, both moments of Adam and a step counter, in single precision.
"""

from __future__ import annotations

import argparse

import torch
import torchvision
from torch import Tensor, nn

from crossmodal_bench.methods.addr.discriminators import DiscriminatorBank

IMAGES = 113_287
"""Training images of MS-COCO in Karpathy's split, restval included."""
WIDTHS = {"SCAN and BFAN": 1024, "VSRN": 2048}


def saved_bytes(network: nn.Module, pixels: Tensor) -> int:
    """Bytes that autograd saves in a forward pass in training mode, excluding the parameters."""
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            # The address of a freed storage may be reused.
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.train()(pixels)
    return sum(kept.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet152")
    parser.add_argument("--size", type=int, default=224, help="side length in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 64, 32])
    arguments = parser.parse_args()
    with torch.device("meta"):
        network = torchvision.models.get_model(arguments.network, weights=None)
        for batch in arguments.batches:
            size = saved_bytes(network, torch.empty(batch, 3, arguments.size, arguments.size))
            print(f"{arguments.network}, {batch} pictures: {size / 2**30:.2f} GiB of activations")
    for hosts, dim in WIDTHS.items():
        size = DiscriminatorBank.size(IMAGES, dim)
        print(f"discriminators of {IMAGES:,} images, {dim:,} wide ({hosts}): {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
