"""Plain values without the folders of this machine, for what other people see of a job."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crossmodal_bench.networks.dual_encoders import HF

_ABSOLUTE = re.compile(r"^(/|~|[A-Za-z]:[\\/])")
_WITHIN = re.compile(r"(?<![\w.~/\\])(?:~|[A-Za-z]:)?[/\\][\w.][^\s'\",;:()\[\]{}]*")
"""A path that begins at a root, anywhere in a text; ``images/s`` and ``and/or`` are none."""


def path_replacement(root: str, runs: str) -> Callable[[str], str]:
    """A path below the data root becomes one below ``data``; another absolute one its file's name.

    Args:
        root: the data root, as a configuration names it; empty where it names none.
        runs: the folder of runs.
    """

    def replace(text: str) -> str:
        if text.startswith(HF):
            # What follows may be a folder, or a name of the hub.
            return HF + replace(text.removeprefix(HF))
        for folder, name in ((root, "data"), (runs, "runs")):
            if folder not in ("", ".", "/") and (text == folder or text.startswith(f"{folder}/")):
                text = name + text[len(folder) :]
        if _ABSOLUTE.match(text) and " " not in text:
            text = _file_name(text)
        return text

    return replace


def mapped(value: Any, replace: Callable[[str], str]) -> Any:
    """The same lists and mappings, every text in them replaced."""
    if isinstance(value, Mapping):
        return {name: mapped(item, replace) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [mapped(item, replace) for item in value]
    return replace(value) if isinstance(value, str) else value


def without_folders(content: dict[str, Any], root: str, runs: Path) -> dict[str, Any]:
    """The same values without any absolute path, not even within a sentence: of each its last name is left.

    Args:
        content: texts, numbers, lists and mappings.
        root: the data root, as a configuration names it; empty where it names none.
        runs: the folder of runs.
    """
    known = path_replacement(root, str(runs))
    folders = {str(runs.absolute()): "runs", str(Path.cwd()): ".", str(Path.home()): "~"}

    def replace(text: str) -> str:
        text = known(text)
        for folder, name in folders.items():
            # Names with blanks are not found below.
            if len(folder) > 1:
                text = text.replace(f"{folder}/", f"{name}/")
        return _WITHIN.sub(lambda path: _file_name(path[0]), text)

    return dict(mapped(content, replace))


def _file_name(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
