"""What the YAML files of ``experiments/`` look like: which keys, and what stands behind each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.core.files import shown

PRESETS = ("smoke", "small", "paper", "controlled")
_PARTS = {"model": {"init_args": dict, "*": object}, "*": dict}
_PRESETS = {preset: _PARTS for preset in PRESETS}
_ROW = {"method!": str, "overrides": dict, "label": str, "*": object}
SHAPES: dict[str, dict[str, Any]] = {
    "methods": {
        "base": str,
        "class_path": str,
        "title": str,
        "ablation": str,
        "parents": object,
        "override": _PARTS,
        "datasets": {"*": {"*": _PARTS}},
        **_PRESETS,
    },
    "datasets": {
        "data!": {"dataset!": {"class_path!": str, "init_args": dict, "*": object}, "*": object},
        "protocols": {"*": _PARTS},
        "methods": object,
        **_PRESETS,
    },
    "suites": {
        "description": str,
        "datasets": [str],
        "protocols": [str],
        "methods": [str],
        "seeds": int,
        "presets": {"*": str},
        "evaluate": str,
        "overrides": dict,
        "rows": [_ROW],
        "sweep": {"method!": str, "keys": {"*": list}, "*": object},
        "ensembles": [{"members": [_ROW], "*": object}],
    },
}
"""By folder. ``!`` ends a key that must be there, ``*`` is any other key; a list has any number of them."""
_WORDS = {str: "text", int: "a whole number", list: "a list", dict: "keys and values"}


def check_shape(path: Path, value: Any, shape: Any, where: str = "") -> None:
    """Raise BadInput for a key that is unknown or missing, or has a value of another shape."""
    kind: type = type(shape) if isinstance(shape, dict | list) else shape
    if not isinstance(value, kind):
        at = f": {where} is" if where else " is"
        raise BadInput(f"{path}{at} {shown(value)}; give {_WORDS[kind]}")
    if isinstance(shape, list) and isinstance(value, list):
        for number, one in enumerate(value):
            check_shape(path, one, shape[0], f"{where}[{number}]")
    if isinstance(shape, dict) and isinstance(value, dict):
        known = {key.removesuffix("!"): inner for key, inner in shape.items()}
        below = f"{where}." if where else ""
        for key, one in value.items():
            if key not in known and "*" not in known:
                raise BadInput(f"{path}: key '{below}{key}' is unknown{nearest(key, known)}")
            check_shape(path, one, known.get(key, known.get("*")), f"{below}{key}")
        for key in shape:
            if key.endswith("!") and key[:-1] not in value:
                raise BadInput(f"{path}: key '{below}{key[:-1]}' is missing; add it")
