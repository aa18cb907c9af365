"""What an encoder passes to a scorer: one vector, a fixed set of fragments, or a ragged set per item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from crossmodal_bench.core.host import sent


@dataclass(frozen=True)
class Encoding:
    """N encoded items.

    ``values`` is (N, D) for one vector per item, (N, R, D) for R fragments per item or, when ``lengths`` (N,)
    is given, (sum(lengths), D): the items' fragments, packed one after another. Packing keeps a gallery of
    captions at its real size rather than padding it to the longest. ``lengths`` are on the host, wherever the
    values are: they determine shapes, and reading them from a device would mean waiting for it.
    """

    values: Tensor
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values) if self.lengths is None else len(self.lengths)

    def __getitem__(self, rows: slice) -> Encoding:
        """The contiguous items ``rows``, without copying; raises ValueError for a step other than 1."""
        if rows.step not in (None, 1):
            raise ValueError(f"an Encoding is sliced in steps of 1, not {rows.step}; use take for other rows")
        if self.lengths is None:
            return Encoding(self.values[rows])
        start, stop, _ = rows.indices(len(self))
        first = int(self.lengths[:start].sum())
        last = first + int(self.lengths[start:stop].sum())
        return Encoding(self.values[first:last], self.lengths[start:stop])

    def take(self, rows: Tensor) -> Encoding:
        """The items ``rows`` (any order, repeats allowed), copied; ``rows`` should be on the host."""
        device = self.values.device
        if self.lengths is None:
            return Encoding(self.values[sent(rows, device)])
        rows = rows.cpu()
        starts = torch.cumsum(self.lengths, 0) - self.lengths
        lengths = self.lengths[rows]
        offset = torch.arange(int(lengths.sum()))
        offset = offset - torch.repeat_interleave(torch.cumsum(lengths, 0) - lengths, lengths)
        fragments = torch.repeat_interleave(starts[rows], lengths) + offset
        return Encoding(self.values[sent(fragments, device)], lengths)

    def to(self, *args: Any, **kwargs: Any) -> Encoding:
        """A copy of the values on another device or in another type; lengths stay on the host."""
        return Encoding(self.values.to(*args, **kwargs), self.lengths)

    @staticmethod
    def cat(parts: Sequence[Encoding]) -> Encoding:
        """The items of all parts, in order."""
        values = torch.cat([part.values for part in parts])
        lengths = [part.lengths for part in parts if part.lengths is not None]
        if lengths and len(lengths) != len(parts):
            raise ValueError("cannot join ragged and fixed-size encodings")
        return Encoding(values, torch.cat(lengths) if lengths else None)


VectorSimilarity = Literal["cosine", "dot", "euclidean"]
"""Similarity of two vectors; ``euclidean`` is their negated distance."""
Scorer = Callable[[Encoding, Encoding], Tensor]
"""(images, texts) to (n_images, n_texts); higher is better."""
