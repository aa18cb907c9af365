"""The order of batches: a function of (seed, epoch), alike for every world size, and resumable anywhere."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.loader import BatchLoader, BatchOrder, BatchRows, PhaseOrder

SIZES = [(1, 4), (2, 2), (7, 3), (10, 3), (12, 4), (13, 4), (65, 64), (3, 64)]


def batches(order: BatchOrder, epoch: int = 0) -> list[list[int]]:
    order.set_epoch(epoch)
    return [batch.rows.tolist() for batch in order]


def joined(parts: Iterable[Iterable[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


class Echo(Dataset[Any]):
    """Gives back which batch it was asked for."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, batch: BatchRows) -> Tensor:
        return torch.tensor([batch.epoch, *batch.rows.tolist()])


def loader(n: int = 10, batch_size: int = 3, workers: int = 0, **order: Any) -> BatchLoader:
    return BatchLoader(
        Echo(n), BatchOrder(n, batch_size, **{"shuffle": True, "seed": 5, **order}), num_workers=workers
    )


# ---- one process ------------------------------------------------------------------------------------------


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    def made(seed: int, epoch: int) -> list[list[int]]:
        np.random.seed(0)
        torch.manual_seed(epoch + 7 * seed)
        return batches(BatchOrder(50, 8, shuffle=True, seed=seed), epoch)

    table = {(seed, epoch): made(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)}
    for one, other in combinations(table, 2):
        assert table[one] != table[other]
    again = BatchOrder(50, 8, shuffle=True, seed=1)
    assert [batches(again, epoch) for epoch in (2, 0)] == [table[1, 2], table[1, 0]]


def test_making_batches_leaves_the_global_generators_alone() -> None:
    state = torch.random.get_rng_state()
    np.random.seed(11)
    expected = np.random.random()
    np.random.seed(11)
    list(loader())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.random.random() == expected


@pytest.mark.parametrize(("n", "batch_size"), SIZES)
def test_evaluation_goes_through_everything_in_order(n: int, batch_size: int) -> None:
    order = BatchOrder(n, batch_size, shuffle=False)
    found = batches(order, epoch=3)
    assert joined(found) == list(range(n))
    assert len(order) == len(found)
    assert all(len(batch) == batch_size for batch in found[:-1])


@pytest.mark.parametrize(("n", "batch_size"), SIZES)
def test_training_sees_everything_but_a_last_single_pair(n: int, batch_size: int) -> None:
    order = BatchOrder(n, batch_size, shuffle=True)
    found = batches(order)
    seen = joined(found)
    dropped = n > batch_size and n % batch_size == 1
    assert len(order) == len(found)
    assert len(seen) == len(set(seen)) == n - dropped
    assert not dropped or all(len(batch) > 1 for batch in found)


def test_the_pair_that_is_dropped_is_another_one_each_epoch() -> None:
    order = BatchOrder(9, 4, shuffle=True)
    missing = {(set(range(9)) - set(joined(batches(order, epoch)))).pop() for epoch in range(20)}
    assert len(missing) > 3


