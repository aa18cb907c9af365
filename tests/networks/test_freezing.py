"""A frozen network stands still in every respect, until it is unfrozen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossmodal_bench.networks import Freezable


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def step(frozen: Freezable, optimiser: torch.optim.Optimizer, head: nn.Linear) -> None:
    head(frozen(torch.randn(8, 4))).square().sum().backward()
    optimiser.step()
    optimiser.zero_grad()


@pytest.mark.parametrize("freeze", ["never", "until_plateau", "always"])
def test_parameters_and_statistics_move_only_where_they_may(freeze: str) -> None:
    frozen, head = Freezable(network(), freeze), nn.Linear(4, 2)  # type: ignore[arg-type]
    moving = [one for one in (*frozen.parameters(), *head.parameters()) if one.requires_grad]
    assert len(moving) == (2 if freeze == "always" else 6)
    # Decay and momentum move whatever has a gradient, be it zero.
    optimiser = torch.optim.SGD(moving, 0.1, momentum=0.9, weight_decay=0.1)

    def moved() -> bool:
        before = {name: value.clone() for name, value in frozen.network.state_dict().items()}
        frozen.train()
        step(frozen, optimiser, head)
        after = frozen.network.state_dict()
        changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert changed in (set(), set(before))
        return bool(changed)

    assert moved() == (freeze == "never")
    frozen.unfreeze()
    assert moved() == (freeze != "always")


def test_dropout_is_off_while_frozen() -> None:
    frozen = Freezable(network(), "until_plateau").train()
    batch = torch.randn(8, 4)
    assert torch.equal(frozen(batch), frozen(batch)) and not frozen(batch).requires_grad
    frozen.unfreeze()
    frozen.train()
    assert not torch.equal(frozen(batch), frozen(batch)) and frozen(batch).requires_grad


@pytest.mark.parametrize("freeze", ["never", "until_plateau"])
def test_a_network_that_comes_in_eval_mode_is_trained_in_training_mode(freeze: str) -> None:
    frozen = Freezable(network().eval(), freeze)  # type: ignore[arg-type]
    frozen.training = True  # as Lightning leaves it: nobody calls train() on the network
    frozen.unfreeze()
    frozen(torch.randn(8, 4))
    assert all(module.training for module in frozen.modules())
    frozen.eval()
    frozen(torch.randn(8, 4))
    assert not any(module.training for module in frozen.modules())


def test_a_checkpoint_remembers_the_stage() -> None:
    frozen = Freezable(network(), "until_plateau")
    frozen.unfreeze()
    other = Freezable(network(), "until_plateau").train()
    other.load_state_dict(frozen.state_dict())
    assert other(torch.randn(8, 4)).requires_grad


def test_batch_norms_may_keep_their_statistics_while_all_else_is_trained() -> None:
    frozen, head = Freezable(network(), "never"), nn.Linear(4, 2)
    frozen.keep_batch_statistics()
    optimiser = torch.optim.SGD([*frozen.parameters(), *head.parameters()], 0.1)
    before = {name: value.clone() for name, value in frozen.network.state_dict().items()}
    # Whoever puts the whole model into training mode, as a trainer does, changes nothing of it.
    frozen.train()
    step(frozen, optimiser, head)
    frozen.train()
    step(frozen, optimiser, head)
    changed = {
        name for name, value in frozen.network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert frozen.network[2].training, "dropout is as in training"
