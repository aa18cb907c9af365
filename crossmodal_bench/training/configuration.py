"""What is wrong with a configuration, in one sentence that names the key and the fix."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytorch_lightning as pl
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from crossmodal_bench.core.class_paths import LIBRARIES, US, check_allowed, imported_class, is_below
from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.core.files import first_line, parse_yaml
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.data.datasets import DatasetReader
from crossmodal_bench.methods import CaptionPath, PicturePath, RetrievalMethod
from crossmodal_bench.methods.hosts import Host
from crossmodal_bench.networks import ImageEncoder, TextEncoder

PARTS: dict[str, Any] = {
    "model": RetrievalMethod,
    "data": dict[str, Any],
    "trainer": dict[str, Any],
    "seed_everything": bool | int,
    # Also allowed in the files of `fit` and `test`.
    "ckpt_path": str | None,
    "verbose": bool,
}
PACKAGES: dict[type, str] = {
    RetrievalMethod: "crossmodal_bench.methods",
    CaptionPath: "crossmodal_bench.methods",
    PicturePath: "crossmodal_bench.methods",
    DatasetReader: "crossmodal_bench.data.datasets",
    ImageEncoder: "crossmodal_bench.networks",
    TextEncoder: "crossmodal_bench.networks",
    Host: "crossmodal_bench.methods.hosts",
}
"""Arguments given as class_path and init_args, and the package in which their classes are looked up."""
TRAINER_KEYS = (
    "accelerator",
    "accumulate_grad_batches",
    "benchmark",
    "check_val_every_n_epoch",
    "detect_anomaly",
    "deterministic",
    "devices",
    "enable_checkpointing",
    "enable_model_summary",
    "enable_progress_bar",
    "fast_dev_run",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "inference_mode",
    "limit_test_batches",
    "limit_train_batches",
    "limit_val_batches",
    "log_every_n_steps",
    "max_epochs",
    "max_steps",
    "max_time",
    "min_epochs",
    "min_steps",
    "num_nodes",
    "num_sanity_val_steps",
    "overfit_batches",
    "precision",
    "reload_dataloaders_every_n_epochs",
    "strategy",
    "sync_batchnorm",
    "use_distributed_sampler",
    "val_check_interval",
)
"""Trainer settings that a configuration may contain: words and numbers. The others name code or paths."""
TYPE_NAMES: dict[Any, str] = {
    NoneType: "null",
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
}


@dataclass(frozen=True)
class _Section:
    """The values below one key, and the type of each value allowed there."""

    path: str
    values: Mapping[str, Any]
    hints: Mapping[str, Any]
    required: Collection[str] = ()

    def path_of(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def check_configuration(config: Mapping[str, Any], *, complete: bool = True) -> None:
    """Check a configuration against the constructors' signatures before any of them is called.

    The configuration is treated as data: no class outside the allowed packages is imported, and no trainer
    setting is accepted that would run code or write elsewhere.

    Args:
        config: ``model``, ``data``, ``trainer`` and the rest, as in a file of `fit`.
        complete: whether every required key must be present; a command line may supply the rest.

    Raises:
        BadInput: for the first key that is unknown or missing, or whose value or class cannot be used.
    """
    _check_class_paths("", config)
    for section in _sections(config):
        for key, value in section.values.items():
            path = section.path_of(key)
            if key not in section.hints:
                hint = nearest(str(key), section.hints) or "; remove it"
                raise BadInput(f"configuration key '{path}' is unknown{hint}")
            _check_value(path, value, section.hints[key])
        for key in section.required if complete else ():
            if key not in section.values:
                fix = _fix(section.hints[key])
                raise BadInput(f"configuration key '{section.path_of(key)}' is missing; {fix}")


def _sections(config: Mapping[str, Any]) -> Iterator[_Section]:
    yield _Section("", config, PARTS, required=("model",))
    yield from _arguments("data", config.get("data", {}), CrossModalDataModule)
    yield _trainer(config.get("trainer", {}))
    if "model" in config:
        yield from _chosen_class("model", config["model"], RetrievalMethod)


def _check_class_paths(path: str, node: Any) -> None:
    """Check every class named anywhere below a node, whatever it is an argument of.

    Raises BadInput for one that is not allowed.
    """
    if isinstance(node, Mapping):
        for key, value in node.items():
            below = f"{path}.{key}" if path else str(key)
            # Reserved by the parser: the path of a configuration, and a default one to merge it into.
            if str(key).startswith("__"):
                raise BadInput(f"configuration key '{below}' is unknown; remove it")
            if key == "class_path" and isinstance(value, str):
                _check_class_path(below, value)
            _check_class_paths(below, value)
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            _check_class_paths(f"{path}[{number}]", value)


def _check_class_path(path: str, name: str) -> None:
    # Our own classes are looked up later, where an unknown name is reported with its nearest matches.
    if "." not in name or is_below(name, [US]):
        return
    check_allowed(path, name)
    if is_below(name, LIBRARIES) and not _builds_a_part(name):
        raise BadInput(
            f"configuration key '{path}': '{name}' is not a network, optimiser or learning-rate schedule; "
            "name one"
        )


def _builds_a_part(name: str) -> bool:
    """Whether a library's class or function produces something that a method can be built from."""
    module, _, last = name.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), last, None)
        if inspect.isfunction(made):
            made = get_type_hints(made).get("return")
    except (ImportError, NameError, TypeError):
        return False
    return isinstance(made, type) and issubclass(made, (nn.Module, Optimizer, LRScheduler))


