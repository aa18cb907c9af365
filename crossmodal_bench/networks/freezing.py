"""Pre-trained networks that stay frozen for a while, or for good."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from crossmodal_bench.core.host import HostNumber

Freeze = Literal["never", "until_plateau", "always"]


class Freezable(nn.Module):
    """A network that runs without gradients and in eval mode while it is frozen.

    DDP never reduces a parameter that has ``requires_grad=False`` when it is wrapped, even if it is unfrozen
    later: replicas would drift apart. So parameters to be unfrozen keep ``requires_grad=True`` and stay in
    their optimiser, which skips those without a gradient. The frozen state is kept in a buffer, so that
    checkpoints restore it.

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
        """Train it from now on; no effect on a network that is frozen for good."""
        if self.freeze == "until_plateau":
            self.frozen.fill_(False)

    def keep_batch_statistics(self) -> None:
        """Let batch norms keep using the running statistics they were loaded with, even in training.

        Their scales and shifts are trained like everything else.
        """
        self._keeps_statistics = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output; while frozen, without dropout and without new batch statistics."""
        frozen = bool(self._is_frozen.of(self.frozen))
        # Pre-trained networks come in eval mode, and Lightning preserves the mode of modules.
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
