"""Whole configurations small enough to train in a second, for tests of methods, callbacks and training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI

from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.jobs import experiments
from crossmodal_bench.training.lightning_cli import instantiate

QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
SMALL_ACMR = {
    "model.init_args.projectors.image_hidden": [16],
    "model.init_args.projectors.text_hidden": [16],
    "model.init_args.projectors.dim": 8,
    "model.init_args.discriminator.hidden": [8],
    "data.batch_size": 32,
}


def configuration(
    method: str = "acmr",
    dataset: str = "synthetic-20",
    preset: str = "smoke",
    seed: int = 0,
    **overrides: Any,
) -> dict[str, Any]:
    """What the bench runs; ``overrides`` are dotted keys, given as ``**{"trainer.max_epochs": 1}``."""
    if method == "clip":
        # Not at the top: transformers takes seconds to import. Its own network is one of the hub's.
        import dual_encoders

        overrides = {**dual_encoders.instead_of_the_hubs(), **overrides}
    config = experiments.resolve(method, dataset, {}, preset, overrides, Path("no data root"))
    return {**config, "seed_everything": seed}


def built(method: str, **overrides: Any) -> tuple[Any, CrossModalDataModule]:
    """An untrained model with its networks, in training mode, and its data with their views."""
    cli = instantiate(configuration(method, **overrides), **QUIET)
    cli.model.prepare(cli.datamodule.build(cli.model.requires))
    return cli.model, cli.datamodule


def fitted(
    config: dict[str, Any],
    callbacks: list[pl.Callback],
    checkpoint: Path | None = None,
    **trainer: Any,
) -> LightningCLI:
    """After training, from the checkpoint on if there is one."""
    cli = instantiate(config, callbacks, **{**QUIET, **trainer})
    cli.trainer.fit(
        cli.model,
        datamodule=cli.datamodule,
        ckpt_path=None if checkpoint is None else str(checkpoint),
        weights_only=True,
    )
    return cli


def check_equal(found: Any, expected: Any, where: str = "") -> None:
    """Equal to the last bit, whatever nests what; ``where`` says in which part."""
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
