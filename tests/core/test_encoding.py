"""Encodings of every shape behave like lists of items."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding

LENGTHS = [3, 1, 4, 2, 1, 5]


def vectors() -> Encoding:
    return Encoding(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))


def fragments() -> Encoding:
    return Encoding(torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(1)))


def ragged() -> Encoding:
    values = torch.randn(sum(LENGTHS), 4, generator=torch.Generator().manual_seed(2))
    return Encoding(values, torch.tensor(LENGTHS))


def items(encoding: Encoding) -> list[Tensor]:
    """One tensor per item: the naive reading of an encoding."""
    if encoding.lengths is None:
        return list(encoding.values)
    parts, at = [], 0
    for length in encoding.lengths.tolist():
        parts.append(encoding.values[at : at + length])
        at += length
    return parts


def same(found: Encoding, expected: list[Tensor]) -> bool:
    parts = items(found)
    return len(found) == len(parts) == len(expected) and all(
        torch.equal(a, b) for a, b in zip(parts, expected, strict=True)
    )


@pytest.fixture(params=[vectors, fragments, ragged], ids=lambda make: make.__name__)
def encoding(request: pytest.FixtureRequest) -> Encoding:
    made: Encoding = request.param()
    return made


@pytest.mark.parametrize(
    "rows",
    [slice(0, 6), slice(2, 5), slice(None, 2), slice(4, None), slice(-2, None), slice(3, 3), slice(5, 99)],
)
def test_slices_are_the_items_of_a_list(encoding: Encoding, rows: slice) -> None:
    assert len(encoding) == 6
    assert same(encoding[rows], items(encoding)[rows])


def test_slices_share_memory(encoding: Encoding) -> None:
    assert encoding[1:5].values.untyped_storage().data_ptr() == encoding.values.untyped_storage().data_ptr()


def test_a_stepped_slice_is_refused_for_every_kind(encoding: Encoding) -> None:
    with pytest.raises(ValueError, match=r"steps of 1, not 2; use take"):
        encoding[::2]
    assert same(encoding[1:4:1], items(encoding)[1:4])


@pytest.mark.parametrize("rows", [[4, 0, 4, 5, 1], [3], [], [5, 4, 3, 2, 1, 0]])
def test_take_gives_any_items_in_any_order(encoding: Encoding, rows: list[int]) -> None:
    taken = encoding.take(torch.tensor(rows, dtype=torch.int64))
    assert same(taken, [items(encoding)[row] for row in rows])


def test_take_copies(encoding: Encoding) -> None:
    before = encoding.values.clone()
    encoding.take(torch.arange(6)).values.zero_()
    assert torch.equal(encoding.values, before)


def test_cat_puts_slices_back_together(encoding: Encoding) -> None:
    assert same(Encoding.cat([encoding[:1], encoding[1:4], encoding[4:4], encoding[4:]]), items(encoding))


def test_cat_refuses_to_mix_ragged_and_fixed() -> None:
    with pytest.raises(ValueError, match="ragged and fixed-size"):
        Encoding.cat([vectors(), ragged()])


def test_to_changes_the_values_type_and_leaves_lengths_whole(encoding: Encoding) -> None:
    changed = encoding.to(torch.float64)
    assert changed.values.dtype == torch.float64
    assert torch.equal(changed.values.float(), encoding.values)
    if encoding.lengths is None:
        assert changed.lengths is None
    else:
        assert changed.lengths is not None and changed.lengths.dtype == torch.int64
    moved = encoding.to("meta")
    assert moved.values.device.type == "meta"
    assert moved.lengths is None or torch.equal(moved.lengths, torch.tensor(LENGTHS))
