"""One configuration to one model: the Lightning CLI behind `fit` and `test`, and behind every bench job."""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentError
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import read_yaml
from crossmodal_bench.core.signals import ASKING, Interrupted, StopRequest
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.methods import RetrievalMethod
from crossmodal_bench.training.configuration import check_configuration, parser_refusal, refusal

TRAINER_DEFAULTS: dict[str, Any] = {
    # Our loaders shard themselves, and a sanity check would evaluate a part of a gallery.
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
    "logger": False,
}
KEYWORDS = ("best", "last", "hpc")
"""What Lightning takes for a checkpoint instead of a path."""
REFUSALS = (ArgumentError, ValueError, TypeError, OverflowError, MisconfigurationException)


class _CLI(LightningCLI):
    """Lightning's, whose complaints about a configuration become one sentence; what training raises stays."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            RetrievalMethod,
            CrossModalDataModule,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            # It would write config.yaml into the working directory, over the very file that was given.
            save_config_callback=None,
            **kwargs,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            with warnings.catch_warnings():
                # The arguments of `crossmodal-bench bench` are not meant for this parser.
                warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
                super().parse_arguments(parser, args)
        except REFUSALS as error:
            raise parser_refusal(error) from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Lightning's; unless given, the method's strategy on several devices, and repeatable on CPUs."""
        given = self._get(self.config_init, "trainer", default={})
        model: Any = self.model
        if given.get("strategy") == "auto" and several_devices(given):
            kwargs["strategy"] = model.ddp_strategy
        trainer = super().instantiate_trainer(**kwargs)
        if given.get("deterministic") is None and trainer.strategy.root_device.type == "cpu":
            # Several threads add up the gradients of rows that were picked twice in whatever order they come.
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        return trainer

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except REFUSALS as error:
            raise refusal(error) from error
        checkpoint = self._get(self.config, "ckpt_path")
        if checkpoint is not None and checkpoint not in KEYWORDS and not Path(checkpoint).is_file():
            raise BadInput(f"--ckpt_path {checkpoint} is missing; name a checkpoint that fit has written")


def several_devices(trainer: dict[str, Any]) -> bool:
    """Whether a Trainer of these arguments has more than one process."""
    devices = str(trainer.get("devices", "auto"))
    if devices in ("auto", "-1"):
        on_gpus = trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
        count = torch.cuda.device_count() if on_gpus else 1
    else:
        # A number of devices, or a list of their indices.
        count = int(devices) if devices.isdigit() else len(devices.strip("[], ").split(","))
    return count > 1 or int(trainer.get("num_nodes", 1)) > 1


def instantiate(
    config: dict[str, Any], callbacks: list[pl.Callback] | None = None, **trainer: Any
) -> LightningCLI:
    """Model, data module and trainer of a configuration, none of them built or started.

    Raises:
        BadInput: an unknown key, a value of the wrong type, or a value that a constructor refuses.
    """
    check_configuration(config)
    return _CLI(
        run=False,
        args=config,
        trainer_defaults={**TRAINER_DEFAULTS, "callbacks": callbacks or [], **trainer},
        parser_kwargs={"exit_on_error": False},
    )


def command_line(arguments: list[str]) -> None:
    """`crossmodal-bench fit|test --config FILE ...`: Lightning's own command line over our classes.

    ``--config`` may be given several times and the files are merged; a bench job's config.yaml is such a
    file.

    Asked to stop (Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2), it saves ``interrupted.ckpt`` in the trainer's
    ``default_root_dir`` and prints how to go on.

    Raises:
        BadInput: as ``instantiate``, and a file that cannot be read.
        Interrupted: the process was asked to stop.
    """
    from crossmodal_bench.training.callbacks import RetrievalEvaluation, SaveWhenAsked, exact_resumption

    check_configuration(_files(arguments), complete=False)
    save = SaveWhenAsked(None, StopRequest((signal.SIGINT, *ASKING)))
    callbacks = [RetrievalEvaluation(), *exact_resumption(), save]
    try:
        _CLI(
            args=arguments,
            trainer_defaults={**TRAINER_DEFAULTS, "callbacks": callbacks},
            parser_kwargs={name: {"exit_on_error": False} for name in LightningCLI.subcommands()}
            | {"exit_on_error": False},
        )
    except Interrupted:
        # One that nobody asked for during the training is an earlier command's.
        if save.request.made and save.path is not None and save.path.is_file():
            print(f"Saved: the same command with --ckpt_path {save.path} goes on.", file=sys.stderr)
        raise


def _files(arguments: list[str]) -> dict[str, Any]:
    """The files of every --config, merged."""
    from crossmodal_bench.jobs.experiments import merge

    merged: dict[str, Any] = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, name = argument.partition("=")
        if option not in ("--config", "-c"):
            continue
        path = Path(name if equals else following)
        try:
            content = read_yaml(path)
        except BadInput as error:
            raise BadInput(f"--config {error}") from error
        if not isinstance(content, dict):
            raise BadInput(f"--config {path} holds no keys; write model, data and trainer there")
        merged = merge(merged, content)
    return merged
