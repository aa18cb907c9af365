"""What the host knows about a step without waiting for the device that computes it.

A GPU works through a queue that the host fills. Reading a value back makes the host wait until the queue is
empty, and then the GPU idles until it is refilled. So lengths and row numbers stay in host memory and are
copied to the device where needed, and scalars that drive a schedule are remembered here.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WAITING = ("cpu", "mps")
"""Devices without asynchronous copies; on Apple's, they would let it read memory that is not there yet."""


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, without waiting for the copy; the tensor itself if it is already there."""
    return tensor.to(device, non_blocking=device.type not in _WAITING)


def unpadded_positions(lengths: Tensor, width: int) -> Tensor:
    """(sum of lengths,) positions of the real items among (B, width) padded ones, row by row; on the host.

    Args:
        lengths: (B,) number of real items at the start of each row; on the host.
        width: padded length of a row.
    """
    return (torch.arange(width) < lengths[:, None]).flatten().nonzero().flatten()


class HostNumber:
    """The number in a buffer, remembered on the host until other code writes to the buffer.

    The buffer is what checkpoints store and processes share; it is read back only after it was replaced or
    written to (a checkpoint was loaded, a module was moved).
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None
        self._version = -1
        self._value: float = 0

    def of(self, buffer: Tensor) -> float:
        """What the buffer () holds."""
        if buffer.is_inference():
            return float(buffer)
        if buffer is not self._buffer or buffer._version != self._version:
            self._remember(buffer, buffer.item())
        return self._value

    def set(self, buffer: Tensor, value: float) -> None:
        """Write to the buffer."""
        buffer.fill_(value)
        self._remember(buffer, value)

    def _remember(self, buffer: Tensor, value: float) -> None:
        self._buffer, self._value = buffer, value
        self._version = buffer._version
