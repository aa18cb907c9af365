"""ADDR's losses: how well a pair's discriminator tells its image's regions from its captions' words."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crossmodal_bench.core.host import sent

Reduction = Literal["mean", "sum"]
_MANY = 32
"""Discriminators that one pair needs, above which every pair is looked at by all of the batch's."""


def domain_risks(
    regions: Tensor,
    words: Tensor,
    lengths: Tensor,
    weight: Tensor,
    bias: Tensor,
    reduction: Reduction = "mean",
) -> Tensor:
    """L_adv of K logistic discriminators on each of B pairs, ADDR's Eq. 2 as a cross entropy.

    Regions have label 1 and words 0: -mean log s(W v + b) - mean log(1 - s(W w + b)). Eq. 2 prints the two
    the other way round and without the sign, which has no lower bound; Eq. 8-9 need a risk that is not
    negative.

    Args:
        regions: (B, R, D).
        words: (sum of lengths, D), pair after pair; of all captions of a pair's image, or of one.
        lengths: (B,) words of each pair, at least 1; on the host.
        weight: (B, K, D) discriminators that look at each pair.
        bias: (B, K).
        reduction: ``sum`` adds over regions and over words, with which the margin of Eq. 8-9 means little.

    Returns:
        (B, K), not negative; 2 log 2 where a discriminator knows nothing (``mean``).

    Raises:
        ValueError: shapes that disagree, or an unknown reduction.
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
    """L_reg of each pair, ADDR's Eq. 8 plus Eq. 9: a discriminator knows its own pair better than others do.

    For a pair p with the hard negatives q and r: hinges of margin + L_p(f_p) - L_p(f_q), L_q(f_q) - L_q(f_p),
    L_r(f_r) - L_r(f_p) and L_p(f_p) - L_p(f_r). Eq. 9 prints q in its first term, where (7) has r; Eq. 4-7
    have the margin as slack.

    Args:
        risks: (B, B); entry (i, j) is the risk of discriminator j on pair i. Only those of a pair with its
            hard negatives are read.
        q, r: (B,) hard negatives by position in the batch; a pair that is its own negative has no such term.
        margin: alpha.

    Returns:
        (B,).
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

    Other entries mean nothing. Arguments as in ``domain_risks``, with one discriminator per pair: weight
    (B, D), bias (B,). With ``rows``, those rows alone, of which ``regions``, ``words`` and ``lengths`` are.
    """
    if weight.device.type != "cpu":
        # Which are needed would have to be read back; all with all is one product, and little to a GPU.
        return _all_risks(regions, words, lengths, weight, bias, reduction)
    p = torch.arange(len(weight), device=weight.device)
    needed = torch.zeros(len(p), len(p), dtype=torch.uint8, device=p.device)
    needed[p, p] = 1
    for other in (q, r):
        needed[p, other] = needed[other, p] = 1
    needed = needed[rows]
    count = int(needed.sum(1).max())
    if count > _MANY:
        # A pair that is many others' hard negative: all with all in one product is cheaper then.
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
