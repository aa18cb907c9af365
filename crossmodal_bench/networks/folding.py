"""Batch norms of a frozen network, folded into the convolutions before them."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator

import torch
import torch.fx
from torch import nn


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> None:
    """Fold batch norms into the convolutions before them, and remove them.

    With fixed statistics, a batch norm is a scale and a shift of each channel, so that
    ``norm(convolution(x)) = convolution'(x)``, which saves one pass over the feature map. The new weights are
    computed in double precision and rounded once, so the outputs are as close to the exact ones as before. A
    network whose control flow cannot be traced is left as it is.

    Args:
        network: in eval mode; it is modified, and must not be trained afterwards.
    """
    norms = {norm: convolution for convolution, norm in _pairs(network)}
    for norm, convolution in norms.items():
        _fold(convolution, norm)
        _drop(norm, network)


def _drop(norm: nn.BatchNorm2d, network: nn.Module) -> None:
    """Replace every occurrence of the norm by the identity: a submodule may be registered twice."""
    for parent in network.modules():
        for name, child in parent.named_children():
            if child is norm:
                setattr(parent, name, nn.Identity())


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -scale * norm.running_mean.double()
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if convolution.bias is not None:
        shift = shift + scale * convolution.bias.double()
    weight = convolution.weight
    convolution.weight = nn.Parameter((weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype))
    convolution.bias = nn.Parameter(shift.to(weight.dtype))


def _pairs(network: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each convolution whose output only a batch norm reads, which reads nothing else, with that norm."""
    # Tracing calls the network, and some store their inputs: trace a twin that shares the tensors.
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    twin = copy.deepcopy(network, shared)
    originals = dict(zip(twin.modules(), network.modules(), strict=True))
    for part, graph in _followed(twin):
        inputs: dict[nn.Module, set[object]] = defaultdict(set)
        readers: dict[nn.Module, set[object]] = defaultdict(set)
        modules = {
            node: part.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"
        }
        for node, module in modules.items():
            inputs[module] |= {modules.get(argument, argument) for argument in node.all_input_nodes}
            readers[module] |= {modules.get(user, user) for user in node.users}
        for module, those in readers.items():
            norm = next(iter(those), None)
            if type(module) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d or norm.running_var is None:
                continue
            if those == {norm} and inputs[norm] == {module}:
                yield originals[module], originals[norm]  # type: ignore[misc]


def _followed(network: nn.Module) -> Iterator[tuple[nn.Module, torch.fx.Graph]]:
    """The largest parts of a network with input-independent control flow, with their graphs."""
    try:
        yield network, torch.fx.Tracer().trace(network)
    # A network may branch on its input, or do anything else that cannot be traced.
    except Exception:
        for part in network.children():
            yield from _followed(part)
