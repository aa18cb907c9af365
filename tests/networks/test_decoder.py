"""The caption decoder: what it says of given captions, and three ways to write new ones, against loops."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal_bench.networks import CaptionDecoder
from crossmodal_bench.networks.decoder import drawn_words

VOCABULARY, DIM, START, END = 7, 5, 2, 3
WORDS = torch.tensor([[4, 5, 6, 3], [5, 3, 0, 0], [1, 6, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()


@pytest.fixture
def decoder() -> CaptionDecoder:
    torch.manual_seed(0)
    made = CaptionDecoder(VOCABULARY, DIM, hidden=6, embedding=4).double()
    with torch.no_grad():
        # Far from uniform, so that the ways to write differ.
        made.out.weight.mul_(8)
        made.words.weight.mul_(20)
    return made


@pytest.fixture
def vectors() -> Tensor:
    return torch.randn(3, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def after(decoder: CaptionDecoder, vector: Tensor, words: list[int]) -> Tensor:
    """(vocabulary,) log probabilities of the word behind these, one step after another."""
    state = torch.tanh(decoder.first(vector))[None, None]
    out = state
    for word in [START, *words]:
        read = torch.cat([decoder.words(torch.tensor([[word]])), decoder.context(vector)[None, None]], 2)
        out, state = decoder.recurrent(read, state)
    logits = decoder.out(out[0, 0])
    possible = [word for word in range(VOCABULARY) if word not in (0, START)]
    found = torch.full((VOCABULARY,), -torch.inf, dtype=logits.dtype)
    found[possible] = F.log_softmax(logits[possible], 0)
    return found


def likelihood(decoder: CaptionDecoder, vector: Tensor, words: list[int]) -> float:
    return sum(float(after(decoder, vector, words[:i])[word].detach()) for i, word in enumerate(words))


def test_likelihoods_are_those_of_a_loop_over_words(decoder: CaptionDecoder, vectors: Tensor) -> None:
    found = decoder.log_likelihoods(vectors, WORDS, MASK)
    for line in range(3):
        for place in range(4):
            wanted = after(decoder, vectors[line], WORDS[line, :place].tolist())[WORDS[line, place]]
            expected = wanted if MASK[line, place] else torch.zeros((), dtype=torch.float64)
            torch.testing.assert_close(found[line, place], expected)


def test_likelihoods_have_a_gradient_in_vectors_and_weights(decoder: CaptionDecoder, vectors: Tensor) -> None:
    vectors.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: decoder.log_likelihoods(v, WORDS, MASK).sum(), (vectors,))
    decoder.log_likelihoods(vectors, WORDS, MASK).sum().backward()
    assert all(one.grad is not None and one.grad.any() for one in decoder.parameters())


def test_greedy_takes_the_likeliest_word_and_stops_at_the_end(
    decoder: CaptionDecoder, vectors: Tensor
) -> None:
    found = decoder.greedy(vectors, 6)
    for line, ids in enumerate(found.tolist()):
        words: list[int] = []
        while len(words) < 6 and END not in words:
            words.append(int(after(decoder, vectors[line], words).argmax()))
        assert ids == words + [0] * (found.shape[1] - len(words))


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_wide_beam_finds_the_likeliest_caption_of_all(
    decoder: CaptionDecoder, vectors: Tensor, most: int
) -> None:
    possible = [word for word in range(VOCABULARY) if word not in (0, START, END)]
    captions = [[*some, END] for n in range(most) for some in itertools.product(possible, repeat=n)]
    captions += [list(some) for some in itertools.product(possible, repeat=most)]
    found = decoder.beam(vectors, most, VOCABULARY**most)
    for vector, ids in zip(vectors, found.tolist(), strict=True):
        best = max(captions, key=lambda words: likelihood(decoder, vector, words))
        assert ids == best + [0] * (found.shape[1] - len(best))


def test_a_beam_of_one_is_greedy(decoder: CaptionDecoder, vectors: Tensor) -> None:
    assert torch.equal(decoder.beam(vectors, 6, 1), decoder.greedy(vectors, 6))


def test_samples_follow_the_distribution(decoder: CaptionDecoder, vectors: Tensor) -> None:
    torch.manual_seed(3)
    drawn = decoder.sample(vectors[:1].expand(4000, -1), 2)
    shares = torch.bincount(drawn[:, 0], minlength=VOCABULARY) / 4000
    expected = after(decoder, vectors[0], []).exp().detach()
    torch.testing.assert_close(shares.double(), expected, rtol=0, atol=0.03)
    assert not drawn[:, 0].eq(0).any() and not drawn.eq(START).any(), "neither padding nor start is a word"
    assert drawn[drawn[:, 0] == END, 1].eq(0).all(), "padding behind the end"


def test_words_are_drawn_by_their_probabilities() -> None:
    torch.manual_seed(4)
    shares = torch.tensor([0.0, 0.4, 0.0, 0.3, 0.2, 0.1, 0.0])
    drawn = drawn_words(shares.log().expand(50_000, -1))
    counts = torch.bincount(drawn, minlength=7).double()
    assert counts[shares == 0].eq(0).all()
    expected = shares[shares > 0].double() * 50_000
    # Chi-square with 3 degrees of freedom: 16.3 is passed once in a thousand.
    assert ((counts[shares > 0] - expected).square() / expected).sum() < 16.3
    assert drawn_words(torch.full((3, 7), torch.nan)).lt(7).all()


@pytest.mark.parametrize(("level", "word"), [(0.0, 1), (1.0, 5)])
def test_the_ends_of_a_distribution_are_words_too(
    level: float, word: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A level that rounding has brought to the whole itself is beyond all words, and 0 is before the first.
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, level))
    shares = torch.tensor([[0.0, 0.4, 0.0, 0.3, 0.2, 0.1, 0.0]])
    assert drawn_words(shares.log()).tolist() == [word]


def test_words_are_drawn_again_from_the_states_of_the_random_numbers() -> None:
    log_probs = torch.randn(64, 50).log_softmax(1)
    state = torch.get_rng_state()
    first = drawn_words(log_probs)
    torch.set_rng_state(state)
    assert torch.equal(drawn_words(log_probs), first)


def test_scheduled_sampling_draws_only_for_rows_that_take_their_own_word(
    decoder: CaptionDecoder, vectors: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def likeliest(log_probs: Tensor) -> Tensor:
        rows.append(len(log_probs))
        return log_probs.argmax(1)

    monkeypatch.setattr("crossmodal_bench.networks.decoder.drawn_words", likeliest)
    before = torch.randint(4, VOCABULARY, (42, 5))
    before[:, 0] = START
    many = vectors.repeat(14, 1)
    torch.manual_seed(5)
    mixed = decoder._partly_own(many, before, 0.25)
    torch.manual_seed(5)
    own = torch.rand(before.shape) < 0.25
    own[:, 0] = False
    assert rows == [count for count in own.sum(0).tolist() if count]
    for row in range(42):
        words = before[row].tolist()
        for position in torch.nonzero(own[row])[:, 0].tolist():
            words[position] = int(after(decoder, many[row], words[1:position]).argmax())
        assert mixed[row].tolist() == words


def test_scheduled_sampling_replaces_words_before_by_its_own(
    decoder: CaptionDecoder, vectors: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = decoder.log_likelihoods(vectors, WORDS, MASK)
    torch.manual_seed(0)
    changed = decoder.log_likelihoods(vectors, WORDS, MASK, sampling=1.0)
    # The first word has start before it.
    torch.testing.assert_close(changed[:, 0], plain[:, 0])
    assert not torch.allclose(changed[:, 1:], plain[:, 1:])
    decoder.eval()
    torch.testing.assert_close(decoder.log_likelihoods(vectors, WORDS, MASK, sampling=1.0), plain)
    decoder.train()
    seen: list[Tensor] = []
    original = decoder._partly_own
    monkeypatch.setattr(decoder, "_partly_own", lambda *given: seen.append(original(*given)) or seen[-1])
    torch.manual_seed(0)
    words = torch.full((400, 6), 4)
    decoder.log_likelihoods(vectors[:1].expand(400, -1), words, words > 0, sampling=0.25)
    assert seen[0][:, 0].eq(START).all()
    share = (seen[0][:, 1:] != 4).double().mean()
    assert 0.02 < share < 0.25, "a quarter is drawn, and some of that is the true word again"


def test_dropout_is_for_true_words_alone(vectors: Tensor) -> None:
    torch.manual_seed(0)
    decoder = CaptionDecoder(VOCABULARY, DIM, 6, 4, dropout=0.5).double()
    dropped = decoder.log_likelihoods(vectors, WORDS, MASK)
    sober = decoder.log_likelihoods(vectors, WORDS, MASK, dropout=False)
    assert not torch.allclose(dropped, sober)
    decoder.eval()
    torch.testing.assert_close(decoder.log_likelihoods(vectors, WORDS, MASK), sober)


def test_writing_costs_no_gradient_and_needs_room_for_a_word(
    decoder: CaptionDecoder, vectors: Tensor
) -> None:
    vectors.requires_grad_()
    for way in (decoder.greedy, decoder.sample):
        assert not way(vectors, 2).requires_grad
        with pytest.raises(ValueError, match="max_words is 0"):
            way(vectors, 0)
    with pytest.raises(ValueError, match="width is 0"):
        decoder.beam(vectors, 3, 0)
