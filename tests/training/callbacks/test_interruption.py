"""Training that is asked to stop, at any batch, and goes on: the same to the last bit as one that is not."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from tiny import SMALL_ACMR, check_equal, configuration, fitted

from crossmodal_bench.core.signals import ASKING, Interrupted, StopRequest
from crossmodal_bench.jobs.experiments import names, parents_of
from crossmodal_bench.training.callbacks import History, RandomState, RetrievalEvaluation, SaveWhenAsked
from crossmodal_bench.training.warm_start import Inheritance

EPOCHS = 2
LANGUAGE_MODEL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
GXN: dict[str, Any] = {"data.batch_size": 8, "model.init_args.captions.init_args.max_words": 6}
PICTURES: dict[str, Any] = {
    "model.init_args.pictures.init_args.generator_channels": 2,
    "model.init_args.pictures.init_args.discriminator_channels": 2,
}
CHANGES: dict[str, dict[str, Any]] = {
    # k = 2 puts epochs and cycles out of step, dropout needs the generators' state.
    "acmr": {**SMALL_ACMR, "model.init_args.projectors.dropout": 0.4, "model.init_args.k": 2},
    # A language model that is unfrozen behind the first epoch, rates that fall, and a cycle of two batches.
    "timam": {
        "model.init_args.text_encoder": {
            "class_path": "crossmodal_bench.networks.LanguageModelEncoder",
            "init_args": {"config": LANGUAGE_MODEL, "hidden": 4, "dropout": 0.2},
        },
        "model.init_args.image_encoder.init_args.hidden": [],
        "model.init_args.dim": 6,
        "model.init_args.discriminator.noise": 1.0,
        "model.init_args.discriminator.steps": 2,
        "model.init_args.schedule.unfreeze_epoch": 1,
        "model.init_args.schedule.patience": 0,
    },
    # In the second epoch, self-critical reinforcement beside cross entropy.
    "gxn_i2t_mix": {**GXN, "model.init_args.captions.init_args.reinforce_from": 1},
    "gxn_t2i": {"data.batch_size": 8, **PICTURES},
    "gxn": {**GXN, **PICTURES},
}
METHODS = [name for name in names("methods") if name not in ("cca", "clip", "sm")]


def config_of(method: str) -> dict[str, Any]:
    changes = {"data.batch_size": 32, **CHANGES.get(method, {}), "trainer.max_epochs": EPOCHS}
    return configuration(method, **changes)


class Ask(pl.Callback):
    """A signal to this process at the ``number``-th call of a hook."""

    def __init__(self, hook: str, number: int, signals: int = signal.SIGTERM) -> None:
        self.left = number
        setattr(self, hook, self._count)
        self.signal = signals

    def _count(self, *rest: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.signal)


class Run(NamedTuple):
    cli: LightningCLI
    history: History


def run(method: str, path: Path, ask: Ask | None = None, every_seconds: float | None = None) -> Run:
    """A training, from the checkpoint on if it is there."""
    history = History()
    last = path if path.is_file() else None
    weights = {name: unbroken(name).cli.model.state_dict() for name in parents_of(method)}
    inheritance = [Inheritance(weights)] if weights and last is None else []
    save = SaveWhenAsked(path, StopRequest(), every_seconds)
    asking = [ask] if ask else []
    callbacks = [history, RetrievalEvaluation(), RandomState(), *inheritance, *asking, save]
    return Run(fitted(config_of(method), callbacks, last), history)


@cache
def unbroken(method: str) -> Run:
    return run(method, Path("nothing is saved here"))


def check_same(found: Run, method: str) -> None:
    expected = unbroken(method)
    check_equal(found.cli.model.state_dict(), expected.cli.model.state_dict())
    for one, other in zip(found.cli.trainer.optimizers, expected.cli.trainer.optimizers, strict=True):
        check_equal(one.state_dict(), other.state_dict())
    discriminators = getattr(found.cli.model, "discriminators", None)
    if discriminators is not None:
        check_equal(discriminators.state_dict(), expected.cli.model.discriminators.state_dict())
    check_equal(found.history.epochs, expected.history.epochs)
    assert found.history.samples == expected.history.samples
    assert found.cli.trainer.global_step == expected.cli.trainer.global_step


def stopped_and_resumed(method: str, path: Path, ask: Ask) -> None:
    expected = unbroken(method)
    with pytest.raises(Interrupted):
        run(method, path, ask)
    assert path.is_file()
    # What happens between the runs must not matter.
    torch.rand(7)
    found = run(method, path)
    assert found.cli.trainer.global_step == expected.cli.trainer.global_step
    check_same(found, method)


@pytest.mark.parametrize(
    ("method", "hook", "number"),
    [
        pytest.param("acmr", "on_train_batch_start", 2, marks=pytest.mark.slow),
        ("acmr", "on_validation_batch_start", 2),
        ("acmr", "on_validation_epoch_end", 1),
        ("timam", "on_train_batch_start", 4),  # the first epoch's last
        pytest.param("timam", "on_train_epoch_start", 2, marks=pytest.mark.slow),
        pytest.param(
            "addr_scan", "on_train_batch_start", 1, marks=pytest.mark.slow
        ),  # its discriminators' phase
        ("addr_scan", "on_train_batch_start", 5),  # its encoders'
        pytest.param("gxn_i2t_mix", "on_train_batch_start", 1, marks=pytest.mark.slow),
        pytest.param("gxn_i2t_mix", "on_train_batch_start", 4, marks=pytest.mark.slow),
        pytest.param("gxn", "on_train_batch_start", 2, marks=pytest.mark.slow),
    ],
)
def test_asked_to_stop_it_goes_on_to_the_last_bit(
    method: str, hook: str, number: int, tmp_path: Path
) -> None:
    stopped_and_resumed(method, tmp_path / "last.ckpt", Ask(hook, number))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", METHODS)
def test_asked_to_stop_anywhere_every_method_goes_on_to_the_last_bit(method: str, tmp_path: Path) -> None:
    batches = int(unbroken(method).cli.trainer.num_training_batches) * EPOCHS
    asked = [("on_train_batch_start", number) for number in range(1, batches + 1)]
    asked += [("on_validation_batch_start", 1), ("on_validation_epoch_end", 1), ("on_train_epoch_end", 1)]
    for hook, number in asked:
        path = tmp_path / f"{hook}-{number}.ckpt"
        stopped_and_resumed(method, path, Ask(hook, number))
        path.unlink()


@pytest.mark.parametrize("number", ASKING)
def test_every_signal_that_clusters_send_is_understood(number: signal.Signals, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run("acmr", tmp_path / "last.ckpt", Ask("on_train_batch_start", 1, number))
    assert (tmp_path / "last.ckpt").is_file()


def test_a_checkpoint_now_and_then_changes_nothing_and_can_be_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    check_same(run("acmr", path, every_seconds=0.0), "acmr")
    # Saved in the last validation, as if that had not been.
    check_same(run("acmr", path), "acmr")


def test_asked_at_the_end_it_stops_before_anything_else_is_done(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run("acmr", tmp_path / "last.ckpt", Ask("on_validation_epoch_end", EPOCHS))


def test_before_training_and_in_a_test_it_stops_on_the_spot(tmp_path: Path) -> None:
    found = run("acmr", tmp_path / "last.ckpt")
    trainer = found.cli.trainer
    trainer.callbacks.insert(0, Ask("on_test_batch_start", 1))
    with pytest.raises(Interrupted):
        trainer.test(found.cli.model, datamodule=found.cli.datamodule, verbose=False)
