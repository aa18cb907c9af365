"""Exact ranks in both directions from one pass over score tiles, without the full matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding, Scorer
from crossmodal_bench.evaluation.ranking.positives import (
    CaptionImage,
    Galleries,
    Identities,
    PositivePairs,
    galleries,
)
from crossmodal_bench.evaluation.ranking.ranks import Ranks, make_ranks
from crossmodal_bench.evaluation.ranking.tiles import NonFiniteScore, ScoreTiles
from crossmodal_bench.evaluation.ranking.top import RunningTop

Reduce = Callable[[Tensor], Tensor]
"""The sum of one tensor over all processes, on every process."""

_KEPT_BYTES = 64 * 2**20  # tiles with positives that are kept from the first pass for the second


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over the default process group, on the tensor's own device."""
    on_gpu = torch.distributed.get_backend() == "nccl"
    summed = tensor.cuda() if on_gpu else tensor.cpu().clone()
    torch.distributed.all_reduce(summed)
    return summed.to(tensor.device)


def maximum(total: Reduce, values: Tensor, rank: int, world_size: int) -> Tensor:
    """The element-wise maximum of ``values`` (n,) over all processes, by way of their sum ``total``.

    Each process fills a row of its own; -inf stands for a process without a value.
    """
    rows = values.new_zeros(world_size, *values.shape)
    rows[rank] = values
    return total(rows).amax(0)


