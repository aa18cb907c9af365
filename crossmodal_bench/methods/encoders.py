"""Helpers for methods whose encoders stay frozen or trainable throughout."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from crossmodal_bench.networks import Freezable, ImageEncoder, TextEncoder


def check_never_unfrozen(encoders: Mapping[str, ImageEncoder | TextEncoder | None]) -> None:
    """Raise ValueError for an encoder that is to be unfrozen later, in a method that never unfreezes.

    Args:
        encoders: by argument name; None for those that were not given.
    """
    for name, encoder in encoders.items():
        if encoder is not None and encoder.freeze == "until_plateau":
            raise ValueError(
                f"{name}.freeze is 'until_plateau', but this method never unfreezes an encoder; set it to "
                "'never' or 'always'"
            )


def own_matrices(encoder: nn.Module) -> list[Tensor]:
    """An encoder's weight matrices, except those of pre-trained networks and word embeddings."""
    left_out = {
        id(parameter)
        for module in encoder.modules()
        if isinstance(module, Freezable | nn.Embedding)
        for parameter in module.parameters()
    }
    return [
        parameter
        for parameter in encoder.parameters()
        if parameter.ndim == 2 and id(parameter) not in left_out
    ]
