"""Exact ranks in both directions from one pass over score tiles, without the full matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding, Scorer
from crossmodal_bench.evaluation.ranking.positive_ranks import PositiveCounts, PositiveRanks
from crossmodal_bench.evaluation.ranking.positives import (
    CaptionImage,
    Galleries,
    Identities,
    PositivePairs,
    galleries,
)
from crossmodal_bench.evaluation.ranking.query_ranks import Side
from crossmodal_bench.evaluation.ranking.ranks import Ranks, make_ranks
from crossmodal_bench.evaluation.ranking.tiles import NonFiniteScore, ScoreTiles
from crossmodal_bench.evaluation.ranking.top import Places, RunningTop

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes, on every process."""

_SPARSE = 16  # if more than one in this many scores counts, they are counted without being listed
_KEPT_BYTES = 64 * 2**20  # tiles with positives that the first pass keeps for the second


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over the default process group, on the tensor's own device."""
    on_gpu = torch.distributed.get_backend() == "nccl"
    summed = tensor.cuda() if on_gpu else tensor.cpu().clone()
    torch.distributed.all_reduce(summed)
    return summed.to(tensor.device)


def maximum(total: Reduce, values: Tensor, rank: int, world_size: int) -> Tensor:
    """The element-wise maximum of ``values`` (n,) over all processes, computed with their sum ``total``.

    Each process fills its own row; -inf stands for a process without a value.
    """
    rows = values.new_zeros(world_size, *values.shape)
    rows[rank] = values
    return total(rows).amax(0)


@dataclass(frozen=True)
class Question:
    """What is correct for what, and which results are required; one sweep may answer several questions.

    Attributes:
        image_identity: (n_images,) if all images and captions of one identity are correct for each other.
        positives: any set of pairs instead.
        every_positive: whether the ranks of all positives are required, rather than just of the best ones.
    """

    image_identity: Identities | None = None
    positives: PositivePairs | None = None
    every_positive: bool = False


@dataclass(frozen=True)
class Sweep:
    """The answer to a question, in the caller's order.

    Attributes:
        ranks: of each query's best positive.
        positives: the ranks of every positive, by direction; empty if they are not required.
    """

    ranks: Ranks
    positives: Mapping[Side, PositiveRanks]


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
    """The ranks for one question, whose fields are given here; otherwise as for ``streamed_sweeps``.

    Examples:
        >>> import torch
        >>> items = Encoding(torch.eye(3))
        >>> dot = lambda images, texts: images.values @ texts.values.T
        >>> streamed_ranks(items, items, dot, caption_image=torch.arange(3)).t2i
        array([1, 1, 1])
    """
    (sweep,) = streamed_sweeps(
        images,
        texts,
        score,
        caption_image,
        [Question(image_identity, positives)],
        top_k=top_k,
        image_tile=image_tile,
        text_tile=text_tile,
        rank=rank,
        world_size=world_size,
        reduce=reduce,
        device=device,
    )
    return sweep.ranks