def streamed_ranks(
    images: Encoding,
    texts: Encoding,
    score: Scorer,
    caption_image: CaptionImage | None,
    image_identity: Identities | None = None,
    *,
    positives: PositivePairs | None = None,
    top_k: int = 10,
    image_tile: int | None = None,
    text_tile: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    reduce: Reduce | None = None,
    device: torch.device | str | None = None,
) -> Ranks:
    """Ranks of ``images`` against ``texts`` under any scorer, as ``retrieval_ranks`` of the full matrix.

    Positives are an image and its own captions, or with ``image_identity`` (n_images,) all images and all
    captions of one identity; or ``positives``, any set of pairs, with which ``caption_image`` may be None. A
    query without a positive has rank 0 and counts in no metric.

    Every process holds both galleries whole and calls this with its ``rank``; process r scores rows r,
    r + world_size, ... of a grid of tiles that is the same for every world size, and only positives' scores,
    counts and top-k candidates are summed with ``reduce`` (default: ``torch.distributed.all_reduce``). All
    processes return the same Ranks, and the same as one process alone.

    Captions are taken in the order of their images, and images in the order of their identities, so that
    positives lie in blocks along the diagonal. The tiles with positives come first and give the thresholds; a
    positive's score is therefore a number out of the very tile in which its competitors are counted. Memory:
    a few tiles beside the encodings.

    Raises ValueError (on all processes) for a non-finite score, and for an image without a caption, a caption
    of no image or counts that don't agree.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of {world_size} processes")
    total = reduce if reduce is not None else (all_reduce_sum if world_size > 1 else _alone)
    sweep = _StreamingRanks(
        images,
        texts,
        score,
        galleries(caption_image, image_identity, len(images), len(texts), positives),
        top_k,
        image_tile,
        text_tile,
        device,
    )
    mine = range(rank, len(sweep.tiles.rows), world_size)

    def together(step: Callable[[], None]) -> None:
        failure: NonFiniteScore | None = None
        try:
            step()
        except NonFiniteScore as error:
            failure = error
        flags = torch.full((world_size, 2), 0, dtype=torch.int64, device=sweep.tiles.device)
        if failure is not None:
            flags[rank] = torch.tensor([failure.image + 1, failure.text])
        flags = total(flags)
        failed = flags[flags[:, 0] > 0]
        if len(failed):
            first, text = min((image, text) for image, text in failed.tolist())
            raise NonFiniteScore(first - 1, text)

    together(lambda: sweep.find_positives(mine))
    sweep.i2t_best = maximum(total, sweep.i2t_best, rank, world_size)
    sweep.t2i_best = maximum(total, sweep.t2i_best, rank, world_size)
    together(lambda: sweep.count(mine))
    return sweep.ranks(total, mine, rank, world_size)


class _StreamingRanks:
    """The state of one sweep on one process; items are numbered in the galleries' order.

    i2t_best, t2i_best: the best positive's score of each query, -inf before any was seen.
    i2t_counts, t2i_counts: (3, n_queries) as ``make_ranks`` takes them.
    """

    def __init__(
        self,
        images: Encoding,
        texts: Encoding,
        score: Scorer,
        ordered: Galleries,
        top_k: int,
        image_tile: int | None,
        text_tile: int | None,
        device: torch.device | str | None,
    ) -> None:
        n_images, n_texts = len(images), len(texts)
        self.tiles = ScoreTiles(
            images,
            texts,
            score,
            image_tile=image_tile,
            text_tile=text_tile,
            image_order=_unless_ascending(ordered.image_order),
            text_order=_unless_ascending(ordered.text_order),
            device=device,
        )
        device = self.tiles.device
        self.image_order = torch.from_numpy(ordered.image_order).to(device)
        self.text_order = torch.from_numpy(ordered.text_order).to(device)
        self._find_tiles_of(ordered)
        self.i2t_best = torch.full((n_images,), -torch.inf, dtype=self.tiles.dtype, device=device)
        self.t2i_best = torch.full((n_texts,), -torch.inf, dtype=self.tiles.dtype, device=device)
        self.i2t_top = RunningTop(n_images, min(top_k, n_texts), self.i2t_best)
        self.t2i_top = RunningTop(n_texts, min(top_k, n_images), self.t2i_best)
        self.i2t_counts = torch.zeros(3, n_images, dtype=torch.int64, device=device)
        self.t2i_counts = torch.zeros(3, n_texts, dtype=torch.int64, device=device)
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._scratch = torch.empty(0, device=device)

    def _find_tiles_of(self, ordered: Galleries) -> None:
        """Sort the positive pairs by the tiles in which they lie."""
        tops = np.array([top for top, _ in self.tiles.rows])
        lefts = np.array([left for left, _ in self.tiles.columns])
        row = np.searchsorted(tops, ordered.positive_image, side="right") - 1
        column = np.searchsorted(lefts, ordered.positive_text, side="right") - 1
        tile = row * len(lefts) + column
        by_tile = np.argsort(tile, kind="stable")
        # Where each tile's pairs begin, and behind the last tile, where they end.
        self._first_pair = np.searchsorted(tile[by_tile], np.arange(len(tops) * len(lefts) + 1))
        device = self.tiles.device
        self._pair_image = torch.from_numpy((ordered.positive_image - tops[row])[by_tile]).to(device)
        self._pair_text = torch.from_numpy((ordered.positive_text - lefts[column])[by_tile]).to(device)

    def positives(self, row: int, column: int) -> tuple[Tensor, Tensor] | None:
        """Positions (image, text) of the positive pairs inside a tile, or None if it holds none."""
        tile = row * len(self.tiles.columns) + column
        first, last = self._first_pair[tile], self._first_pair[tile + 1]
        if first == last:
            return None
        return self._pair_image[first:last], self._pair_text[first:last]

    def find_positives(self, rows: range) -> None:
        """First pass: the best positives' scores, out of the tiles they share with their competitors."""
        kept = 0
        for row in rows:
            top, bottom = self.tiles.rows[row]
            for column, (left, right) in enumerate(self.tiles.columns):
                pairs = self.positives(row, column)
                if pairs is None:
                    continue
                tile = self.tiles(row, column)
                scores = tile[pairs]
                self.i2t_best[top:bottom].scatter_reduce_(0, pairs[0], scores, "amax")
                self.t2i_best[left:right].scatter_reduce_(0, pairs[1], scores, "amax")
                kept += tile.nbytes
                if kept <= _KEPT_BYTES:
                    self._kept[row, column] = tile.clone()

    def count(self, rows: range) -> None:
        """Second pass: competitors at or above each threshold, positives at it, and the top lists."""
        for row in rows:
            top, bottom = self.tiles.rows[row]
            for column, (left, right) in enumerate(self.tiles.columns):
                kept = self._kept.pop((row, column), None)
                tile = self.tiles(row, column) if kept is None else kept
                self.i2t_top.offer(top, tile, left)
                self.t2i_top.offer(left, tile.T, top)
                i2t_best, t2i_best = self.i2t_best[top:bottom], self.t2i_best[left:right]
                pairs = self.positives(row, column)
                if pairs is not None:
                    tile = tile.clone() if kept is None else tile
                    scores = tile[pairs]
                    for counts, best, position in (
                        (self.i2t_counts[2, top:bottom], i2t_best, pairs[0]),
                        (self.t2i_counts[2, left:right], t2i_best, pairs[1]),
                    ):
                        counts.scatter_add_(0, position, (scores == best[position]).long())
                    tile[pairs] = -torch.inf
                for which, compare in enumerate((torch.ge, torch.gt)):
                    self.i2t_counts[which, top:bottom] += self._count(compare, tile, i2t_best[:, None], 1)
                    self.t2i_counts[which, left:right] += self._count(compare, tile, t2i_best, 0)

    def _count(self, compare: Callable[..., Tensor], tile: Tensor, threshold: Tensor, dim: int) -> Tensor:
        # Comparing into fp32 and summing that is several times faster than summing booleans, and exact up to
        # 2**24 a tile. The buffer is reused: fresh pages cost more than the comparison.
        if self._scratch.numel() < tile.numel():
            self._scratch = torch.empty(tile.numel(), device=tile.device)
        flags = self._scratch[: tile.numel()].view(tile.shape)
        compare(tile, threshold, out=flags)
        return flags.sum(dim).long()

    def ranks(self, total: Reduce, rows: range, rank: int, world_size: int) -> Ranks:
        """Sum what the processes have found and put it into the caller's order."""
        mine = torch.zeros(len(self.image_order), dtype=torch.bool, device=self.tiles.device)
        for row in rows:
            mine[slice(*self.tiles.rows[row])] = True
        i2t_scores = total(self.i2t_top.scores.masked_fill(~mine[:, None], 0))
        i2t_indices = total(self.i2t_top.indices.masked_fill(~mine[:, None], 0))
        t2i_scores, t2i_indices = self._merge(total, self.t2i_top, rank, world_size)
        image, text = torch.argsort(self.image_order), torch.argsort(self.text_order)
        return make_ranks(
            total(self.i2t_counts)[:, image],
            total(self.t2i_counts)[:, text],
            (i2t_scores[image], self.text_order[i2t_indices[image]]),
            (t2i_scores[text], self.image_order[t2i_indices[text]]),
        )

    @staticmethod
    def _merge(total: Reduce, top: RunningTop, rank: int, world_size: int) -> tuple[Tensor, Tensor]:
        """The best k of all processes' candidates; ties in gallery order."""
        if world_size == 1:
            return top.scores, top.indices
        queries, k = top.scores.shape
        scores = top.scores.new_zeros(queries, world_size, k)
        indices = top.indices.new_zeros(queries, world_size, k)
        scores[:, rank], indices[:, rank] = top.scores, top.indices
        scores, indices = total(scores).flatten(1), total(indices).flatten(1)
        indices, order = indices.sort(dim=1)
        scores, best = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        return scores[:, :k], indices.gather(1, best)[:, :k]


def _alone(tensor: Tensor) -> Tensor:
    return tensor


def _unless_ascending(order: NDArray[np.int64]) -> Tensor | None:
    """The order as a tensor, or None for the one that things are in anyway: slices cost no copy."""
    return None if (order[1:] > order[:-1]).all() else torch.from_numpy(order)
