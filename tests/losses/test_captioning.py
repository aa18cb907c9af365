"""Cross entropy and self-critical loss against the original (golden arrays) and a hand computation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmodal_bench.losses import (
    caption_cross_entropy,
    ramp,
    self_critical_loss,
    sentence_mask,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "self_critical.npz"


@pytest.fixture(scope="module")
def golden() -> Iterator[dict[str, Tensor]]:
    with np.load(GOLDEN) as arrays:
        numbers = [name for name in arrays.files if arrays[name].dtype.kind in "fi"]
        yield {name: torch.from_numpy(np.asarray(arrays[name])) for name in numbers}


def test_self_critical_loss_and_gradient_are_the_originals(golden: dict[str, Tensor]) -> None:
    log_probabilities = golden["logp"].clone().requires_grad_()
    drawn = golden["sample"]
    likelihoods = log_probabilities.gather(2, drawn[:, :, None])[:, :, 0]
    # The original has the reward of the sentence at each of its words.
    loss = self_critical_loss(likelihoods, golden["reward"][:, 0], sentence_mask(drawn, end=0))
    torch.testing.assert_close(loss, golden["rl_loss"], rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(loss, log_probabilities)
    torch.testing.assert_close(gradient, golden["rl_grad"], rtol=0, atol=1e-15)


def test_cross_entropy_is_the_originals(golden: dict[str, Tensor]) -> None:
    likelihoods = golden["logp"].gather(2, golden["lm_target"][:, :, None])[:, :, 0]
    loss = caption_cross_entropy(likelihoods, golden["lm_mask"].bool())
    torch.testing.assert_close(loss, golden["lm_loss"], rtol=1e-12, atol=0)


def test_a_sentence_ends_with_its_first_end() -> None:
    words = torch.tensor([[4, 5, 3, 3, 0], [4, 5, 6, 7, 8], [3, 4, 3, 0, 0]])
    assert sentence_mask(words, end=3).tolist() == [
        [True, True, True, False, False],
        [True] * 5,
        [True, False, False, False, False],
    ]


def test_the_policy_gradient_is_that_of_the_expected_reward() -> None:
    """Two words, captions of one or two of them: every caption can be listed."""
    logits = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.4, -0.3]], dtype=torch.float64, requires_grad=True)
    rewards = {(0,): 0.7, (1, 0): 0.2, (1, 1): -0.4, (1, 2): 0.9, (2, 0): 1.5, (2, 1): 0.3, (2, 2): 0.1}
    table = logits.log_softmax(1)
    logarithms = {words: sum(table[i, word] for i, word in enumerate(words)) for words in rewards}
    expected = sum(torch.exp(logarithms[words]) * reward for words, reward in rewards.items())
    (exact,) = torch.autograd.grad(-expected, logits, retain_graph=True)
    # Each caption as often as it is drawn; the baseline changes nothing.
    estimate = torch.zeros_like(logits)
    for words, reward in rewards.items():
        mask = torch.tensor([[True, len(words) == 2]])
        chosen = torch.stack([table[i, word] for i, word in enumerate((*words, 0)[:2])])[None]
        advantage = torch.tensor([reward - 0.35], dtype=torch.float64)
        loss = self_critical_loss(chosen, advantage, mask) * mask.sum()
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        estimate += logarithms[words].exp().detach() * gradient
    torch.testing.assert_close(estimate, exact, rtol=0, atol=1e-12)


def test_masked_words_count_nowhere() -> None:
    likelihoods = torch.tensor([[-1.0, -2.0, -torch.inf]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    loss = caption_cross_entropy(likelihoods, mask)
    assert float(loss.detach()) == 1.5
    loss.backward()
    assert likelihoods.grad is not None and likelihoods.grad.tolist() == [[-0.5, -0.5, 0.0]]
    assert float(caption_cross_entropy(likelihoods, torch.zeros_like(mask)).detach()) == 0
    with pytest.raises(ValueError, match="differ in shape"):
        caption_cross_entropy(likelihoods, mask[:, :2])


def test_no_gradient_passes_through_the_reward() -> None:
    advantage = torch.tensor([2.0], requires_grad=True)
    likelihoods = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    self_critical_loss(likelihoods, advantage, torch.ones(1, 2, dtype=torch.bool)).backward()
    assert advantage.grad is None and likelihoods.grad is not None


def test_a_ramp_begins_and_ends_where_it_is_told() -> None:
    assert [ramp(0.05, 0.95, epoch, 10) for epoch in (0, 9, 12)] == pytest.approx([0.05, 0.95, 0.95])
    assert ramp(0.05, 0.95, 3, 10) == pytest.approx(0.35)
    assert ramp(0.05, 0.95, 0, 1) == 0.05
