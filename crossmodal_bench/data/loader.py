"""Batches in an order that depends on (seed, epoch) alone, however often a run was killed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler


class BatchRows(NamedTuple):
    """Which rows make a batch, and the epoch that random choices inside it derive from."""

    epoch: int
    rows: NDArray[np.int64]


class BatchOrder(Sampler[BatchRows]):
    """Batches of row positions 0..n-1 for one rank.

    Training shuffles by (seed, epoch) and drops a last batch of one item (no loss here is defined on a single
    pair). Every rank yields the same number of batches: the order is padded by wrapping around to a multiple
    of the world size and rank r takes positions r, r + world, ... Evaluation drops what padding repeats by
    id.
    """

    def __init__(
        self, n: int, batch_size: int, *, shuffle: bool, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.n, self.batch_size, self.shuffle, self.seed = n, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        mine = -(-self.n // self.world_size)
        batches, rest = divmod(mine, self.batch_size)
        return batches + (rest > 1 or (rest == 1 and (not self.shuffle or batches == 0)))

    def __iter__(self) -> Iterator[BatchRows]:
        order = np.arange(self.n)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n)
        order = np.resize(order, -(-self.n // self.world_size) * self.world_size)[
            self.rank :: self.world_size
        ]
        start, self.start = self.start, 0
        for batch in range(start, len(self)):
            yield BatchRows(self.epoch, order[batch * self.batch_size : (batch + 1) * self.batch_size])


class BatchLoader(DataLoader[Any]):
    """A DataLoader whose data set makes whole batches, and which can go on in the middle of an epoch.

    Lightning saves ``state_dict`` in checkpoints and restores it; without it, a resumed epoch would start
    over at its first batch.
    """

    def __init__(
        self, dataset: Dataset[Any], order: BatchOrder, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        # A generator of its own: the default would draw a number from the global one at every epoch.
        super().__init__(
            dataset,
            batch_size=None,
            sampler=order,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            generator=torch.Generator().manual_seed(order.seed),
        )
        self.order = order
        self.done = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.done = self.order.start
        for batch in super().__iter__():
            self.done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch have been handed out."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind those batches; a finished epoch goes on at the next one's first batch."""
        self.order.start = state["done"] % len(self.order)
