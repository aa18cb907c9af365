"""The caption branch against VSRN's code (golden arrays), a naive loop, and what padding may not change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal_bench.networks.captioning import CaptionGenerator

GOLDEN = Path(__file__).parents[1] / "golden" / "vsrn.npz"
Golden = dict[str, Tensor]
DTYPES = [torch.float64, torch.float32]
NAMES = {
    "encoder.vid2hid.": "projection.",
    "encoder.rnn.": "reader.",
    "decoder.embedding.": "words.",
    "decoder.attention.linear1.": "attention.",
    "decoder.attention.linear2.": "attention_score.",
    "decoder.rnn.": "writer.",
    "decoder.out.": "out.",
}


@pytest.fixture(scope="module")
def golden() -> Iterator[Golden]:
    with np.load(GOLDEN) as arrays:
        yield {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def authors(golden: Golden, dtype: torch.dtype) -> CaptionGenerator:
    """The authors' weights in our module, in eval mode."""
    weights = {}
    for name, value in golden.items():
        for theirs, ours in NAMES.items():
            if name.startswith(f"cap/sd/{theirs}"):
                ours_whole = name.replace(f"cap/sd/{theirs}", ours)
                weights[ours_whole.removesuffix("_l0") if ours == "writer." else ours_whole] = value
    module = CaptionGenerator(50, 24, 16, 10).to(dtype)
    module.load_state_dict(weights)
    return module.eval()


def near(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 0, "atol": 1e-10 if dtype == torch.float64 else 1e-5}


