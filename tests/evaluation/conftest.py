"""Several processes in one: threads that sum with each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Work = Callable[[int, Callable[[Tensor], Tensor]], Any]


@pytest.fixture
def in_processes() -> Callable[[int, Work], list[Any]]:
    """Runs ``work(rank, reduce)`` in threads whose ``reduce`` sums across all of them; results by rank."""
    return _in_threads


def _in_threads(world_size: int, work: Work) -> list[Any]:
    barrier = threading.Barrier(world_size)
    slots: list[Tensor | None] = [None] * world_size
    results: dict[int, Any] = {}
    errors: dict[int, Exception] = {}

    def run(rank: int) -> None:
        def reduce(tensor: Tensor) -> Tensor:
            slots[rank] = tensor.clone()
            barrier.wait(100)
            summed = torch.stack([slot for slot in slots if slot is not None]).sum(0)
            barrier.wait(100)
            return summed

        try:
            results[rank] = work(rank, reduce)
        except Exception as error:
            errors[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        assert len(errors) == world_size, f"only some processes failed: {errors}"
        raise errors[0]
    return [results[rank] for rank in range(world_size)]
