"""Losses over the batches of all processes, with gradients that are exact after DDP's averaging.

Each process r encodes its own samples x_r and computes the gradient of a loss L_r; DDP then averages the
parameters' gradients over the W processes. If L is a function of gathered tensors, every process computes the
same L of all x, and ``gather`` returns to each x_r the sum of the gradients from all W processes, which is
W dL/dx_r. Through x_r, this reaches the parameters as W dL/dx_r dx_r/dp, and the average over r is the sum of
dL/dx_r dx_r/dp: the gradient of L, whether L is a sum or a mean. Parameters that L uses after the gathering,
such as class weights, have the gradient of L on every process, and so in the average. A loss of a process's
own samples alone lacks this factor W; ``sum_over_all`` and ``mean_over_all`` supply it to offset the average.

The backward pass visits the gathered nodes in the reverse order of their creation, so all processes meet in
the same collectives provided that each of them gathers the same things in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding, Scorer
from crossmodal_bench.core.host import sent


def world_size() -> int:
    """How many processes train together."""
    return torch.distributed.get_world_size() if _together() else 1


def rank() -> int:
    """The index of this process among them."""
    return torch.distributed.get_rank() if _together() else 0


def gather(tensor: Tensor) -> Tensor:
    """All processes' tensors, concatenated along the first axis; with one process, the tensor itself.

    Its gradient is the sum over all processes (see above), so either all of them must differentiate it or
    none. torch.distributed.nn.all_gather has the same gradient, but requires equal lengths and is deprecated.

    Args:
        tensor: (n, ...), where only n may differ between processes.
    """
    return tensor if world_size() == 1 else _Gather.apply(tensor)


def gather_objects(mine: Any) -> list[Any]:
    """The objects of all processes, in rank order; anything picklable, without gradients."""
    if world_size() == 1:
        return [mine]
    everyone: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def gather_encoding(encoding: Encoding) -> Encoding:
    """All processes' items, in the order of ``gather``; packed fragments stay packed."""
    lengths = encoding.lengths
    if lengths is not None and world_size() > 1:
        # NCCL only moves accelerator memory.
        lengths = gather(sent(lengths, encoding.values.device)).cpu()
    return Encoding(gather(encoding.values), lengths)


def gather_interleaved(tensor: Tensor) -> Tensor:
    """Like ``gather`` of (n, ...) with equal n, but in the order of the batch that one process would see.

    The loader deals samples in turn: row i of process r becomes row i W + r.
    """
    return gather(tensor).unflatten(0, (world_size(), -1)).transpose(0, 1).flatten(0, 1)


def own_rows(count: int, device: torch.device) -> slice:
    """The slice of this process's ``count`` rows in the result of ``gather``."""
    start = sum(_counts(count, device)[: rank()])
    return slice(start, start + count)


def pair_scores(score: Scorer, images: Encoding, texts: Encoding, everywhere: bool) -> Tensor:
    """(B, B) scores of this process's pairs, or (all, all) scores of every process's.

    The latter does not score everything everywhere: each process scores its own images with all texts. The
    rows S_r are gathered, so S_r has the gradient W dL/dS_r. A process's images get theirs through S_r alone:
    W dL/dx_r. A text is in the rows of all processes; gathering it adds up their W dL/dS_r dS_r/dt to
    W dL/dt. The factor is W on both sides, as if every process had scored everything.

    Args:
        score: the similarity.
        images, texts: B of each, row b of both being a pair.
        everywhere: include the pairs of the other processes.
    """
    if not everywhere:
        return score(images, texts)
    return gather(score(images, gather_encoding(texts)))


def sum_over_all(own: Tensor) -> Tensor:
    """The sum over a process's own samples, times W: DDP averages it to the sum over all samples."""
    return own * world_size()


def mean_over_all(own: Tensor, count: Tensor | int) -> Tensor:
    """The mean over a process's ``count`` items, weighted so that DDP averages it to the mean over all items.

    Means over the pairs of a batch need no weights, since batches have the same size on all processes; the
    number of words, say, differs between processes.

    Args:
        own: the mean; any finite value if there are no items.
        count: a scalar.
    """
    if world_size() == 1:
        return own
    mine = torch.as_tensor(count, device=own.device)
    total = mine.clone()
    torch.distributed.all_reduce(total)
    return own * (mine * world_size()) / total.clamp(min=1)


class _Gather(torch.autograd.Function):
    """Forward: the rows of all processes. Backward: the summed gradients of this process's own rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        counts = _counts(len(tensor), tensor.device)
        ctx.rows = (sum(counts[: rank()]), len(tensor))
        # Collectives need equal shapes: pad to the longest, then cut.
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in counts]
        torch.distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # All-reduce, then keep the own rows: gloo has no reduce-scatter.
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(summed)
        return summed.narrow(0, *ctx.rows)


def _counts(own: int, device: torch.device) -> list[int]:
    """The counts of all processes."""
    parts = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(world_size())]
    if len(parts) == 1:
        return [own]
    torch.distributed.all_gather(parts, torch.tensor(own, device=device))
    return torch.stack(parts).tolist()


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
