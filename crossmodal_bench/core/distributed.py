"""Losses over the batches of all processes, with gradients that DDP's average makes exact.

Each process r encodes its own samples x_r and takes the gradient of a loss L_r; DDP then averages the
parameters' gradients over the W processes. Where L is a function of gathered things, every process computes
the same L of all x, and ``gather`` hands each x_r back the sum of what all W processes found for it, which is
W dL/dx_r. Through x_r that reaches the parameters as W dL/dx_r dx_r/dp, and the average over r is the sum of
dL/dx_r dx_r/dp, the gradient of L, whether L is a sum or a mean. What L reads behind the gathering, class
weights for example, has the gradient of L on every process, and so in the average. A loss of own samples
alone has no such factor W: ``sum_over_all`` and ``mean_over_all`` give it what the average takes away.

Backward passes take the gathered nodes in the reverse order of their making, so that all processes meet in
the same collectives as long as each of them gathers the same things in the same order.
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
    """Which of them this is."""
    return torch.distributed.get_rank() if _together() else 0


def gather(tensor: Tensor) -> Tensor:
    """All processes' tensors, one after another along the first axis; the tensor itself in one process.

    Its gradient is the sum of all processes' (see above), so that it must be differentiated on all or on
    none. Not torch.distributed.nn.all_gather, which has the same gradient but wants equal lengths and is
    deprecated.

    Args:
        tensor: (n, ...) where n may differ from process to process and the rest may not.
    """
    return tensor if world_size() == 1 else _Gather.apply(tensor)


def gather_objects(mine: Any) -> list[Any]:
    """What all processes hand over, in their order; anything that can be pickled, without gradients."""
    if world_size() == 1:
        return [mine]
    everyone: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def gather_encoding(encoding: Encoding) -> Encoding:
    """All processes' items, in the order of ``gather``; packed fragments stay packed."""
    lengths = encoding.lengths
    if lengths is not None and world_size() > 1:
        # NCCL moves the accelerator's memory only.
        lengths = gather(sent(lengths, encoding.values.device)).cpu()
    return Encoding(gather(encoding.values), lengths)


def gather_interleaved(tensor: Tensor) -> Tensor:
    """As ``gather`` of (n, ...) with one n for all, in the order of the batch that one process would have.

    The loader deals samples in turns: row i of process r is row i W + r there.
    """
    return gather(tensor).unflatten(0, (world_size(), -1)).transpose(0, 1).flatten(0, 1)


def own_rows(count: int, device: torch.device) -> slice:
    """Where this process's ``count`` rows lie in what ``gather`` returns."""
    start = sum(_counts(count, device)[: rank()])
    return slice(start, start + count)


def pair_scores(score: Scorer, images: Encoding, texts: Encoding, everywhere: bool) -> Tensor:
    """(B, B) scores of this process's pairs, or (all, all) of every process's.

    The latter without scoring everything everywhere: each process scores its own images with all texts. The
    rows S_r are gathered, so that S_r has the gradient W dL/dS_r. Own images have theirs through S_r alone,
    W dL/dx_r. A text is in the rows of all processes; its gathering adds their W dL/dS_r dS_r/dt up to
    W dL/dt. The factor is W on both sides, as if everything had been scored by everyone.

    Args:
        score: the similarity.
        images, texts: B of each, row b of both being a pair.
        everywhere: whether the others' pairs are wanted too.
    """
    if not everywhere:
        return score(images, texts)
    return gather(score(images, gather_encoding(texts)))


def sum_over_all(own: Tensor) -> Tensor:
    """A sum over own samples, times W: what DDP averages to the sum over all processes' samples."""
    return own * world_size()


def mean_over_all(own: Tensor, count: Tensor | int) -> Tensor:
    """A mean over ``count`` own things, weighted: what DDP averages to the mean over all processes' things.

    Means over a batch's pairs need no weights, because all processes' batches have the same size; its words,
    say, are not as many everywhere.

    Args:
        own: the mean; anything finite where there is nothing to take it of.
        count: a scalar.
    """
    if world_size() == 1:
        return own
    mine = torch.as_tensor(count, device=own.device)
    total = mine.clone()
    torch.distributed.all_reduce(total)
    return own * (mine * world_size()) / total.clamp(min=1)


class _Gather(torch.autograd.Function):
    """Forwards all processes' rows, backwards the sum of all processes' gradients of the own ones."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        counts = _counts(len(tensor), tensor.device)
        ctx.rows = (sum(counts[: rank()]), len(tensor))
        # Collectives want one shape: pad to the longest, and cut.
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in counts]
        torch.distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # A reduction of everything, of which the own rows are kept: gloo has no reduction that scatters.
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(summed)
        return summed.narrow(0, *ctx.rows)


def _counts(own: int, device: torch.device) -> list[int]:
    """All processes' numbers."""
    parts = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(world_size())]
    if len(parts) == 1:
        return [own]
    torch.distributed.all_gather(parts, torch.tensor(own, device=device))
    return torch.stack(parts).tolist()


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
