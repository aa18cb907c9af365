"""Exact ranks in both directions from one sweep over score tiles, without the full matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from crossmodal_bench.encoding import Encoding, Scorer
from crossmodal_bench.evaluation.ranks import (
    CaptionImage,
    Ranks,
    best_positives,
    caption_owners,
    make_ranks,
)
from crossmodal_bench.evaluation.tiles import NonFiniteScore, ScoreTiles
from crossmodal_bench.evaluation.top import RunningTop

Reduce = Callable[[Tensor], Tensor]
"""The sum of one tensor over all processes, on every process."""

_KEPT_BYTES = 64 * 2**20  # tiles with positives that are kept from the first pass for the second


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over the default process group, on the tensor's own device."""
    on_gpu = torch.distributed.get_backend() == "nccl"
    summed = tensor.cuda() if on_gpu else tensor.cpu().clone()
    torch.distributed.all_reduce(summed)
    return summed.to(tensor.device)


def streamed_ranks(
    images: Encoding,
    texts: Encoding,
    score: Scorer,
    caption_image: CaptionImage,
    *,
    top_k: int = 10,
    image_tile: int | None = None,
    text_tile: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    reduce: Reduce | None = None,
    device: torch.device | str | None = None,
) -> Ranks:
    """Ranks of ``images`` against ``texts`` under any scorer, as ``retrieval_ranks`` of the full matrix.

    Every process holds both galleries whole and calls this with its ``rank``; process r scores rows r,
    r + world_size, ... of a grid of tiles that is the same for every world size, and only positives' scores,
    counts and top-k candidates are summed with ``reduce`` (default: ``torch.distributed.all_reduce``). All
    processes return the same Ranks, and the same as one process alone.

    Captions are taken in the order of their images, so that positives lie in a band around the diagonal. The
    band's tiles come first and give the thresholds; a positive's score is therefore a number out of the very
    tile in which its competitors are counted. Memory: a few tiles beside the encodings.

    Raises ValueError (on all processes) for a non-finite score, and for an image without a caption, a caption
    of no image or counts that don't agree.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of {world_size} processes")
    total = reduce if reduce is not None else (all_reduce_sum if world_size > 1 else _alone)
    sweep = _Sweep(images, texts, score, caption_image, top_k, image_tile, text_tile, device)
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
    sweep.set_thresholds(total(sweep.positive))
    together(lambda: sweep.count(mine))
    return sweep.ranks(total, mine, rank, world_size)


class _Sweep:
    """The state of one sweep on one process; texts are numbered in the order of their images."""

    def __init__(
        self,
        images: Encoding,
        texts: Encoding,
        score: Scorer,
        caption_image: CaptionImage,
        top_k: int,
        image_tile: int | None,
        text_tile: int | None,
        device: torch.device | str | None,
    ) -> None:
        owner = caption_owners(caption_image, len(images), len(texts))
        order = np.argsort(owner, kind="stable")
        in_order = bool((order[1:] > order[:-1]).all())
        self.tiles = ScoreTiles(
            images,
            texts,
            score,
            image_tile=image_tile,
            text_tile=text_tile,
            text_order=None if in_order else torch.from_numpy(order),
            device=device,
        )
        self.order = torch.from_numpy(order).to(self.tiles.device)
        self.owner = torch.from_numpy(owner[order]).to(self.tiles.device)
        self.first = np.searchsorted(owner[order], np.arange(len(images) + 1))
        self.n_images, self.n_texts = len(images), len(texts)
        self.positive = torch.zeros(len(texts), dtype=self.tiles.dtype, device=self.tiles.device)
        self.i2t_top = RunningTop(len(images), min(top_k, len(texts)), self.positive)
        self.t2i_top = RunningTop(len(texts), min(top_k, len(images)), self.positive)
        self.i2t_counts = torch.zeros(2, len(images), dtype=torch.int64, device=self.tiles.device)
        self.t2i_counts = torch.zeros(2, len(texts), dtype=torch.int64, device=self.tiles.device)
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._scratch = torch.empty(0, device=self.tiles.device)

    def band(self, row: int, column: int) -> tuple[Tensor, Tensor] | None:
        """Positions (image, text) of the positives inside a tile, or None if it holds none."""
        (top, bottom), (left, right) = self.tiles.rows[row], self.tiles.columns[column]
        start, stop = max(int(self.first[top]), left), min(int(self.first[bottom]), right)
        if start >= stop:
            return None
        return self.owner[start:stop] - top, torch.arange(start, stop, device=self.owner.device) - left

    def find_positives(self, rows: range) -> None:
        """First pass: the positives' scores, out of the tiles they share with their competitors."""
        kept = 0
        for row in rows:
            for column, (left, _) in enumerate(self.tiles.columns):
                band = self.band(row, column)
                if band is None:
                    continue
                tile = self.tiles(row, column)
                self.positive[left + band[1]] = tile[band]
                kept += tile.nbytes
                if kept <= _KEPT_BYTES:
                    self._kept[row, column] = tile.clone()

    def set_thresholds(self, positive: Tensor) -> None:
        """What a competitor must reach, from the positives' scores of all processes."""
        self.positive = positive
        self.best, self.at_best = best_positives(positive, self.owner, self.n_images)

    def count(self, rows: range) -> None:
        """Second pass: competitors at or above each threshold, and the top lists."""
        for row in rows:
            top, bottom = self.tiles.rows[row]
            for column, (left, right) in enumerate(self.tiles.columns):
                kept = self._kept.pop((row, column), None)
                tile = self.tiles(row, column) if kept is None else kept
                self.i2t_top.offer(top, tile, left)
                self.t2i_top.offer(left, tile.T, top)
                band = self.band(row, column)
                if band is not None:
                    tile = tile.clone() if kept is None else tile
                    tile[band] = -torch.inf
                best, own = self.best[top:bottom, None], self.positive[left:right]
                for which, compare in enumerate((torch.ge, torch.gt)):
                    self.i2t_counts[which, top:bottom] += self._count(compare, tile, best, 1)
                    self.t2i_counts[which, left:right] += self._count(compare, tile, own, 0)

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
        mine = torch.zeros(self.n_images, dtype=torch.bool, device=self.owner.device)
        for row in rows:
            mine[slice(*self.tiles.rows[row])] = True
        i2t_scores = total(self.i2t_top.scores.masked_fill(~mine[:, None], 0))
        i2t_indices = total(self.i2t_top.indices.masked_fill(~mine[:, None], 0))
        t2i_scores, t2i_indices = self._merge(total, self.t2i_top, rank, world_size)
        t2i_counts = total(self.t2i_counts)
        back = torch.empty_like(self.order)
        back[self.order] = torch.arange(self.n_texts, device=back.device)
        return make_ranks(
            total(self.i2t_counts),
            t2i_counts[:, back],
            self.at_best,
            (i2t_scores, self.order[i2t_indices]),
            (t2i_scores[back], t2i_indices[back]),
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
