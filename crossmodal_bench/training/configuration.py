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
    # Also in the files of `fit` and `test`, where Lightning saves them.
    "ckpt_path": Any,
    "weights_only": Any,
    "verbose": Any,
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
"""Arguments that are given as class_path and init_args, and where their classes are looked up."""
TYPE_NAMES: dict[Any, str] = {
    NoneType: "null",
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
}


@dataclass(frozen=True)
class _Section:
    """The values below one key, and the type of each that may stand there."""

    path: str
    values: Mapping[str, Any]
    hints: Mapping[str, Any]
    required: Collection[str] = ()

    def path_of(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def check_configuration(config: Mapping[str, Any], *, complete: bool = True) -> None:
    """Compare a configuration with the constructors' signatures, before any of them is called.

    What is left to the parser: classes that are not this package's, such as Lightning's callbacks.

    Args:
        config: ``model``, ``data``, ``trainer`` and the rest, as in a file of `fit`.
        complete: whether nothing may be missing; a command line may hold the rest.

    Raises:
        BadInput: the first key that is unknown or missing, or whose value or class cannot be used.
    """
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
    yield from _arguments("trainer", config.get("trainer", {}), pl.Trainer)
    if "model" in config:
        yield from _chosen_class("model", config["model"], RetrievalMethod)


def _arguments(path: str, values: Any, cls: type) -> Iterator[_Section]:
    """The arguments of a constructor, then those of the settings and classes among them."""
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


def _chosen_class(path: str, values: Any, base: type) -> Iterator[_Section]:
    """A class by its path, then its arguments."""
    if isinstance(values, str):
        values = {"class_path": values}
    yield _Section(path, values, {"class_path": base, "init_args": dict[str, Any]}, required=("class_path",))
    if "class_path" in values:
        cls = _imported(f"{path}.class_path", values["class_path"], base)
        yield from _arguments(f"{path}.init_args", values.get("init_args", {}), cls)


def _imported(path: str, name: Any, base: type) -> type:
    """The class; a name without a module is one of this package's."""
    package = PACKAGES[base]
    exported = vars(importlib.import_module(package))
    known = [
        f"{package}.{export}"
        for export in exported["__all__"]
        if isinstance(exported[export], type)
        and issubclass(exported[export], base)
        and not inspect.isabstract(exported[export])
    ]
    module, _, last = str(name).rpartition(".")
    try:
        cls = getattr(importlib.import_module(module or package), last, None)
    # What is no name of a module at all, too.
    except (ImportError, TypeError, ValueError):
        cls = None
    if cls is None:
        raise BadInput(f"configuration key '{path}': '{name}' cannot be imported{nearest(str(name), known)}")
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise BadInput(
            f"configuration key '{path}': '{name}' is no {base.__name__}{nearest(str(name), known)}"
        )
    return cls


def _check_value(path: str, value: Any, hint: Any) -> None:
    if _fits(value, hint):
        return
    if value is None:
        raise BadInput(f"configuration key '{path}' is empty; {_fix(hint)}")
    try:
        text = str(value)
    # Python writes no number of more than 4,300 digits.
    except ValueError:
        text = "a number of thousands of digits"
    alternatives = _alternatives(hint)
    literals = [part for part in alternatives if get_origin(part) is Literal]
    if literals and all(part in (NoneType, *literals) for part in alternatives):
        choices = {str(choice) for part in literals for choice in get_args(part)}
        raise BadInput(f"configuration key '{path}' is '{text}'{nearest(text, choices)}")
    raise BadInput(f"configuration key '{path}' is '{text}'; {_fix(hint)}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether the parser takes a value for a type: from a string, also what it says as YAML."""
    alternatives = _alternatives(hint)
    if any(_is_instance(value, alternative) for alternative in alternatives):
        return True
    if not isinstance(value, str):
        return False
    try:
        content = parse_yaml(value)
        if isinstance(content, str):
            # YAML 1.1 takes 1e-3 for a word.
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
    # Any other class is made from a class_path or a string, if it is not there already.
    return hint is Any or not isinstance(hint, type) or isinstance(value, str | Mapping | hint)


def _alternatives(hint: Any) -> list[Any]:
    """The parts of a union, or the type alone."""
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
    """What a constructor refused, in its own words: the parser raises complaints of its own on top of it."""
    chain = _chain(error)
    own = next((link for link in chain if not _raised_by_parser(link)), chain[-1])
    if isinstance(own, BadInput):
        return own
    return BadInput(f"configuration: {' '.join(str(own).split())[:300]}")


def parser_refusal(error: BaseException) -> BadInput:
    """What the parser refused of a command line: the key on its first line, the reason at its root."""
    first, root = (first_line(link) for link in (error, _chain(error)[-1]))
    return BadInput(f"configuration: {first if root in first else f'{first} {root}'}")


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and those that it was raised from, the root last."""
    chain = [error]
    while (root := chain[-1].__cause__ or chain[-1].__context__) is not None and root not in chain:
        chain.append(root)
    return chain


def _raised_by_parser(error: BaseException) -> bool:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals.get("__name__", "").startswith("jsonargparse")
