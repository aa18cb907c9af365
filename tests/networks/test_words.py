"""Word states against SCAN's and VSE++'s text encoders (golden arrays), and what padding may not change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmodal_bench.networks import UnitEmbedding, WordStates, unit

GOLDEN = Path(__file__).parents[1] / "golden" / "matching.npz"


@pytest.fixture(scope="module")
def golden() -> Iterator[dict[str, Tensor]]:
    with np.load(GOLDEN) as arrays:
        yield {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def authors(golden: dict[str, Tensor], which: str, bidirectional: bool) -> WordStates:
    words, width = golden[f"{which}/txt_enc/embed.weight"].shape
    made = WordStates(words, width, 32, bidirectional).double()
    made.words.weight.data = golden[f"{which}/txt_enc/embed.weight"].clone()
    prefix = f"{which}/txt_enc/rnn."
    made.recurrent.load_state_dict(
        {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}
    )
    return made


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_word_states_are_scans(golden: dict[str, Tensor], dtype: torch.dtype) -> None:
    lengths = golden["scan/lengths"]
    states, _ = authors(golden, "scan", True).to(dtype)(golden["scan/ids"], lengths)
    expected = [one[:n] for one, n in zip(golden["scan/cap_emb"], lengths, strict=True)]
    # They add 1e-8 to a length before they divide by it.
    tolerance = 1e-7 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(unit(states).double(), torch.cat(expected), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_last_states_are_vse_pps(golden: dict[str, Tensor], dtype: torch.dtype) -> None:
    _, last = authors(golden, "vse", False).to(dtype)(golden["vse/ids"], golden["vse/lengths"])
    # They add 1e-8 to a length before they divide by it.
    tolerance = 1e-7 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(unit(last).double(), golden["vse/cap_emb"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("which", ["scan", "vse"])
def test_image_embeddings_are_scans_and_vse_pps(
    golden: dict[str, Tensor], which: str, dtype: torch.dtype
) -> None:
    made = UnitEmbedding(48, 32).to(dtype)
    made.linear.weight.data = golden[f"{which}/img_enc/fc.weight"].to(dtype)
    made.linear.bias.data = golden[f"{which}/img_enc/fc.bias"].to(dtype)
    # They add 1e-8 to a length before they divide by it.
    tolerance = 1e-7 if dtype == torch.float64 else 1e-5
    found = made(golden[f"{which}/feats"].to(dtype))
    torch.testing.assert_close(found.double(), golden[f"{which}/img_emb"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_lengths_need_no_order_and_padding_and_company_change_nothing(bidirectional: bool) -> None:
    torch.manual_seed(0)
    made = WordStates(20, 4, 6, bidirectional)
    words = torch.randint(4, 20, (3, 5))
    lengths = torch.tensor([2, 5, 1])
    states, last = made(words, lengths)
    assert states.shape == (8, 6) and last.shape == (3, 6)
    other = words.clone()
    other[0, 2:], other[2, 1:] = 0, 17
    assert torch.equal(made(other, lengths)[0], states)
    for row, (length, part) in enumerate(zip(lengths.tolist(), states.split(lengths.tolist()), strict=True)):
        alone, own = made(words[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(alone, part)
        torch.testing.assert_close(own[0], last[row])


def test_vectors_start_small_and_layers_xavier_uniform() -> None:
    torch.manual_seed(0)
    made = WordStates(500, 30, 6, True)
    assert 0.09 < made.words.weight.abs().max() <= 0.1
    layer = UnitEmbedding(300, 100).linear
    assert not layer.bias.any()
    bound = (6 / 400) ** 0.5
    assert 0.99 * bound < layer.weight.abs().max() <= bound


def test_a_zero_vector_stays_zero_and_autocast_keeps_single_precision() -> None:
    assert torch.equal(unit(torch.zeros(2, 3)), torch.zeros(2, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert UnitEmbedding(5, 4)(torch.randn(2, 5)).dtype == torch.float32
        assert WordStates(9, 4, 3, True)(torch.tensor([[4, 5]]), torch.tensor([2]))[0].dtype == torch.float32
