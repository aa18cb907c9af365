"""State dicts as people have them: wrapped, prefixed, with another classifier than the network's, or none."""

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
"""Keys under which trainings put a state dict beside their epoch and their optimiser."""
_DENSE = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])(?=\.)")
"""DenseNet's files of 2017, whose keys torchvision itself rewrites."""


def load_state(network: nn.Module, path: Path, name: str, head: Collection[str] = ()) -> None:
    """Give a network the state dict in a file of torch's, or of safetensors.

    Args:
        network: takes the weights.
        path: of the file.
        name: of the network, for the sentence of a BadInput.
        head: see ``fit_state``.

    Raises:
        BadInput: no file, no state dict, or not this network's, as ``fit_state`` says it.
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
    """Give a network a state dict.

    It may stand under one of WRAPPERS, and its keys behind one prefix, as DataParallel (``module.``),
    torch.compile or a whole model around the network write them; what stands behind no such prefix is then
    not the network's.

    Args:
        network: takes the weights.
        content: what a file held.
        where: the file, for the sentence of a BadInput.
        name: of the network, for the same.
        head: prefixes of the keys of its classifier, which is cut off anyway. They may be missing, or of
            another number of classes, and stay as they are then.

    Raises:
        BadInput: no weights of this network; it names the first key that is missing, too many, or of another
            shape.
    """
    if reason := _fit(network, _tensors(content), tuple(head)):
        raise BadInput(f"{where} holds no weights of {name} ({reason}); name the right file")


def _tensors(content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, out of whatever is wrapped around them; empty where there are none."""
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
    """Load the tensors that are the network's; why there are none, in a clause, or an empty text."""
    if not tensors:
        return "it holds no tensors by name"
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
        # Which keys are missing is asked of the network, which may know older names of its own.
        missing, unknown = network.load_state_dict(own, strict=False)
    # Whatever tensors may be instead of weights: quantised, sparse, of strings' bytes.
    except Exception as error:
        return first_line(error)
    if missing := [key for key in missing if not _optional(key, head)]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"it lacks '{prefix}{missing[0]}'{more}"
    if unknown := [key for key in unknown if not _optional(key, head)]:
        return f"it holds '{prefix}{unknown[0]}', which that network has not"
    return ""


def _optional(key: str, head: tuple[str, ...]) -> bool:
    return key.startswith(head) or key.endswith(".num_batches_tracked")


def _prefixes(tensors: Collection[str], needed: Sequence[str]) -> list[str]:
    """What stands before the first of the network's keys; the network's own keys count before any other."""
    first = needed[0]
    if first in tensors:
        return [""]
    return [key.removesuffix(first) for key in tensors if key.endswith(f".{first}")]
