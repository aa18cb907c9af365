"""Training that is killed and resumed against training that is not: the same to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.cli import LightningCLI
from tiny import SMALL_ACMR, configuration, fitted

from crossmodal_bench.callbacks import History, RandomState, RetrievalEvaluation

EPOCHS, BATCHES = 3, 4
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
CONFIGS = {
    # Four batches an epoch; k = 2 puts epochs and cycles out of step, dropout needs the generator's state.
    "acmr": configuration(
        **{**SMALL_ACMR, "model.init_args.dropout": 0.4, "model.init_args.k": 2, "trainer.max_epochs": EPOCHS}
    ),
    # A language model that is unfrozen behind the first epoch, rates that fall, and a cycle of two batches.
    "timam": configuration(
        "timam",
        **{
            "model.init_args.text_encoder": {
                "class_path": "crossmodal_bench.networks.LanguageModelEncoder",
                "init_args": {"config": SIZES, "hidden": 4, "dropout": 0.2},
            },
            "model.init_args.image_encoder.init_args.hidden": [],
            "model.init_args.dim": 6,
            "model.init_args.critic_noise": 1.0,
            "model.init_args.critic_steps": 2,
            "model.init_args.unfreeze_epoch": 1,
            "model.init_args.plateau_patience": 0,
            "data.batch_size": 32,
            "trainer.max_epochs": EPOCHS,
        },
    ),
}


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


class Unbroken(NamedTuple):
    method: str
    cli: LightningCLI
    history: History


def run(
    method: str, checkpoint: Path | None = None, kill: Kill | None = None
) -> tuple[LightningCLI, History]:
    history = History()
    callbacks = [history, RetrievalEvaluation(), RandomState(), *([kill] if kill else [])]
    return fitted(CONFIGS[method], callbacks, checkpoint, enable_checkpointing=kill is not None), history


@pytest.fixture(scope="module", params=CONFIGS)
def unbroken(request: pytest.FixtureRequest) -> Unbroken:
    return Unbroken(request.param, *run(request.param))


def check_equal(found: Any, expected: Any, where: str = "") -> None:
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            check_equal(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for i, pair in enumerate(zip(found, expected, strict=True)):
            check_equal(*pair, f"{where}[{i}]")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    else:
        assert found == expected, where


@pytest.mark.parametrize(
    "when",
    [{"step": 1}, {"step": 6}, {"step": 5, "later": 2}, {"epoch": 0, "later": 0}, {"epoch": 1, "later": 2}],
    ids=lambda when: " ".join(f"{key} {value}" for key, value in when.items()),
)
def test_a_resumed_run_ends_as_an_unbroken_one(
    unbroken: Unbroken, tmp_path: Path, when: dict[str, int]
) -> None:
    path = tmp_path / "killed.ckpt"
    with pytest.raises(Killed):
        run(unbroken.method, kill=Kill(path, **when))
    # What happens between the runs must not matter.
    torch.rand(7)
    cli, history = run(unbroken.method, path)
    method, expected, whole = unbroken
    check_equal(cli.model.state_dict(), expected.model.state_dict())
    for found, optimiser in zip(cli.trainer.optimizers, expected.trainer.optimizers, strict=True):
        check_equal(found.state_dict(), optimiser.state_dict())
    # One optimiser steps at a time, or two of the encoders' at every other batch and the critic's at each.
    steps = EPOCHS * BATCHES if method == "acmr" else 2 * EPOCHS * BATCHES
    assert cli.trainer.global_step == expected.trainer.global_step == steps
    check_equal(history.epochs, whole.epochs)
    assert history.samples == whole.samples == EPOCHS * 100
    assert 0 < history.train_seconds < 60


def test_without_the_random_state_it_would_not(unbroken: Unbroken, tmp_path: Path) -> None:
    path = tmp_path / "killed.ckpt"
    with pytest.raises(Killed):
        run(unbroken.method, kill=Kill(path, step=6))
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"] = {
        name: state for name, state in checkpoint["callbacks"].items() if "RandomState" not in name
    }
    torch.save(checkpoint, path)
    cli, _ = run(unbroken.method, path)
    found, expected = (one.model.state_dict() for one in (cli, unbroken.cli))
    assert any(not torch.equal(found[name], expected[name]) for name in expected)


def test_the_state_is_restored_when_training_starts_and_once(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = RandomState().state_dict()
    expected = torch.rand(4)
    callback = RandomState()
    callback.load_state_dict(state)
    torch.rand(1)
    trainer, module = pl.Trainer(accelerator="cpu", logger=False), pl.LightningModule()
    callback.on_train_start(trainer, module)
    assert torch.equal(torch.rand(4), expected)
    callback.on_train_start(trainer, module)
    assert not torch.equal(torch.rand(4), expected)
    # A checkpoint must load without running code.
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(loaded["cpu"], state["cpu"])
