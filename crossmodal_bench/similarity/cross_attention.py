"""Cross attention between regions and words without materialising the attended vectors.

A score needs the attended vectors only in dot products, and these follow from products of the inputs: for a
word w and attention weights a over the regions V of an image, w . (V' a) = a . (V w) and |V' a|^2 = a' (V V')
a, with one Gram matrix per image; in the other direction, with one per caption. So everything follows from
the affinities of all words with all regions, which are one matrix product, and no (images, captions, words,
D) tensor is needed.

Captions are processed in blocks of equal length: nothing is padded, every reduction is a dense one over an
axis, and a block fits in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal_bench.core.host import sent

FeatureNorm = Literal["clipped_l2norm", "l2norm", "softmax", "no_norm", "clipped", "l1norm", "clipped_l1norm"]
Attend = Callable[[Tensor, int, int], Tensor]
"""(affinities, axis that attends, axis that is attended to) to weights that sum to 1 over the latter."""

WORDS, REGIONS = 1, 3
"""The axes of a block's affinities (captions, words, images, regions)."""
EPSILON = 1e-8
_BLOCK = {"cpu": 2**19}
"""Affinities per block: 2 MiB in single precision, which fits in a processor's cache."""
_LARGE_BLOCK = 2**24
"""The same for devices on which kernel launches cost more than memory."""
_IMAGES = 128
"""Images processed together if no gradient is needed, so that blocks hold several captions in any gallery."""


@dataclass(frozen=True)
class Block:
    """m captions of one length L against N images.

    affinities: (m, L, N, R) dot products of the words (m, L, D) and the regions.
    """

    affinities: Tensor
    words: Tensor
    regions: Regions

    def attended_regions(self, weights: Tensor) -> Tensor:
        """(m, L, N) cosines of each word with the regions' mean under ``weights`` (m, L, N, R)."""
        m, length, n, _ = self.affinities.shape
        dots = (weights * self.affinities).sum(REGIONS)
        by_image = weights.reshape(m * length, n, -1).transpose(0, 1)
        squares = (torch.bmm(by_image, self.regions.gram) * by_image).sum(2)
        return _cosine(dots, squares.T.reshape(m, length, n), self.words.norm(dim=2, keepdim=True))

    def attended_words(self, weights: Tensor) -> Tensor:
        """(m, N, R) cosines of each region with the words' mean under ``weights`` (m, L, N, R)."""
        m, length, n, r = self.affinities.shape
        dots = (weights * self.affinities).sum(WORDS)
        flat = weights.reshape(m, length, n * r)
        gram = torch.bmm(self.words, self.words.transpose(1, 2))
        squares = (torch.bmm(gram, flat) * flat).sum(1)
        return _cosine(dots, squares.view(m, n, r), self.regions.norms)


class Regions:
    """Shared by all blocks: ``vectors`` (N, R, D), ``norms`` (1, N, R) and ``gram`` (N, R, R), on demand."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors
        self._gram: Tensor | None = None
        self._norms: Tensor | None = None

    @property
    def gram(self) -> Tensor:
        """Dot products between an image's regions."""
        if self._gram is None:
            self._gram = torch.bmm(self.vectors, self.vectors.transpose(1, 2))
        return self._gram

    @property
    def norms(self) -> Tensor:
        """Lengths of the regions."""
        if self._norms is None:
            self._norms = self.vectors.norm(dim=2)[None]
        return self._norms


def _cosine(dots: Tensor, squares: Tensor, norms: Tensor) -> Tensor:
    # Rounding can make a square negative, and the square root has no gradient at zero.
    return dots / (norms * squares.clamp(min=EPSILON**2).sqrt()).clamp(min=EPSILON)


