"""Random weights that are the same on every machine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A network with random weights that are always the same; the global generator is left unchanged."""
    torch_state = torch.random.get_rng_state()
    # Not torch.manual_seed, which would also reset the accelerators' generators, whatever the run's seed.
    torch.default_generator.manual_seed(0)
    network = make()
    torch.random.set_rng_state(torch_state)
    return network
