"""What methods without a stage of frozen networks ask of encoders that are given to them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from crossmodal_bench.networks import Freezable, ImageEncoder, TextEncoder


def check_never_unfrozen(encoders: Mapping[str, ImageEncoder | TextEncoder | None]) -> None:
    """Raise ValueError for an encoder that waits to be unfrozen, by a method that unfreezes nothing.

    Args:
        encoders: by the names of the arguments that they were given as; None where none was.
    """
    for name, encoder in encoders.items():
        if encoder is not None and encoder.freeze == "until_plateau":
            raise ValueError(
                f"{name}.freeze is 'until_plateau', but this method unfreezes nothing later; set it to "
                "'never' or 'always'"
            )


def own_matrices(encoder: nn.Module) -> list[Tensor]:
    """An encoder's weight matrices, but for those of pre-trained networks and for tables of word vectors."""
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