def captions(golden: Golden) -> tuple[Tensor, Tensor]:
    """(5, 13) ids, padded beyond the longest, and their lengths."""
    words = golden["cap/labels"].long()
    return words, (words != 0).sum(1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_probabilities_are_the_authors_code(golden: Golden, dtype: torch.dtype) -> None:
    expected = golden["cap/logprobs"]
    words, _ = captions(golden)
    found = authors(golden, dtype)(golden["cap/gcn"].to(dtype), words[:, : expected.shape[1]])
    torch.testing.assert_close(found.double(), expected, **near(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loss_of_as_many_steps_as_words_is_that_of_the_authors_fixed_number(
    golden: Golden, dtype: torch.dtype
) -> None:
    words, lengths = captions(golden)
    assert golden["cap/logprobs"].shape[1] > lengths.max()
    loss = authors(golden, dtype).loss(golden["cap/gcn"].to(dtype), words, lengths)
    torch.testing.assert_close(loss.double(), golden["cap/loss"], rtol=1e-6, atol=0)
    if dtype == torch.float64:
        torch.testing.assert_close(loss, golden["cap/loss"], **near(dtype))


def test_the_authors_mask_is_one_padding_word_longer_than_the_caption(golden: Golden) -> None:
    _, lengths = captions(golden)
    assert torch.equal(golden["cap/masks"].sum(1).long(), lengths + 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_greedy_captions_are_the_authors_code_and_stop_at_the_end(golden: Golden, dtype: torch.dtype) -> None:
    module, regions = authors(golden, dtype), golden["cap/gcn"].to(dtype)
    expected = golden["cap/greedy"].long()
    assert torch.equal(module.greedy(regions, 10, start=1, end=2), expected)
    assert torch.equal(module.greedy(regions, 4, start=1, end=2), expected[:, :4])
    end = 40
    stopped = module.greedy(regions, 10, start=1, end=end)
    for row, whole in zip(stopped.tolist(), expected.tolist(), strict=True):
        n = whole.index(end) + 1 if end in whole else 10
        assert row == whole[:n] + [0] * (10 - n)
    # Rows 1 and 2 alone end before ten words, and nothing is written for longer.
    assert torch.equal(module.greedy(regions[1:3], 10, start=1, end=end), stopped[1:3, :5])
    with pytest.raises(ValueError, match="max_words is 0; it must be at least 1"):
        module.greedy(regions, 0, start=1, end=2)


def ragged(dtype: torch.dtype = torch.float64) -> tuple[CaptionGenerator, Tensor, Tensor, Tensor]:
    """A branch in eval mode, regions (4, 5, 6), words (4, 7), lengths; row 1 is start and end alone."""
    torch.manual_seed(0)
    module = CaptionGenerator(12, 6, 4, 3).to(dtype).eval()
    lengths = torch.tensor([5, 2, 7, 3])
    words = torch.randint(4, 12, (4, 7)) * (torch.arange(7) < lengths[:, None])
    words[:, 0] = 2
    words[torch.arange(4), lengths - 1] = 3
    return module, torch.randn(4, 5, 6, dtype=dtype), words, lengths


def naive_loss(module: CaptionGenerator, regions: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
    """Caption by caption, word by word, region by region."""
    total = torch.zeros((), dtype=regions.dtype)
    for one, caption, length in zip(regions, words.tolist(), lengths.tolist(), strict=True):
        read = module.reader(module.projection(one)[None])[0][0]
        state = read[-1]
        for t in range(length):
            scores = [
                module.attention_score(torch.tanh(module.attention(torch.cat([r, state])))) for r in read
            ]
            weights = torch.cat(scores).exp()
            context = sum(w * r for w, r in zip(weights / weights.sum(), read, strict=True))
            word = module.words.weight[caption[t]]
            state = module.writer(torch.cat([word, context])[None], state[None])[0]
            target = caption[t + 1] if t + 1 < length else 0
            powers = module.out(state).exp()
            total = total - (powers[target] / powers.sum()).log()
    return total / len(words)


def test_the_loss_and_its_gradients_are_the_naive_loop() -> None:
    module, regions, words, lengths = ragged()
    regions.requires_grad_()
    inputs = (regions, *module.parameters())
    found = module.loss(regions, words, lengths)
    expected = naive_loss(module, regions, words, lengths)
    torch.testing.assert_close(found, expected)
    pairs = zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True)
    for one, two in pairs:
        torch.testing.assert_close(one, two)


def test_padding_company_and_what_lies_in_the_padding_change_nothing() -> None:
    module, regions, words, lengths = ragged()
    whole = module.loss(regions, words, lengths)
    torch.testing.assert_close(module.loss(regions, F.pad(words, (0, 5)), lengths), whole)
    torch.testing.assert_close(module.loss(regions, F.pad(words, (0, 5), value=9), lengths), whole)
    scribbled = torch.where(torch.arange(7) < lengths[:, None], words, 9)
    torch.testing.assert_close(module.loss(regions, scribbled, lengths), whole)
    alone = [module.loss(regions[i : i + 1], words[i : i + 1], lengths[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(torch.stack(alone).mean(), whole)


def test_a_caption_without_words_has_two_targets_and_one_region_suffices() -> None:
    module, regions, words, lengths = ragged()
    loss = module.loss(regions[1:2, :1], words[1:2], lengths[1:2])
    assert words[1, :2].tolist() == [2, 3]
    chances = module(regions[1:2, :1], words[1:2, :2])[0]
    torch.testing.assert_close(loss, -chances[0, 3] - chances[1, 0])


def test_greedy_words_are_those_that_the_given_ones_make_most_likely() -> None:
    module, regions, _, _ = ragged()
    written = module.greedy(regions, 6, start=2, end=-1)
    given = torch.cat([torch.full((4, 1), 2), written[:, :-1]], 1)
    assert torch.equal(module(regions, given).argmax(2), written)
    assert len({tuple(row) for row in written.tolist()}) > 1


def test_dropout_acts_in_training_on_regions_and_inputs() -> None:
    module, regions, words, lengths = ragged()
    assert module.dropout.p == 0.2
    expected = module.loss(regions, words, lengths)
    module.train()
    noisy = [module.loss(regions, words, lengths) for _ in range(2)]
    assert noisy[0] != noisy[1] and noisy[0] != expected
    module.dropout.p = 0.0
    torch.testing.assert_close(module.loss(regions, words, lengths), expected)
    # Everything dropped: nothing depends on the regions, nor on the words read.
    module.dropout.p = 1.0
    assert torch.equal(module(regions, words), module(regions + 1, words.flip(1)))


def test_no_more_steps_are_made_than_the_longest_caption_has_words() -> None:
    module, regions, words, lengths = ragged()
    steps = []
    module.writer.register_forward_hook(lambda *_: steps.append(1))
    module.loss(regions, F.pad(words, (0, 52)), lengths)
    assert len(steps) == 7


def test_layers_start_with_xaviers_deviation() -> None:
    torch.manual_seed(0)
    module = CaptionGenerator(90, 60, 50, 40)
    layers = {"projection": 110, "attention": 150, "attention_score": 51, "out": 140}
    for name, width in layers.items():
        deviation = float(getattr(module, name).weight.detach().std())
        assert deviation == pytest.approx((2 / width) ** 0.5, rel=0.05 if name != "attention_score" else 0.4)


def test_autocast_changes_nothing() -> None:
    module, regions, words, lengths = ragged(torch.float32)
    expected = module.loss(regions, words, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module.loss(regions, words, lengths), expected)
    assert module.loss(regions.half(), words, lengths).dtype == torch.float32
