"""One configuration to one trained model: the Lightning CLI behind `fit` and `test`, and behind every bench job."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import pytorch_lightning as pl
from jsonargparse import ArgumentError
from pytorch_lightning.cli import LightningCLI

from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.errors import BadInput, nearest
from crossmodal_bench.methods import RetrievalMethod

TRAINER_DEFAULTS: dict[str, Any] = {
    # Our loaders shard themselves, and a sanity check would evaluate a part of a gallery.
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
    "logger": False,
}


def instantiate(
    config: dict[str, Any], callbacks: list[pl.Callback] | None = None, **trainer: Any
) -> LightningCLI:
    """Model, data module and trainer of a configuration, none of them built or started.

    Raises:
        BadInput: an unknown key, a value of the wrong type, or a value that a constructor refuses.
    """
    try:
        return LightningCLI(
            RetrievalMethod,
            CrossModalDataModule,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            save_config_callback=None,
            run=False,
            args=config,
            trainer_defaults={**TRAINER_DEFAULTS, "callbacks": callbacks or [], **trainer},
            parser_kwargs={"exit_on_error": False},
        )
    except (ArgumentError, ValueError, TypeError) as error:
        raise BadInput(explain(config, error)) from error


def command_line(words: list[str]) -> None:
    """`crossmodal-bench fit|test --config FILE ...`: Lightning's own command line over our classes.

    ``--config`` may be given several times and the files are merged; a bench job's config.yaml is such a file.
    """
    from crossmodal_bench.callbacks import RandomState, RetrievalEvaluation

    LightningCLI(
        RetrievalMethod,
        CrossModalDataModule,
        subclass_mode_model=True,
        auto_configure_optimizers=False,
        args=words,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={**TRAINER_DEFAULTS, "callbacks": [RetrievalEvaluation(), RandomState()]},
    )


def explain(config: dict[str, Any], error: Exception) -> str:
    """A parser's complaint as one sentence with the key and the nearest valid one."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    unknown = re.search(
        r"[Oo]ption '([\w.]+)'(?: is not accepted|$)|Unrecognized arguments: --([\w.]+)", text
    )
    if unknown is not None:
        key = unknown[1] or unknown[2]
        return f"configuration key '{key}' is unknown{nearest(key.split('.')[-1], _known_keys(config))}"
    missing = re.search(
        r"class_path '([\w.]+)': (module '[\w.]+' has no attribute '\w+'|No module named '[\w.]+')", text
    )
    if missing is not None:
        return f"configuration key 'class_path': '{missing[1]}' cannot be imported; correct the path"
    wrong = re.search(r"Parser key \"([\w.]+)\": (Expected .*?)(?: - | Given value|$)", text)
    if wrong is not None and "Subtypes" not in wrong[2]:
        return f"configuration key '{wrong[1]}': {wrong[2].rstrip('. ')}; correct the value"
    # What a constructor refused comes wrapped in the parser's list of alternatives.
    refused = re.search(r"Errors: - (.*?) - Expected a <class 'NoneType'>", text)
    return f"configuration: {refused[1] if refused else text[:300]}"


def _known_keys(config: dict[str, Any]) -> list[str]:
    classes: list[Any] = [pl.Trainer, CrossModalDataModule]
    for part in (config.get("model", {}), config.get("data", {}).get("dataset", {})):
        module, _, name = part.get("class_path", "").rpartition(".")
        if module:
            classes.append(getattr(importlib.import_module(module), name, None))
    keys = {name for one in classes if one is not None for name in inspect.signature(one.__init__).parameters}
    return sorted(keys - {"self"} | {"model", "data", "trainer"})
