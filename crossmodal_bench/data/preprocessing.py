"""How new sentences become the batches that a model was trained on, from the state in its checkpoint.

A vocabulary, a bag of words or a tokenizer is fitted on training captions. Every checkpoint stores it, as the
data module's state, because weights are meaningless without it: so a checkpoint works wherever it is copied,
and can never be read with the vocabulary of another training run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from crossmodal_bench.core.batch import TextBatch
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.validation import Items, Model, WholeNumber
from crossmodal_bench.data.language.tokens import TokenRows
from crossmodal_bench.data.language.wordpieces import build_tokenizer, encode_wordpieces, restored_tokenizer
from crossmodal_bench.data.language.words import Words, tokenize
from crossmodal_bench.data.pixels import ImageFit
from crossmodal_bench.data.text import BagOfWords, Vocabulary
from crossmodal_bench.data.views import float_rows, token_mask
from crossmodal_bench.networks.dual_encoders import load_text_tower


class WordsState(Model):
    """The view ``words``: what counts as a word, and the words in the order of their ids."""

    kind: Words
    words: Items[str]


class WordPiecesState(Model):
    """The view ``wordpieces``.

    Attributes:
        name: the pre-trained tokenizer's, or None for one fitted on the captions.
        tokenizer: the complete tokenizer, as serialised by the library ``tokenizers``; empty if that is not
            possible, and the name must suffice.
        special: its special tokens, as ``cls_token: [CLS]``.
        limit: maximal number of word pieces in a sentence.
    """

    name: str | None
    tokenizer: str
    special: dict[str, str]
    limit: WholeNumber


class BagState(Model):
    """The view ``bow``, if it is made from captions: words in column order, and the weight of each."""

    words: Items[str]
    weights: Items[float]


class TextTowerState(Model):
    """The view ``bow``, if a dual encoder's text tower makes it; see networks.dual_encoders.LoadedTower."""

    network: str
    family: str
    weights: str
    weights_sha256: str
    dim: WholeNumber


class NetworkState(Model):
    """What makes the view ``features``, or ``regions``; see crossmodal_bench.data.features.FeatureSource."""

    network: str
    weights: str
    weights_sha256: str
    dim: WholeNumber
    image_size: WholeNumber | None
    image_fit: ImageFit | None
    regions: Literal["grid", "detector"] | None
    count: WholeNumber


class PreprocessingState(Model):
    """What a checkpoint stores: plain values only, so that it is also JSON.

    Attributes:
        dataset: the data set's name, for messages.
        requires: the views that the model reads.
        image_size: pixels per side of the view ``pixels``.
        image_fit: how a picture is resized to that.
        words, wordpieces, bag: how sentences become those views; None if the model does not read them, or if
            they come with the data set.
        text_tower: what makes vectors of sentences, instead of a bag of words.
        features, regions: the network that makes them; None if they come with the data set.
    """

    dataset: str
    requires: Items[str]
    image_size: WholeNumber = Field(ge=1)
    image_fit: ImageFit
    words: WordsState | None = None
    wordpieces: WordPiecesState | None = None
    bag: BagState | None = None
    text_tower: TextTowerState | None = None
    features: NetworkState | None = None
    regions: NetworkState | None = None


