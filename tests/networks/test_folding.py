"""Folded batch norms: the same function, without the norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crossmodal_bench.networks.folding import fold_batch_norms


class Branching(nn.Module):
    """Cannot be followed as a whole, its two parts can; one of them is registered twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6, affine=False))
        self.again = nn.ModuleList([self.first])
        self.calls = 0
        self.seen: Any = None

    def forward(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        self.seen = pixels
        if pixels.mean() > 1e6:
            return pixels
        found: Tensor = self.second(self.first(pixels))
        return found


class Twice(nn.Module):
    """A convolution that two read, and a norm behind two convolutions: neither may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.other = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.last = nn.BatchNorm2d(3)

    def forward(self, pixels: Tensor) -> Tensor:
        first = self.convolution(pixels)
        both = self.last(self.other(first)) + self.last(self.other(pixels))
        found: Tensor = self.norm(self.norm(first) + both + first)
        return found


def with_statistics(network: nn.Module) -> nn.Module:
    """The network in eval mode, its norms with statistics and weights that matter."""
    generator = torch.Generator().manual_seed(0)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.2, 3, generator=generator)
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 2, generator=generator)
            nn.init.normal_(norm.bias, generator=generator)
    return network.eval()


def norms(network: nn.Module) -> int:
    """How many batch norms there are."""
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@torch.inference_mode()
def test_a_folded_network_gives_the_same_without_its_norms() -> None:
    network = with_statistics(Branching())
    pixels = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    plain = network(pixels)
    fold_batch_norms(network)
    assert norms(network) == 0 and norms(network.again) == 0  # type: ignore[arg-type]
    assert network.calls == 1 and network.seen is pixels, "it was not called, nor what it keeps replaced"
    torch.testing.assert_close(network(pixels), plain, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_what_has_other_readers_or_inputs_is_left_as_it_is() -> None:
    network = with_statistics(Twice())
    pixels = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    plain = network(pixels)
    fold_batch_norms(network)
    # The convolution `other` is called twice, and `last` reads it alone, both times.
    assert isinstance(network.norm, nn.BatchNorm2d) and isinstance(network.last, nn.Identity)
    torch.testing.assert_close(network(pixels), plain, rtol=1e-5, atol=1e-6)
