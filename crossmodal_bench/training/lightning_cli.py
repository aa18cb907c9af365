"""One configuration to one model: the Lightning CLI behind `fit` and `test`, and behind every bench job."""

from __future__ import annotations

import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Union

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, set_parsing_settings
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from crossmodal_bench.core.class_paths import allowed_prefixes
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import read_yaml
from crossmodal_bench.core.signals import ASKING, Interrupted, StopRequest
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.jobs.experiments import merge
from crossmodal_bench.methods import RetrievalMethod
from crossmodal_bench.training.configuration import check_configuration, parser_refusal, refusal
from crossmodal_bench.training.named_checkpoint import named_checkpoint, requeued_checkpoint

TRAINER_DEFAULTS: dict[str, Any] = {
    # Our loaders shard themselves, and a sanity check would evaluate only part of a gallery.
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
    "logger": False,
}
REFUSALS = (ArgumentError, ValueError, TypeError, OverflowError, MisconfigurationException)
PARTS = ("--model", "--data", "--trainer")
"""Options for which the parser would read settings from a file if given its name."""
PATHS = ("weights", "ckpt_path")
"""Last parts of the names of options whose values are files."""


class _ConfigFile(ActionConfigFile):
    """``--config``: read by our own reader and checked before the parser, which imports classes, sees it."""

    merged: dict[str, Any]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.merged = {}

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        content = config_file(Path(values))
        # Several --config files are parts of one configuration.
        self.merged = merge(self.merged, content)
        check_configuration(self.merged, complete=False)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as checked:
            # Pass on what was checked: the file may have changed since.
            yaml.safe_dump(content, checked)
            checked.flush()
            super().__call__(parser, cfg, checked.name, option_string)


