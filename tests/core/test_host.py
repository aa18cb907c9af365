"""What the host remembers is what the buffer holds, whoever wrote to it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from crossmodal_bench.core.host import HostNumber, sent, unpadded_positions


class Counted(nn.Module):
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.known = HostNumber()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def test_a_number_is_read_once_and_then_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Counted()
    assert module.known.of(module.count) == 0
    module.known.set(module.count, 3)
    monkeypatch.setattr(torch.Tensor, "item", lambda self: pytest.fail("the buffer was read"))
    assert module.known.of(module.count) == 3
    monkeypatch.undo()
    assert int(module.count) == 3


def test_what_others_write_is_seen() -> None:
    module = Counted()
    module.known.set(module.count, 3)
    module.count.fill_(5)
    assert module.known.of(module.count) == 5
    module.load_state_dict({"count": torch.tensor(8)})
    assert module.known.of(module.count) == 8
    module.to(torch.float64).count.add_(1)
    assert module.known.of(module.count) == 9
    other = copy.deepcopy(module)
    other.known.set(other.count, 1)
    assert (module.known.of(module.count), other.known.of(other.count)) == (9, 1)
    with torch.inference_mode():
        made_there = Counted()
        assert made_there.known.of(made_there.count) == 0


def test_real_places_are_those_of_the_mask() -> None:
    lengths = torch.tensor([2, 0, 3])
    assert unpadded_positions(lengths, 4).tolist() == [0, 1, 8, 9, 10]


def test_what_is_there_is_not_copied() -> None:
    tensor = torch.arange(3)
    assert sent(tensor, torch.device("cpu")) is tensor
    assert sent(tensor, torch.device("meta")).device.type == "meta"
