"""Pre-trained networks that stay as they are for a while, or for good."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from crossmodal_bench.core.host import HostNumber

Freeze = Literal["never", "until_plateau", "always"]


class Freezable(nn.Module):
    """A network that is evaluated without gradient and in eval mode while it is frozen.

    Under DDP a parameter that has ``requires_grad=False`` when it is wrapped is never reduced, also not when
    it is unfrozen later: replicas would drift apart. So parameters to be unfrozen keep
    ``requires_grad=True`` and stay in their optimiser, which skips what has no gradient. Whether it is frozen
    lies in a buffer, so that a checkpoint restores it.

    Args:
        network: any module.
        freeze: ``never``, ``until_plateau`` (a method's schedule calls ``unfreeze``), or ``always``.
    """

    frozen: Tensor

    def __init__(self, network: nn.Module, freeze: Freeze) -> None:
        super().__init__()
        self.network, self.freeze = network, freeze
        self._keeps_statistics = False
        self._is_frozen = HostNumber()
        self.register_buffer("frozen", torch.tensor(freeze != "never"))
        if freeze == "always":
            network.requires_grad_(False)

    def unfreeze(self) -> None:
        """Train it from now on; nothing happens to one that is frozen for good."""
        if self.freeze == "until_plateau":
            self.frozen.fill_(False)

    def keep_batch_statistics(self) -> None:
        """Let batch norms normalise by the running statistics that they came with, also in training.

        Their scales and shifts are trained as all else is.
        """
        self._keeps_statistics = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Whatever the network returns; frozen, without dropout and without new batch statistics."""
        frozen = bool(self._is_frozen.of(self.frozen))
        # Pre-trained networks come in eval mode, and Lightning keeps modules in the mode that it finds.
        if self.network.training != (self.training and not frozen):
            self.network.train(self.training and not frozen)
        if self._keeps_statistics:
            for module in self.network.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        if not frozen:
            return self.network(*args, **kwargs)
        with torch.no_grad():
            return self.network(*args, **kwargs)
