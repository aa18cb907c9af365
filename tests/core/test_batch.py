"""Batches move as a whole and tell a method what it forgot to ask for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossmodal_bench.core.batch import ImageBatch, PairBatch, TextBatch, long_tensor, require


def pair() -> PairBatch:
    return PairBatch(
        ImageBatch(index=torch.arange(3), features=torch.randn(3, 5), labels=torch.tensor([0, 1, 1])),
        TextBatch(
            index=torch.arange(6, 9),
            image=torch.arange(3),
            words=torch.ones(3, 4, dtype=torch.int64),
            lengths=torch.tensor([4, 2, 3]),
        ),
    )


def tensors(batch: PairBatch) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": value
        for part, one in (("images", batch.images), ("texts", batch.texts))
        for name, value in vars(one).items()
        if value is not None
    }


def test_lengths_are_numbers_of_items() -> None:
    batch = pair()
    assert (len(batch), len(batch.images), len(batch.texts)) == (3, 3, 3)


ON_HOST = {"images.index", "texts.index", "texts.image", "texts.lengths"}


def test_every_view_moves_and_absent_views_stay_absent() -> None:
    batch = pair()
    moved = batch.to("meta")
    assert type(moved) is PairBatch and set(tensors(moved)) == set(tensors(batch))
    devices = {name: value.device.type for name, value in tensors(moved).items()}
    assert devices == {name: "cpu" if name in ON_HOST else "meta" for name in devices}
    assert {value.device.type for value in tensors(batch).values()} == {"cpu"}


def test_every_view_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor + 100

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    batch = pair()
    after = tensors(batch.pin_memory())
    assert len(pinned) == len(after) == 7
    assert all(torch.equal(after[name], value + 100) for name, value in tensors(batch).items())


def test_a_view_that_was_not_asked_for_is_named() -> None:
    batch = pair()
    assert require(batch.images.features, "features") is batch.images.features
    with pytest.raises(RuntimeError, match="no view 'pixels'; declare it in the method's `requires`"):
        require(batch.images.pixels, "pixels")


def test_rows_become_int64() -> None:
    assert long_tensor([3, 1]).dtype == torch.int64
