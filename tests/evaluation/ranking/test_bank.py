from __future__ import annotations

import pytest
import torch
from torchmetrics import Metric

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import RetrievalBank


def ragged(ids: list[int]) -> Encoding:
    """Item i has i + 1 rows that all hold i."""
    lengths = torch.tensor([i + 1 for i in ids])
    return Encoding(torch.repeat_interleave(torch.tensor(ids).float(), lengths)[:, None], lengths)


def test_items_come_back_by_index_and_once() -> None:
    bank = RetrievalBank(5)
    assert isinstance(bank, Metric)
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for batch in ([3, 1], [4, 0], [2, 3, 1]):
        bank.update(torch.tensor(batch), Encoding(vectors[batch]))
    ids, encoding = bank.gathered()
    assert ids.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(encoding.values, vectors)
    assert encoding.lengths is None
    assert int(bank.compute()) == 5


def test_ragged_items_keep_their_rows() -> None:
    bank = RetrievalBank(4)
    bank.update(torch.tensor([2, 0]), ragged([2, 0]))
    bank.update(torch.tensor([3, 1, 2]), ragged([3, 1, 2]))
    _, encoding = bank.gathered()
    expected = ragged([0, 1, 2, 3])
    assert encoding.lengths is not None and expected.lengths is not None
    assert encoding.lengths.tolist() == expected.lengths.tolist()
    assert torch.equal(encoding.values, expected.values)


def test_a_partial_gallery_raises_and_can_be_completed() -> None:
    bank = RetrievalBank(3)
    bank.update(torch.tensor([2, 0]), Encoding(torch.ones(2, 2)))
    for _ in range(2):
        with pytest.raises(ValueError, match="2 of 3 items were encoded, item 1"):
            bank.gathered()
    bank.update(torch.tensor([1]), Encoding(torch.ones(1, 2)))
    assert len(bank.gathered()[1]) == 3


def test_an_empty_bank_raises_and_reset_empties() -> None:
    bank = RetrievalBank(1)
    with pytest.raises(ValueError, match="0 of 1"):
        bank.gathered()
    bank.update(torch.tensor([0]), Encoding(torch.ones(1, 2)))
    assert bank.gathered()[0].tolist() == [0]
    bank.reset()
    with pytest.raises(ValueError, match="0 of 1"):
        bank.gathered()


def test_the_bank_keeps_copies_without_gradient() -> None:
    bank = RetrievalBank(2)
    batch = torch.ones(2, 2, requires_grad=True)
    bank.update(torch.tensor([0, 1]), Encoding(batch))
    with torch.no_grad():
        batch.zero_()
    values = bank.gathered()[1].values
    assert torch.equal(values, torch.ones(2, 2))
    assert not values.requires_grad


def test_bad_updates_raise() -> None:
    bank = RetrievalBank(3)
    with pytest.raises(ValueError, match="2 indices for 1"):
        bank.update(torch.tensor([0, 1]), Encoding(torch.ones(1, 2)))
    with pytest.raises(ValueError, match=r"range\(3\)"):
        bank.update(torch.tensor([3]), Encoding(torch.ones(1, 2)))
    bank.update(torch.tensor([0]), Encoding(torch.ones(1, 1)))
    with pytest.raises(ValueError, match="ragged or fixed-size"):
        bank.update(torch.tensor([1]), ragged([1]))
    with pytest.raises(ValueError, match="at least one item"):
        RetrievalBank(0)
