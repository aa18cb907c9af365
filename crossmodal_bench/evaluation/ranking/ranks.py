"""Ranks of the best positive in both directions, and how they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.npy import load_npz, names_in_npz
from crossmodal_bench.evaluation.ranking.positives import CaptionImage, Identities, PositivePairs, galleries
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks, Side
from crossmodal_bench.evaluation.ranking.tiles import NonFiniteScore
from crossmodal_bench.evaluation.ranking.top import ordered_top

_BLOCK = 4_000_000  # scores processed together


@dataclass(frozen=True)
class Ranks:
    """Per-query results of image-to-text (i2t) and text-to-image (t2i) retrieval, in the caller's order.

    i2t, t2i: (n_images,), (n_texts,) int64; strict 1-based rank of the query's best positive. Other positives
        don't count as competitors; a competitor with the positive's own score counts as better. 0 for a query
        without a positive, and for an item that is not a query.
    i2t_expected, t2i_expected: float64; the mean of that rank if ties were broken at random; NaN without a
        positive.
    i2t_tied, t2i_tied: int64; number of competitors with the best positive's score.
    i2t_tied_positives, t2i_tied_positives: int64; number of positives with it, including the best one.
    i2t_top, t2i_top: (n_queries, min(10, gallery)) int64; gallery rows by descending score. Equal scores are
        in gallery order, in which captions follow the order of their images, and images that of their
        identities if positives are by identity.
    i2t_top_scores, t2i_top_scores: their scores.
    """

    i2t: NDArray[np.int64]
    t2i: NDArray[np.int64]
    i2t_expected: NDArray[np.float64]
    t2i_expected: NDArray[np.float64]
    i2t_tied: NDArray[np.int64]
    t2i_tied: NDArray[np.int64]
    i2t_tied_positives: NDArray[np.int64]
    t2i_tied_positives: NDArray[np.int64]
    i2t_top: NDArray[np.int64]
    t2i_top: NDArray[np.int64]
    i2t_top_scores: NDArray[np.floating[Any]]
    t2i_top_scores: NDArray[np.floating[Any]]

    def of(self, side: Side) -> QueryRanks:
        """The best positives of one direction."""
        if side == "i2t":
            return QueryRanks(self.i2t, self.i2t_tied, self.i2t_tied_positives)
        return QueryRanks(self.t2i, self.t2i_tied, self.t2i_tied_positives)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def save(self, path: Path | str, image_ids: Sequence[str], caption_ids: Sequence[str]) -> None:
        """Write everything, including the queries' ids, to an ``.npz``, atomically."""
        write_results(path, self.arrays(), image_ids, caption_ids, (len(self.i2t), len(self.t2i)))

    @classmethod
    def load(cls, path: Path | str) -> Ranks:
        """Read what ``save`` wrote; MissingInput without the file, BadInput if it holds no ranks."""
        names = [field.name for field in fields(cls)]
        stored = stored_arrays(path, names)
        missing = next((name for name in names if name not in stored), None)
        if missing:
            raise BadInput(f"{path} has no '{missing}': it was written for a protocol without ranks")
        return cls(**stored)

    @staticmethod
    def load_ids(path: Path | str) -> tuple[list[str], list[str]]:
        """(image_ids, caption_ids) of a file that ``save`` wrote."""
        stored = stored_arrays(path, ["image_ids", "caption_ids"])
        if len(stored) < 2:
            raise BadInput(f"{path} has no query ids; delete it and run the job again")
        return stored["image_ids"].tolist(), stored["caption_ids"].tolist()


def retrieval_ranks(
    scores: Tensor | NDArray[Any],
    caption_image: CaptionImage | None,
    top_k: int = 10,
    image_identity: Identities | None = None,
    positives: PositivePairs | None = None,
) -> Ranks:
    """Ranks from an existing score matrix.

    scores: (n_images, n_texts), higher is better. caption_image: (n_texts,). image_identity: (n_images,); a
    caption's positives are then all images of its image's identity, and an image's positives all captions of
    all of these (Li et al., "Person Search with Natural Language Description", CVPR 2017). Without it, an
    image's own captions are its only positives. positives: these pairs instead; ``caption_image`` may then be
    None.
    Raises ValueError for a non-finite score (naming the first row and column), an image without a caption, a
    caption of no image, or mismatched shapes.

    Examples:
        >>> import numpy as np
        >>> scores = np.array([[0.9, 0.2, 0.5], [0.8, 0.7, 0.6]])  # two images, three captions
        >>> ranks = retrieval_ranks(scores, caption_image=np.array([0, 1, 1]))
        >>> ranks.i2t, ranks.t2i  # from 1; ties would be counted against the query
        (array([1, 2]), array([1, 1, 1]))
    """
    matrix = torch.as_tensor(scores).detach()
    if matrix.ndim != 2:
        raise ValueError(f"scores must be (n_images, n_texts), got {tuple(matrix.shape)}")
    n_images, n_texts = matrix.shape
    ordered = galleries(caption_image, image_identity, n_images, n_texts, positives)
    finite = torch.isfinite(matrix)
    if not finite.all():
        row, column = torch.nonzero(~finite)[0].tolist()
        raise NonFiniteScore(row, column)
    image_of_pair = ordered.image_order[ordered.positive_image]
    text_of_pair = ordered.text_order[ordered.positive_text]
    i2t = _asked(ordered.asked_images, ordered.positive_image)
    t2i = _asked(ordered.asked_texts, ordered.positive_text)
    searched, i2t_k = matrix, top_k
    if ordered.left_out is not None:
        left_out = torch.from_numpy(ordered.text_order[ordered.left_out]).to(matrix.device)
        searched = matrix.index_fill(1, left_out, -torch.inf)
        i2t_k = min(top_k, n_texts - len(left_out))
    i2t_counts, i2t_top = _direction(
        searched, image_of_pair[i2t], ordered.positive_text[i2t], ordered.text_order, i2t_k
    )
    t2i_counts, t2i_top = _direction(
        matrix.T, text_of_pair[t2i], ordered.positive_image[t2i], ordered.image_order, top_k
    )
    return make_ranks(i2t_counts, t2i_counts, i2t_top, t2i_top)


