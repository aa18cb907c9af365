"""Ragged token ids: what goes in comes out, padded to the batch's longest."""

from __future__ import annotations

import numpy as np

from crossmodal_bench.data.language.tokens import TokenRows

SEQUENCES = [[5, 6], [7], [1, 2, 3, 4], [], [9]]


def test_rows_come_back_as_they_were() -> None:
    rows = TokenRows.of(SEQUENCES)
    assert len(rows) == 5
    assert [rows[i].tolist() for i in range(5)] == SEQUENCES
    assert len(TokenRows.of([])) == 0


def test_a_batch_is_padded_with_zeros_to_its_longest() -> None:
    ids, lengths = TokenRows.of(SEQUENCES).padded(np.array([4, 0, 3]))
    assert ids.tolist() == [[9, 0], [5, 6], [0, 0]]
    assert lengths.tolist() == [1, 2, 0]
    ids, lengths = TokenRows.of(SEQUENCES).padded(np.array([2]))
    assert ids.tolist() == [[1, 2, 3, 4]] and lengths.tolist() == [4]