class Preprocessing:
    """Sentences to batches, with what was fitted in training.

    Args:
        state: as stored in a checkpoint.
    """

    def __init__(self, state: PreprocessingState) -> None:
        self.state = state

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The words that the model knows, if it reads ``words``."""
        words = self.state.words
        return None if words is None else Vocabulary(words.words, words.kind)

    @cached_property
    def bag(self) -> BagOfWords | None:
        """The bag of words, if it reads one made from captions."""
        bag = self.state.bag
        return None if bag is None else BagOfWords.restored(bag.words, bag.weights)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, if it reads ``wordpieces``; BadInput if it cannot be restored from its state."""
        pieces = self.state.wordpieces
        if pieces is None:
            return None
        if not pieces.tokenizer:
            return build_tokenizer(pieces.name, [])
        return restored_tokenizer(pieces.tokenizer, pieces.special, pieces.limit)

    @cached_property
    def text_tower(self) -> Any:
        """The text tower used in training, if it reads its vectors; BadInput if it has changed since."""
        state = self.state.text_tower
        if state is None:
            return None
        loaded = load_text_tower(state.network, "none" if state.weights == "none" else "auto")
        if loaded.checksum != state.weights_sha256:
            raise BadInput(
                f"{state.network} is not the model used in training (checksum {loaded.checksum}, but "
                f"{state.weights_sha256} in training); put that model there"
            )
        return loaded.tower

    def _bow(self, sentences: Sequence[str]) -> torch.Tensor | None:
        """The content of the view ``bow``, if the model reads it."""
        if self.text_tower is not None:
            with torch.inference_mode():
                vectors: torch.Tensor = self.text_tower(sentences)
            return vectors.cpu()
        rows = np.arange(len(sentences))
        return None if self.bag is None else float_rows(self.bag.transform(sentences), rows)

    @property
    def refusal(self) -> str:
        """Why new sentences cannot be encoded, and what would be needed; empty if they can."""
        if "bow" in self.state.requires and self.state.bag is None and self.state.text_tower is None:
            return (
                f"the model reads the text features that come with {self.state.dataset}, which new sentences "
                "don't have; train it on a data set with captions, for which bags of words are made here"
            )
        return ""

    def unknown_words(self, sentence: str) -> list[str]:
        """The sentence's words that the model does not know, each once.

        For word pieces, the words that cannot be composed from pieces.
        """
        unknown: list[str] = []
        if self.vocabulary is not None:
            known = set(self.vocabulary.words)
            unknown += [word for word in self.vocabulary.split(sentence) if word not in known]
        if self.state.bag is not None:
            in_bag = set(self.state.bag.words)
            unknown += [word for word in tokenize(sentence) if word not in in_bag]
        if self.tokenizer is not None:
            mark = self.tokenizer.unk_token
            unknown += [word for word in sentence.split() if mark in self.tokenizer.tokenize(word)]
        return list(dict.fromkeys(unknown))

    def knows_a_word(self, sentence: str) -> bool:
        """Whether every view of the sentence has at least one known word."""
        views: list[Sequence[str]] = []
        if self.vocabulary is not None:
            views.append(self.vocabulary.split(sentence))
        if self.state.bag is not None:
            views.append(tokenize(sentence))
        if self.tokenizer is not None:
            views.append(sentence.split())
        unknown = set(self.unknown_words(sentence))
        return all(any(word not in unknown for word in words) for words in views)

    def known_words(self) -> list[str]:
        """The words of a closed vocabulary, without special tokens; empty if there are only word pieces."""
        if self.vocabulary is not None:
            return list(self.vocabulary.words[4:])
        return [] if self.state.bag is None else list(self.state.bag.words)

    def texts(self, sentences: Sequence[str]) -> TextBatch:
        """The sentences with every view that the model reads; ``index`` counts them, ``image`` is 0.

        Raises:
            BadInput: an empty sentence, or views that no new sentence can have.
        """
        if self.refusal:
            raise BadInput(self.refusal)
        if not sentences:
            raise BadInput("no sentence is given; give at least one")
        if (empty := next((row for row, text in enumerate(sentences) if not text.strip()), None)) is not None:
            raise BadInput(f"sentence {empty} is empty; write it")
        rows = np.arange(len(sentences))
        words, lengths, pieces, mask, piece_lengths = None, None, None, None, None
        if (vocabulary := self.vocabulary) is not None:
            words, lengths = TokenRows.of(vocabulary.encode(text) for text in sentences).padded(rows)
        if self.tokenizer is not None:
            encoded, _ = encode_wordpieces(self.tokenizer, sentences)
            pieces, piece_lengths = encoded.padded(rows)
            mask = token_mask(pieces, piece_lengths)
        return TextBatch(
            index=torch.arange(len(sentences)),
            image=torch.zeros(len(sentences), dtype=torch.int64),
            words=words,
            lengths=lengths,
            wordpieces=pieces,
            wordpiece_mask=mask,
            wordpiece_lengths=piece_lengths,
            bow=self._bow(sentences),
        )


def wordpieces_state(name: str | None, tokenizer: Any) -> WordPiecesState:
    """A tokenizer as plain values."""
    try:
        written = tokenizer.backend_tokenizer.to_str()
    # A tokenizer implemented in Python cannot be serialised.
    except Exception:
        written = ""
    special = {key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    return WordPiecesState(
        name=name, tokenizer=written, special=special, limit=int(tokenizer.model_max_length)
    )