def _asked(asked: NDArray[np.bool_] | None, query: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of the positive pairs (n,) belong to a query."""
    return np.arange(len(query)) if asked is None else np.flatnonzero(asked[query])


def make_ranks(
    i2t_counts: Tensor, t2i_counts: Tensor, i2t_top: tuple[Tensor, Tensor], t2i_top: tuple[Tensor, Tensor]
) -> Ranks:
    """Ranks from counts.

    i2t_counts, t2i_counts: (3, n_queries); competitors scored at least as high as, and strictly above, the
    best positive, and positives that share its score. tops: (scores, indices).
    """
    i2t, t2i = (_query_ranks(counts) for counts in (i2t_counts, t2i_counts))
    return Ranks(
        i2t=i2t.strict,
        t2i=t2i.strict,
        i2t_expected=i2t.expected,
        t2i_expected=t2i.expected,
        i2t_tied=i2t.tied,
        t2i_tied=t2i.tied,
        i2t_tied_positives=i2t.tied_positives,
        t2i_tied_positives=t2i.tied_positives,
        i2t_top=i2t_top[1].cpu().numpy(),
        t2i_top=t2i_top[1].cpu().numpy(),
        i2t_top_scores=i2t_top[0].cpu().numpy(),
        t2i_top_scores=t2i_top[0].cpu().numpy(),
    )


def _query_ranks(counts: Tensor) -> QueryRanks:
    at_least, above, positives = counts.cpu().numpy()
    # A query without a positive has no score for comparison.
    answerable = positives > 0
    return QueryRanks(
        strict=np.where(answerable, at_least + 1, 0),
        tied=np.where(answerable, at_least - above, 0),
        tied_positives=positives,
    )


def write_results(
    path: Path | str,
    arrays: Mapping[str, NDArray[Any]],
    image_ids: Sequence[str],
    caption_ids: Sequence[str],
    counts: tuple[int, int],
) -> None:
    """Write arrays and ids to an ``.npz`` via a temporary file; ``counts`` = (images, texts)."""
    if (len(image_ids), len(caption_ids)) != counts:
        raise ValueError(
            f"{counts[0]} images and {counts[1]} texts need as many ids, "
            f"got {len(image_ids)} and {len(caption_ids)}"
        )
    target = Path(path)
    ids = {
        "image_ids": np.array(image_ids, dtype=np.str_),
        "caption_ids": np.array(caption_ids, dtype=np.str_),
    }
    replace_file(target, lambda stream: np.savez_compressed(stream, allow_pickle=False, **arrays, **ids))


def stored_arrays(path: Path | str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Those of the arrays ``names`` that exist; MissingInput or BadInput if the file is unusable."""
    path = Path(path)
    if not path.is_file():
        raise MissingInput(f"{path} is missing; the job that writes it has not finished")
    try:
        there = names_in_npz(path)
        return load_npz(path, [name for name in names if name in there])
    except BadInput as error:
        raise BadInput(
            f"{path} is not an .npz of per-query results ({error}); delete it and run the job again"
        ) from error


def _direction(
    matrix: Tensor,
    pair_query: NDArray[np.int64],
    pair_item: NDArray[np.int64],
    gallery_order: NDArray[np.int64],
    top_k: int,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Counts and top list of one direction, with queries in the caller's order.

    Args:
        matrix: (queries, gallery) scores.
        pair_query: (n_pairs,) the query of each positive pair, a row of the matrix.
        pair_item: (n_pairs,) its item, a position in ``gallery_order``.
        gallery_order: (gallery,) the caller's column of each position.
        top_k: length of the top lists.
    """
    by_query = np.argsort(pair_query, kind="stable")
    queries, items = pair_query[by_query], torch.from_numpy(pair_item[by_query]).to(matrix.device)
    order = torch.from_numpy(gallery_order).to(matrix.device)
    counts, scores, indices = [], [], []
    step = max(1, _BLOCK // matrix.shape[1])
    for start in range(0, len(matrix), step):
        block = matrix[start : start + step, order]
        first, last = np.searchsorted(queries, (start, start + len(block)))
        positive = torch.zeros_like(block, dtype=torch.bool)
        positive[torch.from_numpy(queries[first:last] - start).to(matrix.device), items[first:last]] = True
        own, rivals = block.masked_fill(~positive, -torch.inf), block.masked_fill(positive, -torch.inf)
        best = own.amax(1, keepdim=True)
        tied = ((own == best) & positive).sum(1)
        counts.append(torch.stack([(rivals >= best).sum(1), (rivals > best).sum(1), tied]))
        values, places = ordered_top(block, top_k)
        scores.append(values)
        indices.append(order[places])
    return torch.cat(counts, 1), (torch.cat(scores), torch.cat(indices))
