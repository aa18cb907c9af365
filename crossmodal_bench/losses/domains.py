"""ADDR's losses: how well a pair's discriminator separates its image's regions from its captions' words."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crossmodal_bench.core.host import sent

Reduction = Literal["mean", "sum"]
_MANY = 32
"""Number of discriminators needed by one pair above which all of the batch's are applied to every pair."""


def domain_risks(
    regions: Tensor,
    words: Tensor,
    lengths: Tensor,
    weight: Tensor,
    bias: Tensor,
    reduction: Reduction = "mean",
) -> Tensor:
    """L_adv of K logistic discriminators on each of B pairs, ADDR's Eq. 2 as a cross entropy.

    Regions have label 1 and words 0: -mean log s(W v + b) - mean log(1 - s(W w + b)). Eq. 2 prints the labels
    the other way round and without the minus sign, which has no lower bound; Eq. 8-9 need a non-negative
    risk.

    Args:
        regions: (B, R, D).
        words: (sum of lengths, D), pair by pair; of all captions of a pair's image, or of one.
        lengths: (B,) words of each pair, at least 1; on the host.
        weight: (B, K, D) discriminators to apply to each pair.
        bias: (B, K).
        reduction: ``sum`` sums over regions and over words, which makes the margin of Eq. 8-9 insignificant.

    Returns:
        (B, K), non-negative; 2 log 2 for a discriminator that has learned nothing (``mean``).

    Raises:
        ValueError: mismatched shapes, or an unknown reduction.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is '{reduction}'; use 'mean' or 'sum'")
    counts = lengths.tolist()
    if not len(regions) == len(weight) == len(bias) == len(counts) or sum(counts) != len(words):
        raise ValueError(
            f"regions {tuple(regions.shape)}, words {tuple(words.shape)} of {len(counts)} pairs, weight "
            f"{tuple(weight.shape)} and bias {tuple(bias.shape)} must be (B, R, D), (T, D), (B, K, D), (B, K)"
        )
    columns, offsets = weight.transpose(1, 2), bias[:, None, :]
    of_regions = F.softplus(-(torch.bmm(regions, columns) + offsets)).sum(1)
    padded = pad_sequence(list(words.split(counts)), batch_first=True)
    lengths = sent(lengths, words.device)
    real = torch.arange(padded.shape[1], device=words.device) < lengths[:, None]
    of_words = (F.softplus(torch.bmm(padded, columns) + offsets) * real[:, :, None]).sum(1)
    if reduction == "sum":
        return of_regions + of_words
    return of_regions / regions.shape[1] + of_words / lengths[:, None]


def domain_regularisation(risks: Tensor, q: Tensor, r: Tensor, margin: float = 0.05) -> Tensor:
    """L_reg of each pair, ADDR's Eq. 8 plus Eq. 9: a discriminator fits its own pair better than others do.

    For a pair p with the hard negatives q and r: hinges of margin + L_p(f_p) - L_p(f_q), L_q(f_q) - L_q(f_p),
    L_r(f_r) - L_r(f_p) and L_p(f_p) - L_p(f_r). Eq. 9 prints q in its first term, where (7) has r; Eq. 4-7
    have the margin as slack.

    Args:
        risks: (B, B); entry (i, j) is the risk of discriminator j on pair i. Only the entries of pairs with
            their hard negatives are read.
        q, r: (B,) positions of the hard negatives in the batch; a pair that is its own negative has no terms.
        margin: alpha.

    Returns:
        (B,).

    Examples:
        >>> import torch
        >>> risks = torch.tensor([[1.0, 1.4], [1.4, 1.0]])  # each discriminator knows its own pair better
        >>> domain_regularisation(risks, q=torch.tensor([1, 0]), r=torch.tensor([1, 0]))
        tensor([0., 0.])
    """
    own = risks.diagonal()
    p = torch.arange(len(risks), device=risks.device)

    def pair_of_terms(other: Tensor) -> Tensor:
        on_p = (margin + own - risks[p, other]).clamp(min=0)
        on_other = (margin + own[other] - risks[other, p]).clamp(min=0)
        return (on_p + on_other).masked_fill(other == p, 0)

    return pair_of_terms(q) + pair_of_terms(r)


def negatives_risks(
    regions: Tensor,
    words: Tensor,
    lengths: Tensor,
    weight: Tensor,
    bias: Tensor,
    q: Tensor,
    r: Tensor,
    reduction: Reduction = "mean",
    rows: slice = slice(None),
) -> Tensor:
    """(B, B) risks that ``domain_regularisation`` reads: of pairs, by their own and others' discriminators.

    The other entries are undefined. Arguments as in ``domain_risks``, but with one discriminator per pair:
    weight (B, D), bias (B,). With ``rows``, only those rows, to which ``regions``, ``words`` and ``lengths``
    belong.
    """
    if weight.device.type != "cpu":
        # Finding those needed would stall on the device; all with all is one product, cheap on a GPU.
        return _all_risks(regions, words, lengths, weight, bias, reduction)
    p = torch.arange(len(weight), device=weight.device)
    needed = torch.zeros(len(p), len(p), dtype=torch.uint8, device=p.device)
    needed[p, p] = 1
    for other in (q, r):
        needed[p, other] = needed[other, p] = 1
    needed = needed[rows]
    count = int(needed.sum(1).max())
    if count > _MANY:
        # Some pair is a hard negative of many others: a single product of all with all is cheaper.
        return _all_risks(regions, words, lengths, weight, bias, reduction)
    columns = needed.argsort(dim=1, descending=True, stable=True)[:, :count]
    risks = domain_risks(regions, words, lengths, weight[columns], bias[columns], reduction)
    return risks.new_zeros(needed.shape).scatter(1, columns, risks)


def _all_risks(
    regions: Tensor, words: Tensor, lengths: Tensor, weight: Tensor, bias: Tensor, reduction: Reduction
) -> Tensor:
    """(B, K) risks of every discriminator, weight (K, D) and bias (K,), on every pair."""
    of_regions = F.softplus(-(regions @ weight.T + bias)).sum(1)
    of_words = torch.stack(
        [F.softplus(logits).sum(0) for logits in (words @ weight.T + bias).split(lengths.tolist())]
    )
    if reduction == "sum":
        return of_regions + of_words
    return of_regions / regions.shape[1] + of_words / sent(lengths, words.device)[:, None]
