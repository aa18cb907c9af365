"""SCAN's and BFAN's scores of an image and a caption by the attended vectors, in loops: the definition."""

from __future__ import annotations

import torch
from torch import Tensor


def attended(query: Tensor, context: Tensor, norm: str, temperature: float, focal: str = "") -> Tensor:
    """(Q, D) what each row of ``query`` (Q, D) sees in ``context`` (C, D)."""
    raw = torch.stack([torch.stack([(c * q).sum() for c in context]) for q in query])
    if norm.startswith("clipped"):
        raw = torch.where(raw > 0, raw, 0.1 * raw)
    if norm == "softmax":
        raw = raw.exp() / raw.exp().sum(0, keepdim=True)
    elif norm.endswith("l2norm"):
        raw = raw / (raw.square().sum(0, keepdim=True).sqrt() + 1e-8)
    elif norm.endswith("l1norm"):
        raw = raw / (raw.abs().sum(0, keepdim=True) + 1e-8)
    rows = []
    for row in raw:
        weights = (temperature * row).exp()
        weights = weights / weights.sum()
        if focal:
            weights = focused(weights, focal)
        rows.append(sum(weight * one for weight, one in zip(weights, context, strict=True)))
    return torch.stack(rows)  # type: ignore[arg-type]


def focused(weights: Tensor, focal: str) -> Tensor:
    """A row of attention without what the others outweigh."""
    kept = torch.zeros_like(weights)
    for i, mine in enumerate(weights):
        balance = sum((mine - other) * (other.sqrt() if focal == "prob" else 1.0) for other in weights)
        if balance > 0:
            kept[i] = mine
    return kept / kept.sum() if kept.sum() > 0 else weights


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """Row by row."""
    return torch.stack(
        [(a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-8) for a, b in zip(x, y, strict=True)]
    )


def aggregated(values: Tensor, how: str, scale: float) -> Tensor:
    """One score of many."""
    if how == "LogSumExp":
        return (scale * values).exp().sum().log() / scale
    return {"Mean": values.mean, "Max": values.max, "Sum": values.sum}[how]()


def scan_score(
    regions: Tensor, words: Tensor, direction: str, how: str, norm: str, temperature: float, scale: float
) -> Tensor:
    """(R, D) and (L, D) to a score."""
    query, context = (words, regions) if direction == "t2i" else (regions, words)
    return aggregated(cosines(query, attended(query, context, norm, temperature)), how, scale)


def bfan_score(regions: Tensor, words: Tensor, focal: str, temperature: float) -> Tensor:
    """(R, D) and (L, D) to a score."""
    return sum(
        cosines(query, attended(query, context, "clipped_l2norm", temperature, focal)).mean()
        for query, context in ((words, regions), (regions, words))
    )  # type: ignore[return-value]