def _trainer(values: Any) -> _Section:
    """The trainer's arguments, limited to those that are words and numbers."""
    if not isinstance(values, Mapping):
        raise BadInput(f"configuration key 'trainer' is '{values}'; give keys and values below it")
    annotations = get_type_hints(pl.Trainer.__init__)
    for key in values:
        if key in annotations and key not in TRAINER_KEYS:
            raise BadInput(
                f"configuration key 'trainer.{key}' is not allowed: it could make a shared configuration run "
                "code or write files; remove it"
            )
    return _Section("trainer", values, {key: _plain(annotations[key]) for key in TRAINER_KEYS})


def _plain(hint: Any) -> Any:
    """A type without the classes that would be instantiated from a class_path."""
    plain = [part for part in _alternatives(hint) if part in TYPE_NAMES or get_origin(part) is not None]
    return Union[tuple(plain)]  # noqa: UP007


def _arguments(path: str, values: Any, cls: type) -> Iterator[_Section]:
    """The arguments of a constructor, then those of the dataclasses and classes among them."""
    if not isinstance(values, Mapping):
        raise BadInput(f"configuration key '{path}' is {values!r}; give keys and values below it")
    parameters = inspect.signature(cls).parameters
    annotations = get_type_hints(cls.__init__)  # type: ignore[misc]
    hints = {name: annotations.get(name, Any) for name in parameters}
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    section = _Section(path, values, hints, required)
    yield section
    for name, value in values.items():
        for alternative in _alternatives(hints[name]):
            if value is None:
                continue
            if isinstance(alternative, type) and is_dataclass(alternative):
                yield from _arguments(section.path_of(name), value, alternative)
            elif alternative in PACKAGES:
                yield from _chosen_class(section.path_of(name), value, alternative)
            elif isinstance(alternative, type) and alternative not in TYPE_NAMES and isinstance(value, str):
                _check_class_path(section.path_of(name), value)


def _chosen_class(path: str, values: Any, base: type) -> Iterator[_Section]:
    """A class by its path, then its arguments."""
    if isinstance(values, str):
        values = {"class_path": values}
    yield _Section(path, values, {"class_path": base, "init_args": dict[str, Any]}, required=("class_path",))
    if "class_path" in values:
        cls = imported_class(f"{path}.class_path", values["class_path"], base, PACKAGES[base])
        yield from _arguments(f"{path}.init_args", values.get("init_args", {}), cls)