# ---- ranks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize(("n", "batch_size"), SIZES)
@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_have_equal_numbers_of_batches_and_cover_everything(
    n: int, batch_size: int, world: int, shuffle: bool
) -> None:
    orders = [
        BatchOrder(n, batch_size, shuffle=shuffle, seed=2, rank=rank, world_size=world)
        for rank in range(world)
    ]
    found = [batches(order, epoch=1) for order in orders]
    sizes = [[len(batch) for batch in mine] for mine in found]
    assert all(one == sizes[0] for one in sizes) and len(orders[0]) == len(sizes[0]) > 0
    seen = joined(joined(mine) for mine in found)
    per_rank = -(-n // world)
    dropped = shuffle and per_rank > batch_size and per_rank % batch_size == 1
    assert len(seen) == world * (per_rank - dropped)
    if not dropped:
        assert set(seen) == set(range(n))
        # Padding repeats no item more often than it must.
        assert max(np.bincount(seen)) <= -(-world * per_rank // n)


def test_ranks_share_one_shuffle() -> None:
    whole = joined(batches(BatchOrder(12, 12, shuffle=True, seed=4), epoch=2))
    parts = [
        joined(batches(BatchOrder(12, 6, shuffle=True, seed=4, rank=rank, world_size=2), epoch=2))
        for rank in (0, 1)
    ]
    assert [parts[i % 2][i // 2] for i in range(12)] == whole


# ---- going on ---------------------------------------------------------------------------------------------


def epoch_of(one: BatchLoader, epoch: int) -> list[list[int]]:
    one.order.set_epoch(epoch)
    return [batch.tolist() for batch in one]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_behind_the_batches_that_it_has_handed_out(workers: int) -> None:
    unbroken = loader(22, 3, workers)
    expected = [epoch_of(unbroken, epoch) for epoch in (0, 1)]
    assert [len(found) for found in expected] == [7, 7]

    broken = loader(22, 3, workers)
    assert epoch_of(broken, 0) == expected[0]
    broken.order.set_epoch(1)
    iterator = iter(broken)
    first = [next(iterator).tolist() for _ in range(3)]
    state = broken.state_dict()
    assert state["done"] == 3

    resumed = loader(22, 3, workers)
    resumed.load_state_dict(state)
    rest = epoch_of(resumed, 1)
    assert first + rest == expected[1]
    assert resumed.state_dict()["done"] == 7
    # What was left out is left out once only.
    assert epoch_of(resumed, 0) == expected[0]


def test_a_resumed_loader_that_is_broken_again_counts_from_the_epochs_start() -> None:
    resumed = loader(22, 3)
    resumed.load_state_dict({"done": 3})
    iterator = iter(resumed)
    next(iterator)
    next(iterator)
    assert resumed.state_dict()["done"] == 5


def test_a_state_at_the_end_of_an_epoch_goes_on_with_the_next_one() -> None:
    finished = loader()
    expected = epoch_of(finished, 0)
    state = finished.state_dict()
    assert state["done"] == len(expected) == len(finished)
    resumed = loader()
    resumed.load_state_dict(state)
    assert epoch_of(resumed, 1) == epoch_of(loader(), 1) != expected


def test_a_loader_knows_its_length() -> None:
    assert len(loader(10, 3)) == 3  # the tenth would be alone
    assert len(loader(11, 3)) == 4


class Recorder(pl.LightningModule):
    """Remembers the batches of its training and saves a checkpoint behind one of them."""

    def __init__(self, save_at: tuple[int, int] | None = None, path: Path | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.save_at, self.path = save_at, path
        self.seen: list[list[int]] = []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.seen.append([index, *batch.tolist()])
        loss: Tensor = self.layer(batch[1:2, None].float()).sum()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Tensor, index: int) -> None:
        if (self.current_epoch, index) == self.save_at:
            self.trainer.save_checkpoint(str(self.path))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(module: Recorder, checkpoint: Path | None = None) -> list[list[int]]:
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, loader(14, 3, seed=1), ckpt_path=checkpoint)
    return module.seen


@pytest.mark.parametrize("save_at", [(1, 0), (1, 2), (1, 4), (0, 3)])
def test_lightning_sets_the_epochs_and_goes_on_in_the_middle_of_one(
    tmp_path: Path, save_at: tuple[int, int]
) -> None:
    path = tmp_path / "last.ckpt"
    unbroken = fit(Recorder(save_at, path))
    assert [batch[1] for batch in unbroken] == [0] * 5 + [1] * 5 + [2] * 5
    epoch, index = save_at
    assert fit(Recorder(), path) == unbroken[epoch * 5 + index + 1 :]


# ---- phases -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize(("n", "batch_size"), [*SIZES[2:], (113, 16)])
def test_once_is_every_row_on_one_process_in_batches_of_almost_one_size(
    n: int, batch_size: int, world: int
) -> None:
    ranks = [
        BatchOrder(n, batch_size, shuffle=True, seed=5, rank=rank, world_size=world, once=True)
        for rank in range(world)
    ]
    found = [batches(order, 3) for order in ranks]
    if n >= world:
        assert sorted(joined(joined(found))) == list(range(n))
    assert len({len(one) for one in found}) == 1, "as many steps on each"
    sizes = [len(batch) for one in found for batch in one]
    assert not sizes or (max(sizes) <= batch_size and max(sizes) - min(sizes) <= 2 and min(sizes) > 0)
    assert all(len(order) == len(one) for order, one in zip(ranks, found, strict=True))


def test_a_limit_cuts_the_yield_and_not_the_count() -> None:
    for once in (False, True):
        whole = BatchOrder(20, 4, shuffle=True, once=once)
        short = BatchOrder(20, 4, shuffle=True, once=once, limit=2)
        assert len(short) == 2 and short.whole == len(whole) == 5
        assert batches(short) == batches(whole)[:2]


def test_in_mid_epoch_another_number_of_processes_is_refused() -> None:
    saved = BatchLoader(Echo(20), BatchOrder(20, 4, shuffle=True, rank=1, world_size=2))
    alone = BatchLoader(Echo(20), BatchOrder(20, 4, shuffle=True))
    batches_of = iter(saved)
    next(batches_of)
    with pytest.raises(BadInput, match="in the middle of an epoch on 2 processes, but this run has 1"):
        alone.load_state_dict(saved.state_dict())
    for _ in batches_of:
        pass
    alone.load_state_dict(saved.state_dict())
    assert len(list(alone)) == 5, "an epoch's end fits any"


def phased() -> PhaseOrder:
    return PhaseOrder(
        {
            "groups": BatchOrder(7, 3, shuffle=True, seed=5, once=True),
            "pairs": BatchOrder(10, 4, shuffle=True, seed=5),
        }
    )


def test_phases_follow_each_other_and_say_which_they_are() -> None:
    order = phased()
    order.set_epoch(2)
    found = [(one.phase, one.epoch, one.rows.tolist()) for one in order]
    assert [phase for phase, _, _ in found] == ["groups"] * 3 + ["pairs"] * 3
    assert {epoch for _, epoch, _ in found} == {2}
    assert sorted(joined(rows for phase, _, rows in found if phase == "groups")) == list(range(7))
    assert len(order) == len(found) == 6


@pytest.mark.parametrize("done", range(6))
def test_phases_go_on_anywhere(done: int) -> None:
    whole = [one.rows.tolist() for one in phased()]
    again = phased()
    again.start = done
    assert [one.rows.tolist() for one in again] == whole[done:]
    assert [one.rows.tolist() for one in again] == whole, "once"


@pytest.mark.parametrize("workers", [0, 2])
def test_looking_ahead_changes_no_batch_and_no_state(workers: int) -> None:
    plain, ahead = loader(workers=workers), loader(workers=workers)
    told: list[tuple[list[int], list[int]]] = []
    ahead.ahead = lambda batch, following: told.append((batch.tolist(), following.tolist()))
    states, found = [], []
    for batch in ahead:
        found.append(batch.tolist())
        states.append(ahead.state_dict()["done"])
    assert found == [batch.tolist() for batch in plain]
    assert states == list(range(1, len(found) + 1))
    assert told == list(pairwise(found))
