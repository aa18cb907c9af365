"""Batches in an order that depends only on (seed, epoch), however often a run was killed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from crossmodal_bench.core.errors import BadInput

Phase = Literal["pairs", "groups"]
"""What a part of an epoch trains on: image-caption pairs, or images with all their captions."""


def outlive_signals(worker: int = 0) -> None:
    """Keep a loader process alive while the training process saves a checkpoint.

    A cluster sends its signals to all processes of a job; a loader killed by one would fail the training.
    """
    for name in ("SIGUSR1", "SIGUSR2", "SIGINT"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # A failing training process stops its loaders with SIGTERM, and waits for them.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(30))


class BatchRows(NamedTuple):
    """The rows of a batch, and the epoch that seeds its random choices."""

    epoch: int
    rows: NDArray[np.int64]
    phase: Phase = "pairs"


class BatchOrder(Sampler[BatchRows]):
    """Batches of row positions 0..n-1 for one rank.

    Training shuffles by (seed, epoch) and drops a last batch of one item (no loss here is defined on a single
    pair). Every rank yields the same number of batches: the order is padded by wrapping around to a multiple
    of the world size, and rank r takes positions r, r + world, ... Evaluation removes the duplicates from
    padding by id.

    Args:
        n: number of rows.
        batch_size: rows per batch.
        shuffle: whether this is training.
        seed: for the shuffling.
        rank, world_size: which process this is, and of how many.
        once: every row exactly once, whatever the world size: batches of almost equal size.
        limit: yield at most this many batches (to time a few).
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        once: bool = False,
        limit: int | None = None,
    ) -> None:
        self.n = n
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.once = once
        self.limit = limit
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.whole if self.limit is None else min(self.whole, self.limit)

    @property
    def whole(self) -> int:
        """The number of batches without ``limit``."""
        rows_per_rank = -(-self.n // self.world_size)
        batches, rest = divmod(rows_per_rank, self.batch_size)
        if self.once:
            return min(batches + (rest > 0), self.n // self.world_size)
        return batches + (rest > 1 or (rest == 1 and (not self.shuffle or batches == 0)))

    def __iter__(self) -> Iterator[BatchRows]:
        order = np.arange(self.n)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n)
        start, self.start = self.start, 0
        if self.once:
            batches = np.array_split(order[self.rank :: self.world_size], max(self.whole, 1))
            for rows in batches[start : len(self)]:
                yield BatchRows(self.epoch, rows)
            return
        order = np.resize(order, -(-self.n // self.world_size) * self.world_size)[
            self.rank :: self.world_size
        ]
        for batch in range(start, len(self)):
            yield BatchRows(self.epoch, order[batch * self.batch_size : (batch + 1) * self.batch_size])


class PhaseOrder(Sampler[BatchRows]):
    """The batches of several orders, one order after the other in every epoch.

    Args:
        orders: an order for each phase, in sequence.
    """

    def __init__(self, orders: Mapping[Phase, BatchOrder]) -> None:
        self.orders = dict(orders)
        first = next(iter(self.orders.values()))
        self.seed = first.seed
        self.world_size = first.world_size
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        for order in self.orders.values():
            order.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(map(len, self.orders.values()))

    def __iter__(self) -> Iterator[BatchRows]:
        skip, self.start = self.start, 0
        for phase, order in self.orders.items():
            order.start = min(skip, len(order))
            skip -= order.start
            for batch in order:
                yield batch._replace(phase=phase)


class BatchLoader(DataLoader[Any]):
    """A DataLoader whose data set makes whole batches, and which can resume in the middle of an epoch.

    Lightning saves ``state_dict`` in checkpoints and restores it; without it, a resumed epoch would restart
    from its first batch.

    Args:
        dataset: returns a whole batch for a BatchRows.
        order: which batches, and in which order.
        num_workers: processes that make batches; 0: the training process itself.
        pin_memory: whether batches go to page-locked memory, for faster copies to a GPU.

    Attributes:
        ahead: called with each batch and its successor, right before the former is yielded, so that data for
            the latter can be fetched during the step.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        order: BatchOrder | PhaseOrder,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        # Its own generator: the default would draw a number from the global one in every epoch.
        super().__init__(
            dataset,
            batch_size=None,
            sampler=order,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=outlive_signals,
            generator=torch.Generator().manual_seed(order.seed),
        )
        self.order = order
        self.done = 0
        self.ahead: Callable[[Any, Any], None] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.done = self.order.start
        batches: Iterator[Any] = super().__iter__()
        if self.ahead is not None:
            batches = self._looking_ahead(batches)
        for batch in batches:
            self.done += 1
            yield batch

    def _looking_ahead(self, batches: Iterator[Any]) -> Iterator[Any]:
        assert self.ahead is not None
        for batch, following in pairwise(chain(batches, [None])):
            if following is not None:
                self.ahead(batch, following)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The number of batches yielded in this epoch, out of how many, and the number of processes."""
        return {"done": self.done, "batches": len(self.order), "world_size": self.order.world_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume after those batches; a finished epoch resumes at the first batch of the next one.

        Raises:
            BadInput: in mid-epoch with another number of processes: their batches differ, so some rows would
                be trained on twice and some not at all.
        """
        world_size = self.order.world_size
        saved_on = state.get("world_size", world_size)
        position = state["done"] % state.get("batches", len(self.order))
        if position and saved_on != world_size:
            raise BadInput(
                f"the checkpoint was saved in the middle of an epoch on {saved_on} processes, but this run "
                f"has {world_size}; resume on {saved_on}, or from a checkpoint saved at the end of an epoch"
            )
        self.order.start = position


class Batches:
    """The batches of a loader, as a plain iterable.

    For ``predict``, where Lightning would rebuild a DataLoader with a sampler of single items.

    Args:
        loader: makes the batches.
    """

    def __init__(self, loader: BatchLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)
