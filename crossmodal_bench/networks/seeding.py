"""Random weights that are the same everywhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A network with random weights that are the same everywhere; the global generator is left as it is."""
    torch_state = torch.random.get_rng_state()
    # Not torch.manual_seed: that would reset the accelerator's generators too, for every seed alike.
    torch.default_generator.manual_seed(0)
    network = make()
    torch.random.set_rng_state(torch_state)
    return network
