"""Plain values with this machine's folders removed, for everything about a job that others see."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crossmodal_bench.networks.dual_encoders import HF

_ABSOLUTE = re.compile(r"^(/|~|[A-Za-z]:[\\/])")
_WITHIN = re.compile(r"(?<![\w.~/\\])(?:~|[A-Za-z]:)?[/\\][\w.][^\s'\",;:()\[\]{}]*")
"""An absolute path anywhere in a text, but not ``images/s`` or ``and/or``."""


def path_replacement(root: str, runs: str) -> Callable[[str], str]:
    """Replace a path in the data root by one in ``data``, and any other absolute path by its file name.

    Args:
        root: the data root as given in a configuration; empty if it is not.
        runs: the RUNS folder.
    """

    def replace(text: str) -> str:
        if text.startswith(HF):
            # What follows may be a folder or a name on the hub.
            return HF + replace(text.removeprefix(HF))
        for folder, name in ((root, "data"), (runs, "runs")):
            if folder not in ("", ".", "/") and (text == folder or text.startswith(f"{folder}/")):
                text = name + text[len(folder) :]
        if _ABSOLUTE.match(text) and " " not in text:
            text = _file_name(text)
        return text

    return replace


def mapped(value: Any, replace: Callable[[str], str]) -> Any:
    """The same lists and mappings with every string in them replaced."""
    if isinstance(value, Mapping):
        return {name: mapped(item, replace) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [mapped(item, replace) for item in value]
    return replace(value) if isinstance(value, str) else value


def without_folders(content: dict[str, Any], root: str, runs: Path) -> dict[str, Any]:
    """The same values without absolute paths, not even within a sentence: only each one's last part is kept.

    Args:
        content: strings, numbers, lists and mappings.
        root: the data root as given in a configuration; empty if it is not.
        runs: the RUNS folder.
    """
    known = path_replacement(root, str(runs))
    folders = {str(runs.absolute()): "runs", str(Path.cwd()): ".", str(Path.home()): "~"}

    def replace(text: str) -> str:
        text = known(text)
        for folder, name in folders.items():
            # Names with spaces are not matched below.
            if len(folder) > 1:
                text = text.replace(f"{folder}/", f"{name}/")
        return _WITHIN.sub(lambda path: _file_name(path[0]), text)

    return dict(mapped(content, replace))


def _file_name(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
