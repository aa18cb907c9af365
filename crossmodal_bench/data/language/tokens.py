"""Token ids of all captions in two flat arrays, which forked loader processes share."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class TokenRows:
    """M sequences one after another: row m is ``ids[starts[m]:starts[m + 1]]``."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int] | NDArray[np.int64]]) -> TokenRows:
        """Pack sequences in order; any of them may be empty."""
        arrays = [np.asarray(sequence, dtype=np.int32) for sequence in sequences]
        starts = np.cumsum([0, *(len(array) for array in arrays)], dtype=np.int64)
        return cls(np.concatenate(arrays) if arrays else np.zeros(0, np.int32), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.ids[self.starts[row] : self.starts[row + 1]]

    def padded(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The rows as (B, L) int64, padded with 0 to the longest of them, and their lengths (B,)."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        padded = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
        for line, row, length in zip(padded, rows, lengths, strict=True):
            line[:length] = self[int(row)]
        return torch.from_numpy(padded), torch.from_numpy(lengths)


@dataclass(frozen=True)
class NamedTokens:
    """Tokens as numbers, and the names of the numbers.

    Attributes:
        rows: of each caption, in order.
        names: token i is called ``names[i]``; empty if the ids belong to another tokenizer's vocabulary.
        cut: number of captions that were too long for their tokenizer.
    """

    rows: TokenRows
    names: tuple[str, ...] = ()
    cut: int = 0

    @classmethod
    def split(cls, captions: Iterable[str], splitter: Callable[[str], list[str]]) -> NamedTokens:
        """Number the words of captions in order of appearance.

        Args:
            captions: sentences.
            splitter: returns a sentence's words.
        """
        numbers: dict[str, int] = {}
        ids, starts = array("i"), array("q", [0])
        for caption in captions:
            ids.extend([numbers.setdefault(word, len(numbers)) for word in splitter(caption)])
            starts.append(len(ids))
        rows = TokenRows(np.array(ids, dtype=np.int32), np.array(starts, dtype=np.int64))
        return cls(rows, tuple(numbers))

    def counts(self, rows: NDArray[np.int64]) -> dict[str, int]:
        """How often each token occurs in the captions ``rows``; tokens that don't occur are left out."""
        chosen = np.zeros(len(self.rows), dtype=bool)
        chosen[rows] = True
        ids = self.rows.ids[np.repeat(chosen, np.diff(self.rows.starts))]
        occurrences = np.bincount(ids, minlength=len(self.names)).tolist()
        return {name: n for name, n in zip(self.names, occurrences, strict=True) if n}
