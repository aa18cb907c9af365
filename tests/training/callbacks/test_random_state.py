"""Training that is killed and resumed against training that is not: the same to the last bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.cli import LightningCLI
from tiny import SMALL_ACMR, check_equal, configuration, fitted

from crossmodal_bench.training.callbacks import History, RandomState, RetrievalEvaluation

EPOCHS, BATCHES = 3, 4
# Four batches an epoch; k = 2 puts epochs and cycles out of step, dropout needs the generator's state.
CONFIG = configuration(
    **{
        **SMALL_ACMR,
        "model.init_args.projectors.dropout": 0.4,
        "model.init_args.k": 2,
        "trainer.max_epochs": EPOCHS,
    }
)


class Killed(Exception):
    """Instead of a SIGKILL."""


class Kill(Checkpoint):
    """Saves a checkpoint after ``step`` batches, or with the ``epoch``; killed ``later`` batches on.

    A checkpoint callback as the bench's: called behind the method's own end of the epoch.
    """

    def __init__(self, path: Path, step: int = -1, epoch: int = -1, later: int = 0) -> None:
        self.path, self.step, self.epoch, self.later = path, step, epoch, later
        self.done = 0
        self.saved = False

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        self.done += 1
        if self.done == self.step:
            trainer.save_checkpoint(self.path)
            self.saved = True
        if self.saved:
            self.later -= 1
            if self.later < 0:
                raise Killed

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)
            self.saved = True


class Run(NamedTuple):
    cli: LightningCLI
    history: History


def run(checkpoint: Path | None = None, kill: Kill | None = None) -> Run:
    history = History()
    callbacks = [history, RetrievalEvaluation(), RandomState(), *([kill] if kill else [])]
    return Run(fitted(CONFIG, callbacks, checkpoint, enable_checkpointing=kill is not None), history)


@pytest.fixture(scope="module")
def unbroken() -> Run:
    return run()


@pytest.mark.parametrize(
    "when",
    [{"step": 1}, {"step": 6}, {"step": 5, "later": 2}, {"epoch": 0, "later": 0}, {"epoch": 1, "later": 2}],
    ids=lambda when: " ".join(f"{key} {value}" for key, value in when.items()),
)
def test_a_resumed_run_ends_as_an_unbroken_one(unbroken: Run, tmp_path: Path, when: dict[str, int]) -> None:
    path = tmp_path / "killed.ckpt"
    with pytest.raises(Killed):
        run(kill=Kill(path, **when))
    # What happens between the runs must not matter.
    torch.rand(7)
    found = run(path)
    check_equal(found.cli.model.state_dict(), unbroken.cli.model.state_dict())
    for one, other in zip(found.cli.trainer.optimizers, unbroken.cli.trainer.optimizers, strict=True):
        check_equal(one.state_dict(), other.state_dict())
    # One optimiser steps at a time.
    assert found.cli.trainer.global_step == unbroken.cli.trainer.global_step == EPOCHS * BATCHES
    check_equal(found.history.epochs, unbroken.history.epochs)
    assert found.history.samples == unbroken.history.samples == EPOCHS * 100
    assert 0 < found.history.train_seconds < 60


def test_without_the_random_state_it_would_not(unbroken: Run, tmp_path: Path) -> None:
    path = tmp_path / "killed.ckpt"
    with pytest.raises(Killed):
        run(kill=Kill(path, step=6))
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"] = {
        name: state for name, state in checkpoint["callbacks"].items() if "RandomState" not in name
    }
    torch.save(checkpoint, path)
    found, expected = (one.cli.model.state_dict() for one in (run(path), unbroken))
    assert any(not torch.equal(found[name], expected[name]) for name in expected)


def drawn() -> list[float]:
    return [*torch.rand(2).tolist(), random.random(), random.gauss(), *np.random.rand(2), np.random.randn()]


def test_the_state_is_restored_when_training_starts_and_once(tmp_path: Path) -> None:
    drawn()
    state = RandomState().state_dict()
    expected = drawn()
    # A checkpoint must load without running code.
    torch.save(state, tmp_path / "state.pt")
    callback = RandomState()
    callback.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    drawn()
    trainer, module = pl.Trainer(accelerator="cpu", logger=False), pl.LightningModule()
    callback.on_train_start(trainer, module)
    assert drawn() == expected
    callback.on_train_start(trainer, module)
    assert drawn() != expected


def test_a_held_state_is_what_is_saved() -> None:
    callback = RandomState()
    before = callback.state_dict()
    callback.hold()
    drawn()
    check_equal(callback.state_dict(), before)
    callback.release()
    assert not torch.equal(callback.state_dict()["torch"], before["torch"])


class SecondOfTwo:
    """What the callback asks a trainer."""

    world_size, global_rank = 2, 1


def test_every_process_has_the_state_that_was_its_own() -> None:
    first = RandomState().state_dict()
    drawn()
    second = RandomState().state_dict()
    expected = drawn()
    callback = RandomState()
    callback.load_state_dict({name: torch.cat([first[name], second[name]]) for name in first})
    callback.on_train_start(SecondOfTwo(), pl.LightningModule())  # type: ignore[arg-type]
    assert drawn() == expected


def test_a_second_process_starts_with_noise_of_its_own() -> None:
    torch.manual_seed(3)
    first = torch.rand(4)
    torch.manual_seed(3)
    RandomState().on_train_start(SecondOfTwo(), pl.LightningModule())  # type: ignore[arg-type]
    assert not torch.equal(torch.rand(4), first)