def blockwise(regions: Tensor, words: Tensor, lengths: Tensor, score: Callable[[Block], Tensor]) -> Tensor:
    """Scores of all images with all captions, one block of captions at a time.

    Under autocast, the affinities are computed in its type; everything else is in single precision, or double
    if the inputs are.

    Args:
        regions: (N, R, D).
        words: (sum of lengths, D), caption by caption.
        lengths: (M,) words of each caption, on the host.
        score: maps a block to its (m, N) scores.

    Returns:
        (N, M).

    Raises:
        ValueError: mismatched shapes, no regions, or a caption without words.
    """
    rows = _check(regions, words, lengths)
    graph = torch.is_grad_enabled() and (regions.requires_grad or words.requires_grad)
    if not graph and len(regions) > _IMAGES:
        return torch.cat([blockwise(part, words, lengths, score) for part in regions.split(_IMAGES)])
    n, r, d = regions.shape
    order, sizes = _plan(rows, n * r, _BLOCK.get(words.device.type, _LARGE_BLOCK))
    starts = torch.tensor(rows).cumsum(0) - torch.tensor(rows)
    word_rows = [starts[order[a:b], None] + torch.arange(length) for a, b, length in sizes]
    counts = [block_rows.numel() for block_rows in word_rows]
    words = words[sent(torch.cat([block_rows.flatten() for block_rows in word_rows]), words.device)]
    columns = regions.reshape(n * r, d).T
    # With gradients, a single product: otherwise the regions' would be accumulated block by block.
    products = (words @ columns).split(counts) if graph else None
    shared = Regions(_widened(regions))
    scores = []
    for number, (group, (a, b, length)) in enumerate(zip(words.split(counts), sizes, strict=True)):
        product = group @ columns if products is None else products[number]
        with torch.autocast(words.device.type, enabled=False):
            block = Block(
                _widened(product).view(b - a, length, n, r), _widened(group).view(b - a, length, d), shared
            )
            scores.append(score(block))
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return torch.cat(scores)[sent(back, words.device)].T


def _check(regions: Tensor, words: Tensor, lengths: Tensor) -> list[int]:
    rows: list[int] = lengths.tolist()
    if regions.ndim != 3 or words.ndim != 2 or lengths.ndim != 1 or regions.shape[2] != words.shape[1]:
        raise ValueError(
            f"regions {tuple(regions.shape)}, words {tuple(words.shape)} and lengths {tuple(lengths.shape)} "
            "must be (N, R, D), (T, D) and (M,)"
        )
    if not regions.shape[1] or not rows or min(rows) < 1 or sum(rows) != len(words):
        raise ValueError(
            f"{regions.shape[1]} regions, and lengths from {min(rows, default=0)} that add up to {sum(rows)} "
            f"for {len(words)} words: every image needs a region, and every caption a word"
        )
    return rows


def _plan(lengths: list[int], width: int, most: int) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """Captions sorted by length, and blocks (from, to, length) of that order.

    A block has at most ``most`` affinities, ``width`` per word, but always at least one caption.
    """
    order = torch.argsort(torch.tensor(lengths), stable=True)
    ordered = sorted(lengths)
    blocks: list[tuple[int, int, int]] = []
    start = 0
    for position in range(1, len(ordered) + 1):
        length = ordered[start]
        full = (position - start + 1) * length * width > most
        if position == len(ordered) or ordered[position] != length or full:
            blocks.append((start, position, length))
            start = position
    return order, blocks


def _widened(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def normalised_affinities(affinities: Tensor, query: int, how: FeatureNorm) -> Tensor:
    """SCAN's ``raw_feature_norm``: affinities made comparable over ``query``, the axis that attends.

    ``clipped`` is a leaky ReLU of slope 0.1, as in SCAN's code; its paper (Eq. 1) has max(0, .).

    Raises:
        ValueError: an unknown name.
    """
    if how.startswith("clipped"):
        affinities = F.leaky_relu(affinities, 0.1)
    if how == "softmax":
        return affinities.softmax(query)
    if how.endswith("l2norm"):
        return affinities / (_root(affinities.square().sum(query, keepdim=True)) + EPSILON)
    if how.endswith("l1norm"):
        return affinities / (affinities.abs().sum(query, keepdim=True) + EPSILON)
    if how in ("clipped", "no_norm"):
        return affinities
    raise ValueError(f"feature_norm is '{how}'; use one of {', '.join(FeatureNorm.__args__)}")  # type: ignore[attr-defined]


def _root(squares: Tensor) -> Tensor:
    return squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()


def pack(words: Tensor, lengths: Tensor) -> Tensor:
    """(M, L, D) padded words to (sum of lengths, D)."""
    if words.ndim != 3 or lengths.shape != words.shape[:1]:
        raise ValueError(
            f"words {tuple(words.shape)} and lengths {tuple(lengths.shape)} must be (M, L, D) and (M,)"
        )
    return words[torch.arange(words.shape[1], device=words.device) < lengths[:, None].to(words.device)]
