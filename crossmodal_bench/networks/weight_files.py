"""State dicts as found in the wild: wrapped, prefixed, with a different classifier, or without one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.files import first_line

WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "weights")
"""Keys under which training scripts store the state dict, next to the epoch and the optimiser."""
_DENSE = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])(?=\.)")
"""Keys of DenseNet files from 2017, which torchvision itself rewrites."""


def load_state(network: nn.Module, path: Path, name: str, head: Collection[str] = ()) -> None:
    """Load a state dict from a torch or safetensors file into a network.

    Args:
        network: receives the weights.
        path: of the file.
        name: of the network, for error messages.
        head: see ``fit_state``.

    Raises:
        BadInput: no file, no state dict, or not this network's, as for ``fit_state``.
    """
    if not path.is_file():
        raise MissingInput(
            f"weights {path} are missing; give the path of a {name} state dict, DEFAULT or none"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BadInput(
            f"{path} cannot be read as weights; it must be a state dict saved with "
            "torch.save(model.state_dict(), path), which loads without running code"
        ) from error
    fit_state(network, content, str(path), name, head)


def fit_state(network: nn.Module, content: Any, where: str, name: str, head: Collection[str] = ()) -> None:
    """Load a state dict into a network.

    It may be stored under one of WRAPPERS, with keys behind one prefix, as written by DataParallel
    (``module.``), torch.compile or a larger model around the network; keys without the prefix then don't
    belong to the network.

    Args:
        network: receives the weights.
        content: what a file held.
        where: the file, for error messages.
        name: of the network, likewise.
        head: key prefixes of its classifier, which is cut off anyway. They may be missing, or have another
            number of classes; then they keep their values.

    Raises:
        BadInput: not the weights of this network; the message names the first key that is missing,
            unexpected, or of another shape.
    """
    if reason := _fit(network, _tensors(content), tuple(head)):
        raise BadInput(f"{where} does not hold the weights of {name} ({reason}); name the right file")


def _tensors(content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, unwrapped; empty if there are none."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            return {}
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    return {
        _DENSE.sub(r"\1\2", key): value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }


def _fit(network: nn.Module, tensors: Mapping[str, Tensor], head: tuple[str, ...]) -> str:
    """Load the tensors that belong to the network; returns why they don't fit, or an empty string."""
    if not tensors:
        return "it holds no named tensors"
    expected = network.state_dict()
    needed = [key for key in expected if not _optional(key, head)]
    prefixes = _prefixes(tensors, needed)
    if len(prefixes) > 1:
        several = " and ".join(f"'{prefix}'" for prefix in prefixes[:2])
        return f"it holds several networks, under {several}: keep one"
    prefix = prefixes[0] if prefixes else ""
    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    for key, value in list(own.items()):
        if key not in expected or value.shape == expected[key].shape:
            continue
        if not _optional(key, head):
            shapes = [
                " x ".join(map(str, shape)) or "one number" for shape in (value.shape, expected[key].shape)
            ]
            return f"its '{prefix}{key}' is {shapes[0]}, not {shapes[1]}"
        del own[key]
    try:
        # The network itself says which keys are missing, since it may accept older names.
        missing, unknown = network.load_state_dict(own, strict=False)
    # Tensors may be anything but weights: quantised, sparse, bytes of strings.
    except Exception as error:
        return first_line(error)
    if missing := [key for key in missing if not _optional(key, head)]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"it lacks '{prefix}{missing[0]}'{more}"
    if unknown := [key for key in unknown if not _optional(key, head)]:
        return f"it holds '{prefix}{unknown[0]}', which that network lacks"
    return ""


def _optional(key: str, head: tuple[str, ...]) -> bool:
    return key.startswith(head) or key.endswith(".num_batches_tracked")


def _prefixes(tensors: Collection[str], needed: Sequence[str]) -> list[str]:
    """The prefixes before the first of the network's keys; the bare keys take precedence."""
    first = needed[0]
    if first in tensors:
        return [""]
    return [key.removesuffix(first) for key in tensors if key.endswith(f".{first}")]