def streamed_sweeps(
    images: Encoding,
    texts: Encoding,
    score: Scorer,
    caption_image: CaptionImage | None,
    questions: Sequence[Question],
    *,
    top_k: int = 10,
    image_tile: int | None = None,
    text_tile: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    reduce: Reduce | None = None,
    device: torch.device | str | None = None,
) -> list[Sweep]:
    """Ranks of ``images`` against ``texts`` under any scorer, as ``retrieval_ranks`` of the full matrix.

    Positives are an image and its own captions, unless a question says otherwise; with pairs,
    ``caption_image`` may be None. A query without a positive, or an item that is not a query, has rank 0 and
    counts in no metric. All questions are answered in one sweep: with fragments, scoring takes most of the
    time. Every process holds both complete galleries and calls this with its ``rank``; process r scores rows
    r, r + world_size, ... of a grid of tiles that is the same for every world size, and only positives'
    scores, counts and top-k candidates are summed with ``reduce`` (default:
    ``torch.distributed.all_reduce``). All processes return the same, and the same as a single process.

    Captions are taken in the order of their images, and images in the order of their identities, so that
    positives are in blocks along the diagonal. The tiles with positives come first and give the thresholds;
    so a positive's score comes from the very tile in which its competitors are counted. Memory: a few tiles
    in addition to the encodings.

    Raises ValueError (on all processes) for a non-finite score, an image without a caption, a caption of no
    image, mismatched counts, and questions that take the items in different orders.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of {world_size} processes")
    total = reduce if reduce is not None else (all_reduce_sum if world_size > 1 else _alone)
    ordered = [
        galleries(caption_image, question.image_identity, len(images), len(texts), question.positives)
        for question in questions
    ]
    sweep = _Sweeping(
        images,
        texts,
        score,
        ordered,
        [question.every_positive for question in questions],
        top_k=top_k,
        image_tile=image_tile,
        text_tile=text_tile,
        device=device,
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
    for answer in sweep.answers:
        answer.agree(lambda values: maximum(total, values, rank, world_size))
    together(lambda: sweep.count(mine))
    return [
        Sweep(answer.ranks(total, mine, rank, world_size), answer.positive_ranks(total))
        for answer in sweep.answers
    ]


class _Direction:
    """The results of one sweep for the queries of one direction, in the galleries' order.

    Attributes:
        best: (n_queries,) the best positive's score, -inf before any was seen.
        counts: (3, n_queries) as for ``make_ranks``.
        top: the best gallery items.
    """

    def __init__(self, queries: int, gallery: int, top_k: int, like: Tensor) -> None:
        self.best = like.new_full((queries,), -torch.inf)
        self.counts = torch.zeros(3, queries, dtype=torch.int64, device=like.device)
        self.top = RunningTop(queries, min(top_k, gallery), self.best)
        self._flags = torch.empty(0, device=like.device)
        # A model near chance has many scores above the best positive in each tile.
        self._few_count = True

    def find_best(self, start: int, query: Tensor, scores: Tensor) -> None:
        """Process positives' ``scores`` (n,) of the queries ``query`` (n,), counted from ``start``."""
        self.best[start:].scatter_reduce_(0, query, scores, "amax")

    def count(
        self, start: int, tile: Tensor, gallery_start: int, positives: tuple[Tensor, Tensor] | None
    ) -> None:
        """Process a tile (queries, gallery), with the queries and the scores of the positives inside it."""
        stop = start + len(tile)
        best, counts = self.best[start:stop], self.counts[:, start:stop]
        floor = self.top.floor(start, tile)
        # A query without a positive has nothing to compare with.
        compared = best.masked_fill(best == -torch.inf, torch.inf)
        places = None
        if self._few_count:
            places = Places.find(tile, torch.minimum(floor, compared), most=tile.numel() // _SPARSE)
            self._few_count = places is not None
        self.top.offer(start, tile, gallery_start, floor, places)
        if places is None:
            counts[0] += self._count(torch.ge, tile, compared)
            counts[1] += self._count(torch.gt, tile, compared)
        else:
            threshold = compared.index_select(0, places.query)
            for row, flags in ((0, places.score >= threshold), (1, places.score > threshold)):
                counts[row] += torch.bincount(places.query, flags, len(tile)).long()
        if positives is not None:
            # They have been counted along with their competitors.
            query, scores = positives
            threshold = best[query]
            counts[0].scatter_add_(0, query, -(scores >= threshold).long())
            counts[1].scatter_add_(0, query, -(scores > threshold).long())
            counts[2].scatter_add_(0, query, (scores == threshold).long())

    def _count(self, compare: Callable[..., Tensor], tile: Tensor, threshold: Tensor) -> Tensor:
        # Comparing into fp32 and summing is several times faster than summing booleans, and exact up to
        # 2**24 per tile. The buffer is reused: fresh pages cost more than the comparison.
        if self._flags.numel() < tile.numel():
            self._flags = torch.empty(tile.numel(), device=tile.device)
        flags = self._flags[: tile.numel()]
        # In the memory order of the tile.
        flags = flags.view(tile.shape) if tile.is_contiguous() else flags.view(tile.T.shape).T
        compare(tile, threshold[:, None], out=flags)
        return flags.sum(1).long()


class _Answer:
    """The results of one sweep for one question on one process; items numbered in the galleries' order."""

    def __init__(self, ordered: Galleries, tiles: ScoreTiles, top_k: int, *, every_positive: bool) -> None:
        n_images, n_texts = len(ordered.image_order), len(ordered.text_order)
        self._ordered = ordered
        self._tiles = tiles
        self._image_order = torch.from_numpy(ordered.image_order).to(tiles.device)
        self._text_order = torch.from_numpy(ordered.text_order).to(tiles.device)
        like = torch.empty(0, dtype=tiles.dtype, device=tiles.device)
        n_searched = n_texts if ordered.left_out is None else n_texts - int(ordered.left_out.sum())
        self.i2t = _Direction(n_images, n_searched, top_k, like)
        self.t2i = _Direction(n_texts, n_images, top_k, like)
        self._find_tiles()
        # Each positive pair's score, in the order of the tiles; None if only the best ones are required.
        self._pair_scores = (
            like.new_full((len(ordered.positive_image),), -torch.inf) if every_positive else None
        )
        self._every: dict[Side, PositiveCounts] = {}

    def _find_tiles(self) -> None:
        """Sort the positive pairs, and the excluded texts, by the tiles that contain them."""
        ordered = self._ordered
        tops = np.array([top for top, _ in self._tiles.rows])
        lefts = np.array([left for left, _ in self._tiles.columns])
        row = np.searchsorted(tops, ordered.positive_image, side="right") - 1
        column = np.searchsorted(lefts, ordered.positive_text, side="right") - 1
        tile = row * len(lefts) + column
        by_tile = np.argsort(tile, kind="stable")
        self._by_tile = by_tile
        # The start of each tile's pairs and, after the last tile, their end.
        self._first_pair = np.searchsorted(tile[by_tile], np.arange(len(tops) * len(lefts) + 1))
        device = self._tiles.device
        self._pair_image = torch.from_numpy((ordered.positive_image - tops[row])[by_tile]).to(device)
        self._pair_text = torch.from_numpy((ordered.positive_text - lefts[column])[by_tile]).to(device)
        self._left_out: dict[int, Tensor] = {}
        if ordered.left_out is not None:
            for number, (left, right) in enumerate(self._tiles.columns):
                within = np.flatnonzero(ordered.left_out[left:right])
                if len(within):
                    self._left_out[number] = torch.from_numpy(within).to(device)

    def _pairs(self, row: int, column: int) -> slice:
        """The positive pairs in a tile, as a slice of the order of the tiles."""
        tile = row * len(self._tiles.columns) + column
        return slice(int(self._first_pair[tile]), int(self._first_pair[tile + 1]))

    def has_positives(self, row: int, column: int) -> bool:
        """Whether a tile contains any positive pair."""
        pairs = self._pairs(row, column)
        return pairs.start < pairs.stop

    def find_positives(self, row: int, column: int, tile: Tensor) -> None:
        """First pass: take the positives' scores from the tile they share with their competitors."""
        pairs = self._pairs(row, column)
        image, text = self._pair_image[pairs], self._pair_text[pairs]
        scores = tile[image, text]
        self.i2t.find_best(self._tiles.rows[row][0], image, scores)
        self.t2i.find_best(self._tiles.columns[column][0], text, scores)
        if self._pair_scores is not None:
            self._pair_scores[pairs] = scores

    def agree(self, largest: Callable[[Tensor], Tensor]) -> None:
        """Between the passes: share the thresholds that each process has found.

        Args:
            largest: returns the element-wise maximum of a tensor (n,) over all processes.
        """
        ordered = self._ordered
        for direction, asked in ((self.i2t, ordered.asked_images), (self.t2i, ordered.asked_texts)):
            direction.best = largest(direction.best)
            if asked is not None:
                # Without a threshold, nothing is counted.
                unasked = torch.from_numpy(~asked).to(direction.best.device)
                direction.best = direction.best.masked_fill(unasked, -torch.inf)
        if self._pair_scores is None:
            return
        scores = largest(self._pair_scores)
        positions: dict[Side, tuple[NDArray[np.int64], NDArray[np.bool_] | None]] = {
            "i2t": (ordered.positive_image, ordered.asked_images),
            "t2i": (ordered.positive_text, ordered.asked_texts),
        }
        for side, (position, asked) in positions.items():
            queries = position[self._by_tile]
            chosen = np.arange(len(queries)) if asked is None else np.flatnonzero(asked[queries])
            self._every[side] = PositiveCounts(
                torch.from_numpy(queries[chosen]).to(scores.device),
                scores[torch.from_numpy(chosen).to(scores.device)],
            )

    def count(self, row: int, column: int, tile: Tensor) -> None:
        """Second pass: competitors at or above each threshold, positives at it, and the top lists."""
        top, left = self._tiles.rows[row][0], self._tiles.columns[column][0]
        of_images, of_texts = None, None
        if self.has_positives(row, column):
            pairs = self._pairs(row, column)
            image, text = self._pair_image[pairs], self._pair_text[pairs]
            scores = tile[image, text]
            of_images, of_texts = (image, scores), (text, scores)
        # Images never find an excluded text.
        searched = tile
        if column in self._left_out:
            searched = tile.index_fill(1, self._left_out[column], -torch.inf)
        self.i2t.count(top, searched, left, of_images)
        self.t2i.count(left, tile.T, top, of_texts)
        if self._every:
            self._every["i2t"].count(top, searched)
            self._every["t2i"].count(left, tile.T)

    def positive_ranks(self, total: Reduce) -> dict[Side, PositiveRanks]:
        """The ranks of every positive, in the caller's order; empty if they are not required."""
        absent = self._ordered.absent
        orders: dict[Side, NDArray[np.int64]] = {
            "i2t": self._ordered.image_order,
            "t2i": self._ordered.text_order,
        }
        found: dict[Side, PositiveRanks] = {}
        for side, every in self._every.items():
            queries, ranks = every.ranks(total)
            queries = orders[side][queries]
            by_query = np.argsort(queries, kind="stable")
            relevant = np.bincount(queries, minlength=len(orders[side]))
            if side == "i2t" and absent is not None:
                relevant += np.where(relevant > 0, absent[np.argsort(orders[side])], 0)
            found[side] = PositiveRanks(queries[by_query], ranks[by_query], relevant)
        return found

    def ranks(self, total: Reduce, rows: range, rank: int, world_size: int) -> Ranks:
        """Sum the results of all processes and put them into the caller's order."""
        mine = torch.zeros(len(self._image_order), dtype=torch.bool, device=self._tiles.device)
        for row in rows:
            mine[slice(*self._tiles.rows[row])] = True
        i2t_scores = total(self.i2t.top.scores.masked_fill(~mine[:, None], 0))
        i2t_indices = total(self.i2t.top.indices.masked_fill(~mine[:, None], 0))
        t2i_scores, t2i_indices = self._merge(total, self.t2i.top, rank, world_size)
        image, text = torch.argsort(self._image_order), torch.argsort(self._text_order)
        return make_ranks(
            total(self.i2t.counts)[:, image],
            total(self.t2i.counts)[:, text],
            (i2t_scores[image], self._text_order[i2t_indices[image]]),
            (t2i_scores[text], self._image_order[t2i_indices[text]]),
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


class _Sweeping:
    """The tiles of one sweep on one process, and the answers to each question."""

    def __init__(
        self,
        images: Encoding,
        texts: Encoding,
        score: Scorer,
        ordered: Sequence[Galleries],
        every_positive: Sequence[bool],
        *,
        top_k: int,
        image_tile: int | None,
        text_tile: int | None,
        device: torch.device | str | None,
    ) -> None:
        first = ordered[0]
        for other in ordered[1:]:
            if not np.array_equal(other.image_order, first.image_order) or not np.array_equal(
                other.text_order, first.text_order
            ):
                raise ValueError("the questions of one sweep must take the items in the same order")
        self.tiles = ScoreTiles(
            images,
            texts,
            score,
            image_tile=image_tile,
            text_tile=text_tile,
            image_order=_unless_ascending(first.image_order),
            text_order=_unless_ascending(first.text_order),
            device=device,
        )
        self.answers = [
            _Answer(each, self.tiles, top_k, every_positive=every)
            for each, every in zip(ordered, every_positive, strict=True)
        ]
        self._kept: dict[tuple[int, int], Tensor] = {}

    def find_positives(self, rows: range) -> None:
        """First pass: the tiles with positives."""
        kept = 0
        for row in rows:
            for column in range(len(self.tiles.columns)):
                concerned = [answer for answer in self.answers if answer.has_positives(row, column)]
                if not concerned:
                    continue
                tile = self.tiles(row, column)
                for answer in concerned:
                    answer.find_positives(row, column, tile)
                kept += tile.nbytes
                if kept <= _KEPT_BYTES:
                    self._kept[row, column] = tile.clone()

    def count(self, rows: range) -> None:
        """Second pass: all tiles."""
        for row in rows:
            for column in range(len(self.tiles.columns)):
                kept = self._kept.pop((row, column), None)
                tile = self.tiles(row, column) if kept is None else kept
                for answer in self.answers:
                    answer.count(row, column, tile)


def _alone(tensor: Tensor) -> Tensor:
    return tensor


def _unless_ascending(order: NDArray[np.int64]) -> Tensor | None:
    """The order as a tensor, or None if it changes nothing: slices avoid a copy."""
    return None if (order[1:] > order[:-1]).all() else torch.from_numpy(order)
