"""What is wrong with a configuration, in one sentence that names the key and the fix."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import pytorch_lightning as pl

from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.data.datasets import DatasetReader
from crossmodal_bench.data.text import TextSettings
from crossmodal_bench.methods import RetrievalMethod
from crossmodal_bench.methods.hosts import Host
from crossmodal_bench.networks import ImageEncoder, TextEncoder

TOP = ("model", "data", "trainer", "seed_everything")
OF_COMMANDS = ("ckpt_path", "weights_only", "verbose")
"""Also in the files of `fit` and `test`, where Lightning saves them."""
HOMES: dict[type, str] = {
    RetrievalMethod: "crossmodal_bench.methods",
    DatasetReader: "crossmodal_bench.data.datasets",
    ImageEncoder: "crossmodal_bench.networks",
    TextEncoder: "crossmodal_bench.networks",
    Host: "crossmodal_bench.methods.hosts",
}


class _Section(NamedTuple):
    path: str
    values: Mapping[str, Any]
    keys: Collection[str]
    hints: Mapping[str, Any]


def check_keys(config: Mapping[str, Any]) -> None:
    """Refuse what the parser reports badly or lets pass: unknown keys and classes, and values left empty.

    Raises:
        BadInput: the first of them.
    """
    for section in _sections(config):
        for key, value in section.values.items():
            path = f"{section.path}.{key}".lstrip(".")
            if key not in section.keys:
                raise BadInput(
                    f"configuration key '{path}' is unknown{nearest(str(key), section.keys) or '; remove it'}"
                )
            hint = section.hints.get(key, Any)
            if value is None and hint is not Any and NoneType not in (hint, *get_args(hint)):
                raise BadInput(f"configuration key '{path}' is empty; give {_readable(hint)}")


def explain(config: Mapping[str, Any], error: Exception) -> str:
    """A parser's or a constructor's complaint about a configuration whose keys are known."""
    text = str(error)
    unknown = re.search(r"[Uu]nrecognized arguments: --([\w.]+)|[Oo]ption '([\w.]+)' is not accepted", text)
    if unknown is not None:
        key = unknown[1] or unknown[2]
        known = {name for section in _sections(config) for name in section.keys}
        return f"configuration key '{key}' is unknown{nearest(key.rpartition('.')[2], known)}"
    missing = re.search(r"arguments? are required: (?:(?:fit|test)\.)?([\w.]+)", text)
    if missing is not None:
        return f"configuration key '{missing[1]}' is missing; name a class_path there"
    *_, last = re.split(r'Parser key "', text)
    given = re.search(r"(?:Got|Given) value: (.*)", last)
    path = ".init_args.".join(re.findall(r'Parser key "([\w.]+)"', text))
    for section in _sections(config):
        folder, _, key = path.rpartition(".")
        if given is not None and folder == section.path and key in section.hints:
            hint = section.hints[key]
            choices = {str(choice) for choice in _choices(hint)}
            fix = nearest(given[1], choices) if choices else f"; give {_readable(hint)}"
            return f"configuration key '{path}' is '{given[1]}'{fix}"
    # What a constructor refused comes wrapped in the parser's list of alternatives.
    refused = re.search(r"Errors:\s+- (.*?)\s+- Expected a <class 'NoneType'>", text, re.DOTALL)
    sentence = re.sub(r"\s+", " ", refused[1] if refused else text).strip()
    return f"configuration{f' key {path!r}' if path else ''}: {sentence[:300]}"


def _sections(config: Mapping[str, Any]) -> Iterator[_Section]:
    yield _Section("", config, (*TOP, *OF_COMMANDS), {"seed_everything": bool | int})
    for name, cls in (("data", CrossModalDataModule), ("trainer", pl.Trainer)):
        if name in config:
            yield _of_class(name, config[name], cls)
    data = config.get("data", {})
    if isinstance(data.get("text"), Mapping):
        yield _of_class("data.text", data["text"], TextSettings)
    elif "text" in data:
        raise BadInput(f"configuration key 'data.text' is {data['text']!r}; give keys and values below it")
    if "model" in config:
        yield from _of_subclass("model", config["model"], RetrievalMethod)
    if "dataset" in data:
        yield from _of_subclass("data.dataset", data["dataset"], DatasetReader)


def _of_class(path: str, values: Any, cls: type) -> _Section:
    if not isinstance(values, Mapping):
        raise BadInput(f"configuration key '{path}' is {values!r}; give keys and values below it")
    keys = [name for name in inspect.signature(cls).parameters if name != "self"]
    return _Section(path, values, keys, get_type_hints(cls.__init__))  # type: ignore[misc]


def _of_subclass(path: str, values: Any, base: type) -> Iterator[_Section]:
    if isinstance(values, str):
        values = {"class_path": values}
    if not isinstance(values, Mapping):
        raise BadInput(f"configuration key '{path}' is {values!r}; give it a class_path and init_args")
    yield _Section(path, values, ("class_path", "init_args"), {})
    if "class_path" in values:
        cls = _imported(f"{path}.class_path", values["class_path"], base)
        if "init_args" in values:
            arguments = _of_class(f"{path}.init_args", values["init_args"], cls)
            yield arguments
            for key, value in arguments.values.items():
                hint = arguments.hints.get(key)
                if hint in HOMES and value is not None:
                    yield from _of_subclass(f"{arguments.path}.{key}", value, arguments.hints[key])
                elif isinstance(hint, type) and is_dataclass(hint) and value is not None:
                    yield _of_class(f"{arguments.path}.{key}", value, hint)


def _imported(path: str, name: Any, base: type) -> type:
    """The class; a name without a module is one of this package's."""
    home = HOMES[base]
    module = importlib.import_module(home)
    classes = {one: getattr(module, one) for one in module.__all__}
    known = [
        f"{home}.{name}"
        for name, one in classes.items()
        if isinstance(one, type) and issubclass(one, base) and one is not base
    ]
    where, _, last = str(name).rpartition(".")
    try:
        found = getattr(importlib.import_module(where or home), last, None)
    # What is no name of a module at all, too.
    except (ImportError, TypeError, ValueError):
        found = None
    if found is None:
        raise BadInput(f"configuration key '{path}': '{name}' cannot be imported{nearest(str(name), known)}")
    if not (isinstance(found, type) and issubclass(found, base)):
        raise BadInput(
            f"configuration key '{path}': '{name}' is no {base.__name__}{nearest(str(name), known)}"
        )
    return found


def _choices(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return [choice for part in get_args(hint) for choice in _choices(part)]
    return []


def _readable(hint: Any) -> str:
    """A type in words."""
    if get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(dict.fromkeys(_readable(part) for part in get_args(hint)))
    if get_origin(hint) is not None and get_args(hint):
        return f"a list of {_readable(get_args(hint)[0]).removeprefix('a ')}s"
    words = {NoneType: "null", int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return words.get(hint) or str(getattr(hint, "__name__", hint))