def _check_value(path: str, value: Any, hint: Any) -> None:
    if _fits(value, hint):
        return
    if value is None:
        raise BadInput(f"configuration key '{path}' is empty; {_fix(hint)}")
    try:
        text = str(value)
    # Python refuses to print integers of more than 4,300 digits.
    except ValueError:
        text = "a number of thousands of digits"
    alternatives = _alternatives(hint)
    literals = [part for part in alternatives if get_origin(part) is Literal]
    if literals and all(part in (NoneType, *literals) for part in alternatives):
        choices = {str(choice) for part in literals for choice in get_args(part)}
        raise BadInput(f"configuration key '{path}' is '{text}'{nearest(text, choices)}")
    raise BadInput(f"configuration key '{path}' is '{text}'; {_fix(hint)}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether the parser accepts a value for a type; a string is also tried as YAML."""
    alternatives = _alternatives(hint)
    if any(_is_instance(value, alternative) for alternative in alternatives):
        return True
    if not isinstance(value, str):
        return False
    try:
        content = parse_yaml(value)
        if isinstance(content, str):
            # YAML 1.1 reads 1e-3 as a string.
            content = float(content)
    except ValueError:
        return False
    return _fits(content, hint)


def _is_instance(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in TYPE_NAMES:
        return isinstance(value, hint)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(content, arguments[1]) for content in value.values())
    if origin is not None and issubclass(origin, Iterable):
        if not isinstance(value, list | tuple):
            return False
        fixed = origin is tuple and Ellipsis not in arguments
        kinds = arguments if fixed else arguments[:1] * len(value)
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    # Any other class is built from a class_path or a string, unless the value is already an instance.
    return hint is Any or not isinstance(hint, type) or isinstance(value, str | Mapping | hint)


def _alternatives(hint: Any) -> list[Any]:
    """The members of a union, or the type itself."""
    if get_origin(hint) not in (Union, UnionType):
        return [hint]
    return [alternative for part in get_args(hint) for alternative in _alternatives(part)]


def _fix(hint: Any) -> str:
    if any(part in PACKAGES for part in _alternatives(hint)):
        return "name a class_path there"
    return f"give {_readable(hint)}"


def _readable(hint: Any) -> str:
    """A type in words."""
    alternatives = _alternatives(hint)
    if len(alternatives) > 1:
        return " or ".join(dict.fromkeys(_readable(part) for part in alternatives))
    origin = get_origin(hint)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    if is_dataclass(hint) or (origin is not None and issubclass(origin, Mapping)):
        return "keys and values below it"
    if origin is not None and get_args(hint):
        return f"a list of {_readable(get_args(hint)[0]).removeprefix('a ')}s"
    return TYPE_NAMES.get(hint) or str(getattr(hint, "__name__", hint))


def refusal(error: BaseException) -> BadInput:
    """A constructor's own error, from underneath those that the parser raises on top of it."""
    chain = _chain(error)
    own = next((link for link in chain if not _raised_by_parser(link)), chain[-1])
    if isinstance(own, BadInput):
        return own
    return BadInput(f"configuration: {' '.join(str(own).split())[:300]}")


def parser_refusal(error: BaseException) -> BadInput:
    """The parser's error about a command line: the key on its first line, the reason from the root cause."""
    first, root = (first_line(link) for link in (error, _chain(error)[-1]))
    return BadInput(f"configuration: {first if root in first else f'{first} {root}'}")


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and those that it was raised from, root cause last."""
    chain = [error]
    while (root := chain[-1].__cause__ or chain[-1].__context__) is not None and root not in chain:
        chain.append(root)
    return chain


def _raised_by_parser(error: BaseException) -> bool:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals.get("__name__", "").startswith("jsonargparse")
