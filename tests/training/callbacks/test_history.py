from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny import SMALL_ACMR, configuration, fitted

from crossmodal_bench.training.callbacks import History, RetrievalEvaluation

EPOCHS, BATCHES, PAIRS = 2, 4, 100
VALIDATIONS, PAUSE = 2, 0.3  # in each epoch: in its middle and at its end


class Sleep(pl.Callback):
    """A pause in each validation, none in training; and the time from the first batch to the last."""

    start = seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        time.sleep(PAUSE)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.start


Trained = tuple[History, list[dict[str, Any]], Sleep]


@pytest.fixture(scope="module")
def trained() -> Trained:
    reports: list[dict[str, Any]] = []
    history, sleep = History(reports.append), Sleep()
    config = configuration(**{**SMALL_ACMR, "trainer.max_epochs": EPOCHS})
    fitted(config, [history, RetrievalEvaluation(), sleep], val_check_interval=BATCHES // VALIDATIONS)
    return history, reports, sleep


def test_one_row_per_epoch_with_training_and_validation(trained: Trained) -> None:
    rows = trained[0].epochs
    assert [row["epoch"] for row in rows] == [0, 1]
    for row in rows:
        assert {"train/loss_embedding", "train/loss_adversarial", "val/rsum", "val/mAP"} <= set(row)
        assert all(isinstance(value, int | float) for value in row.values())
    assert rows[0]["train/loss_embedding"] != rows[1]["train/loss_embedding"]


def test_samples_and_seconds_are_those_of_training(trained: Trained) -> None:
    history, _, sleep = trained
    assert history.samples == EPOCHS * PAIRS
    assert history.train_seconds > 0
    assert history.train_seconds + EPOCHS * VALIDATIONS * PAUSE < sleep.seconds
    assert history.seconds_per_epoch > VALIDATIONS * PAUSE, "with validation: it is for the time that is left"


def test_progress_is_reported_now_and_then(trained: Trained) -> None:
    reports = trained[1]
    assert 1 <= len(reports) < EPOCHS * BATCHES
    first, last = reports[0], reports[-1]
    assert (first["epoch"], first["epochs"], first["batch"], first["batches"]) == (0, EPOCHS, 1, BATCHES)
    assert first["seconds_per_epoch"] == 0
    assert (last["epoch"], last["seconds_per_epoch"] > PAUSE) == (1, True)


def test_it_survives_a_checkpoint(trained: Trained, tmp_path: Any) -> None:
    torch.save(trained[0].state_dict(), tmp_path / "history.pt")
    other = History()
    other.load_state_dict(torch.load(tmp_path / "history.pt", weights_only=True))
    assert other.state_dict() == trained[0].state_dict()
    other.epochs.append({"epoch": 2})
    assert len(trained[0].epochs) == EPOCHS


def test_what_is_not_a_number_is_left_out() -> None:
    history = History()

    metrics = {"val/mAP": torch.tensor(float("nan")), "val/rsum": torch.tensor(2.5)}
    trainer: Any = SimpleNamespace(current_epoch=3, callback_metrics=metrics)
    history.on_train_epoch_end(trainer, pl.LightningModule())
    assert history.epochs == [{"epoch": 3, "val/rsum": 2.5}]


class TwoRates(pl.LightningModule):
    """Two groups of rates that are none of the optimiser's default, and that a schedule lowers."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(1)) for _ in range(2)])

    def configure_optimizers(self) -> Any:
        groups = [{"params": [self.weights[0]], "lr": 0.3}, {"params": [self.weights[1]], "lr": 0.2}]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return sum(weight.sum() for weight in self.weights) * batch[0].mean()


def test_rates_are_those_of_the_groups_before_any_schedule(tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 1)), batch_size=2)

    def train(history: History, epochs: int, checkpoint: Path | None = None) -> pl.Trainer:
        trainer = pl.Trainer(
            max_epochs=epochs,
            callbacks=[history],
            logger=False,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(TwoRates(), loader, ckpt_path=checkpoint)
        return trainer

    first = History()
    trainer = train(first, 2)
    assert first.learning_rates == [0.3, 0.2]
    assert trainer.optimizers[0].param_groups[0]["lr"] < 0.3
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed = History()
    train(resumed, 3, tmp_path / "two.ckpt")
    assert resumed.learning_rates == [0.3, 0.2], "those of the start, not of the checkpoint's schedule"