class _CLI(LightningCLI):
    """Lightning's, with configuration errors reduced to one sentence; errors from training pass unchanged."""

    def __init__(self, **kwargs: Any) -> None:
        self._config_files: list[_ConfigFile] = []
        self._checkpoint: Path | None = None
        # This covers the command line too, where one class may be an argument of another.
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(allowed_prefixes()))
        super().__init__(
            RetrievalMethod,
            CrossModalDataModule,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            # It would write config.yaml into the working directory, possibly over the file that was given.
            save_config_callback=None,
            **kwargs,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`fit` and `test`, which always load checkpoints as weights only, never as code."""
        known = LightningCLI.subcommands()
        return {name: known[name] | {"weights_only"} for name in ("fit", "test")}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Lightning's, with our own --config option."""
        # An abbreviation would be another way to name a file.
        parser = self.parser_class(**{**kwargs, "allow_abbrev": False})
        action = parser.add_argument(
            "-c", "--config", action=_ConfigFile, help="a YAML file; may be repeated"
        )
        assert isinstance(action, _ConfigFile)
        self._config_files.append(action)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add nothing; make arguments that take a batch count or a fraction parse correctly."""
        whole_numbers_first(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            with warnings.catch_warnings():
                # The arguments of `crossmodal-bench bench` are not meant for this parser.
                warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
                super().parse_arguments(parser, args)
        except REFUSALS as error:
            raise parser_refusal(error) from error

    def _parse_ckpt_path(self) -> None:
        """Do nothing: a checkpoint provides weights, and the configuration alone defines the model.

        Lightning would take a class path and its arguments from the checkpoint.
        """

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Lightning's; by default with the method's strategy on several devices, deterministic on CPUs."""
        given = self._get(self.config_init, "trainer", default={})
        model: Any = self.model
        if given.get("strategy") == "auto" and several_devices(given):
            kwargs["strategy"] = model.ddp_strategy
        trainer = super().instantiate_trainer(**kwargs)
        if given.get("deterministic") is None and trainer.strategy.root_device.type == "cpu":
            # Otherwise threads sum the gradients of rows that are indexed twice in arbitrary order.
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        return trainer

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except REFUSALS as error:
            raise refusal(error) from error
        word = self._get(self.config, "ckpt_path")
        folder = Path(self.trainer.default_root_dir)
        goes_on = self.subcommand == "fit"
        if word is None:
            self._checkpoint = requeued_checkpoint(folder, to_go_on=goes_on, writes_them=True)
            return
        in_files = [
            action.merged["ckpt_path"] for action in self._config_files if "ckpt_path" in action.merged
        ]
        self._checkpoint = named_checkpoint(
            str(word),
            folder,
            in_file=word in in_files,
            to_go_on=goes_on,
        )

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        checkpoint = None if self._checkpoint is None else str(self._checkpoint)
        return {**arguments, "ckpt_path": checkpoint, "weights_only": True}

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except RuntimeError as error:
            if self._checkpoint is None or "loading state_dict" not in str(error):
                raise
            raise BadInput(
                f"--ckpt_path {self._checkpoint} does not match the configured model; give the configuration "
                "that it was trained with"
            ) from error


def whole_numbers_first(parser: ArgumentParser) -> None:
    """Make a parser try integers before floats: ``limit_train_batches`` 1 means one batch, 1.0 all of them.

    ``typing`` treats unions of the same members as equal, so ``Optional[...]`` of any of them has the order
    that came first in the process: Lightning's arguments are (int, float) or (float, int) depending on what
    was imported before it.
    """
    actions: list[Any] = parser._actions
    for action in actions:
        hint = getattr(action, "_typehint", None)
        members = getattr(hint, "__args__", None)
        if not isinstance(members, tuple) or not {int, float} <= set(members):
            continue
        others = [member for member in members if member not in (int, float)]
        # Not by subscription, which would return the cached union in its first order.
        union: Any = type(hint)
        action._typehint = union(Union, (int, float, *others), name=getattr(hint, "_name", None))


def several_devices(trainer: dict[str, Any]) -> bool:
    """Whether a Trainer with these arguments runs more than one process."""
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
    """Model, data module and trainer of a configuration; nothing is built or started yet.

    Raises:
        BadInput: an unknown key, a value of the wrong type, or a value that a constructor rejects.
    """
    check_configuration(config)
    return _CLI(
        run=False,
        args=config,
        trainer_defaults={**TRAINER_DEFAULTS, "callbacks": callbacks or [], **trainer},
        parser_kwargs={"exit_on_error": False},
    )


def command_line(arguments: list[str]) -> None:
    """`crossmodal-bench fit|test --config FILE ...`: Lightning's own command line for our classes.

    ``--config`` may be repeated, and the files are merged; a bench job's config.yaml is such a file. No file
    is trusted: what is not allowed is rejected before anything that it names is imported.

    When asked to stop (Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2), it saves ``interrupted.ckpt`` in the trainer's
    ``default_root_dir`` and prints how to resume.

    Raises:
        BadInput: as ``instantiate``, or a file cannot be read.
        Interrupted: the process was asked to stop.
    """
    from crossmodal_bench.training.callbacks import RetrievalEvaluation, SaveWhenAsked, exact_resumption

    _check_no_other_files(arguments)
    save = SaveWhenAsked(None, StopRequest((signal.SIGINT, *ASKING)))
    callbacks = [RetrievalEvaluation(), *exact_resumption(), save]
    try:
        _CLI(
            args=arguments,
            trainer_defaults={**TRAINER_DEFAULTS, "callbacks": callbacks},
            parser_kwargs={name: {"exit_on_error": False} for name in _CLI.subcommands()}
            | {"exit_on_error": False},
        )
    except Interrupted:
        # Without a request during this training, the file is from an earlier command.
        if save.request.made and save.path is not None and save.path.is_file():
            print(f"Saved. To resume, add --ckpt_path {save.path} to the same command.", file=sys.stderr)
        raise


def config_file(path: Path) -> dict[str, Any]:
    """The content of a --config file; BadInput if it cannot be read or contains no keys."""
    try:
        content = read_yaml(path)
    except BadInput as error:
        raise BadInput(f"--config {error}") from error
    if not isinstance(content, dict):
        raise BadInput(f"--config {path} contains no keys; write model, data and trainer there")
    return content


def _check_no_other_files(arguments: list[str]) -> None:
    """Raise BadInput if the parser would read settings from a file that has not been checked."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        name = value if equals else following
        is_part = any(option == part or option.startswith(f"{part}.") for part in PARTS)
        if is_part and option.rpartition(".")[2] not in PATHS and Path(name).is_file():
            raise BadInput(f"{option} {name} is a file; pass settings files with --config")
