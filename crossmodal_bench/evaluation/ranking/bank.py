"""Encodings of one modality, collected batch by batch on any number of processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from crossmodal_bench.core.encoding import Encoding


class RetrievalBank(Metric):
    """Holds the encodings of ``expected`` items, on the CPU, until all of them can be ranked together.

    Ids are stored with the encodings because a distributed sampler pads by repeating items; ``gathered``
    drops the duplicates and rejects an incomplete gallery (a sanity check, ``limit_val_batches``).
    """

    full_state_update = False
    is_differentiable = False

    indices: list[Tensor]
    values: list[Tensor]
    lengths: list[Tensor]

    def __init__(self, expected: int, **kwargs: Any) -> None:
        if expected < 1:
            raise ValueError(f"a bank expects at least one item, got {expected}")
        super().__init__(dist_sync_fn=_gather, **kwargs)
        self.expected = expected
        for name in ("indices", "values", "lengths"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, indices: Tensor, encoding: Encoding) -> None:
        """Add items: ``indices`` (B,) in range(expected) and their encodings.

        Raises ValueError for mismatched counts, an index out of range, or a mix of ragged and fixed size.
        """
        indices = indices.detach().cpu().long().flatten()
        if len(indices) != len(encoding):
            raise ValueError(f"{len(indices)} indices for {len(encoding)} encoded items")
        if not len(indices):
            return
        if indices.min() < 0 or indices.max() >= self.expected:
            raise ValueError(
                f"indices from {indices.min()} to {indices.max()} are not all in range({self.expected})"
            )
        if self.indices and bool(self.lengths) != (encoding.lengths is not None):
            raise ValueError("a bank holds either ragged or fixed-size encodings, not both")
        self.indices.append(indices)
        # A clone: the batch may be a view of something larger, or of memory that the next batch reuses.
        self.values.append(encoding.values.detach().cpu().clone())
        if encoding.lengths is not None:
            self.lengths.append(encoding.lengths.detach().cpu().long())

    def compute(self) -> Tensor:
        """The number of distinct items that have arrived, over all processes."""
        return torch.tensor(len(torch.unique(_joined(self.indices))) if len(self.indices) else 0)

    def gathered(self) -> tuple[Tensor, Encoding]:
        """All processes' items, each once, by index: ((expected,) ids, their encoding on the CPU).

        Must be called on every process or none. Raises ValueError, on every process, if any item is missing.
        """
        with self.sync_context(dist_sync_fn=_gather):
            held = [_joined(state) for state in (self.indices, self.values, self.lengths)]
        ids, values, lengths = held
        ids = ids.long()
        order = torch.argsort(ids, stable=True)
        ordered = ids[order]
        first = torch.ones(len(ordered), dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        unique = ordered[first]
        if len(unique) != self.expected:
            present = torch.zeros(self.expected, dtype=torch.bool)
            present[unique] = True
            gap = int(torch.nonzero(~present)[0])
            raise ValueError(
                f"the gallery is incomplete: {len(unique)} of {self.expected} items were encoded, "
                f"item {gap} is the first missing"
            )
        encoding = Encoding(values, lengths.long() if len(lengths) else None)
        return unique, encoding.take(order[first])


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """A state as one CPU tensor, whether it is still a list or already synchronised into a tensor."""
    if isinstance(state, Tensor):
        return state.cpu()
    return torch.cat([part.cpu() for part in state]) if state else torch.zeros(0)


def _gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """Every process's tensor, on the CPU.

    Covers two cases that torchmetrics' own gathering doesn't: a process without items (its empty placeholder
    has the wrong shape and type), and CPU states under NCCL, which only moves GPU memory.
    """
    group = group if group is not None else torch.distributed.group.WORLD
    kinds: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(kinds, (len(tensor), tensor.shape[1:], tensor.dtype), group=group)
    kind = next((kind for kind in kinds if kind[0]), kinds[0])
    if not len(tensor):
        tensor = torch.zeros((0, *kind[1]), dtype=kind[2])
    on_gpu = torch.distributed.get_backend(group) == "nccl"
    parts = gather_all_tensors(tensor.cuda() if on_gpu else tensor.cpu(), group)
    return [part.cpu() for part in parts]
