"""Checksums that identify a network's weights."""

from __future__ import annotations

import hashlib

from torch import nn


def parameter_checksum(network: nn.Module, *further: bytes) -> str:
    """16 hex digits of a network's parameters and statistics, with their names, and of any further bytes."""
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    for part in further:
        digest.update(part)
    return digest.hexdigest()[:16]
