"""Vocabularies, bags of words and content-word labels."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.language.words import tokenize, treebank
from crossmodal_bench.data.text import (
    BagOfWords,
    Vocabulary,
    content_word_labels,
)

CAPTIONS = [
    "A dog runs; the dog barks.",
    "The cat's tail, a cat and a dog!",
    "Two cats sleep.",
    "A house of the cat",
]


def test_the_vocabulary_is_ordered_by_count_then_alphabet() -> None:
    vocabulary = Vocabulary.fit(CAPTIONS, min_count=2)
    assert vocabulary.words == ("<pad>", "<unk>", "<start>", "<end>", "a", "dog", "the", "cat")
    assert len(vocabulary) == 8
    assert Vocabulary.fit(reversed(CAPTIONS), min_count=2) == vocabulary


@pytest.mark.parametrize(("min_count", "known"), [(1, 14), (2, 4), (3, 3), (4, 1), (5, 0)])
def test_words_below_the_cut_off_are_unknown(min_count: int, known: int) -> None:
    counts = Counter(word for caption in CAPTIONS for word in tokenize(caption))
    vocabulary = Vocabulary.fit(CAPTIONS, min_count)
    assert len(vocabulary) == 4 + known == 4 + sum(n >= min_count for n in counts.values())
    for caption in [*CAPTIONS, "Something never seen"]:
        ids = vocabulary.encode(caption)
        words = tokenize(caption)
        assert ids.dtype == np.int64 and len(ids) == len(words) + 2
        assert vocabulary.words[ids[0]] == "<start>" and vocabulary.words[ids[-1]] == "<end>"
        for word, one in zip(words, ids[1:-1], strict=True):
            assert vocabulary.words[one] == (word if counts[word] >= min_count else "<unk>")


def test_a_caption_without_words_is_start_and_end() -> None:
    assert Vocabulary.fit(CAPTIONS).encode("?!").tolist() == [2, 3]


def test_a_vocabulary_encodes_with_the_words_that_it_was_fitted_on() -> None:
    plain, tree = (Vocabulary.fit(CAPTIONS, 1, kind) for kind in ("plain", "treebank"))
    assert "cat's" in plain.words and "." not in plain.words
    assert {"cat", "'s", ".", ";", "!"} <= set(tree.words) and "cat's" not in tree.words
    for vocabulary, words in ((plain, tokenize), (tree, treebank)):
        for caption in CAPTIONS:
            ids = vocabulary.encode(caption)[1:-1]
            assert [vocabulary.words[one] for one in ids] == words(caption)


def test_tf_idf_is_what_its_formula_says() -> None:
    bag = BagOfWords(size=50).fit(CAPTIONS)
    rows = bag.transform([*CAPTIONS, "dog dog cat unseen"]).toarray()
    assert rows.dtype == np.float32 and rows.shape == (5, len(bag.words))
    n = len(CAPTIONS)
    document_frequency = Counter(word for caption in CAPTIONS for word in set(tokenize(caption)))
    for caption, row in zip([*CAPTIONS, "dog dog cat unseen"], rows, strict=True):
        weights = {
            word: count * (math.log((1 + n) / (1 + document_frequency[word])) + 1)
            for word, count in Counter(tokenize(caption)).items()
            if word in document_frequency
        }
        norm = math.sqrt(sum(weight**2 for weight in weights.values()))
        expected = [weights.get(word, 0) / norm for word in bag.words]
        np.testing.assert_allclose(row, expected, rtol=1e-5)


def test_the_bag_keeps_the_most_frequent_words() -> None:
    assert set(BagOfWords(size=3).fit(CAPTIONS).words) == {"a", "dog", "the"}


def test_captions_without_any_word_make_no_bag() -> None:
    with pytest.raises(
        BadInput, match=r"no bag of words can be built from the training captions \(.*\); check"
    ):
        BagOfWords().fit(["...", "!"])


def test_ids_become_words_again_up_to_the_end() -> None:
    vocabulary = Vocabulary.fit(["a red dog", "a dog"], min_count=1)
    ids = vocabulary.encode("A red zebra!").tolist()
    assert vocabulary.decode([*ids, *ids, 0]) == "a red <unk>"
    assert vocabulary.decode([vocabulary.words.index("dog"), 0, 0]) == "dog", "padding is no word"
    assert vocabulary.decode([]) == "" and vocabulary.split("A red zebra!") == ["a", "red", "zebra"]


def test_content_words_are_counted_by_caption_and_given_to_images() -> None:
    captions = [
        "The dog and the dog and another dog",  # counts once
        "A cat sits",
        "A cat by the house, 2 ok",
        "a house with a cat",
        "zebra zebra zebra",  # not of train
    ]
    owners = np.array([0, 1, 1, 2, 3])
    labels, names = content_word_labels(captions, owners, np.array([0, 1, 2, 3]), 4, count=3)
    assert names == ("cat", "house", "dog")
    assert labels.dtype == np.int64
    assert labels.tolist() == [[0, 0, 1], [1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_stop_words_short_words_and_numbers_are_no_content() -> None:
    _, names = content_word_labels(
        ["The ox with 42 of b2b isn't there again, bicycle"], np.array([0]), np.array([0]), 1, count=50
    )
    assert names == ("bicycle",)


def test_fewer_content_words_than_asked_for() -> None:
    labels, names = content_word_labels(["red bicycle"], np.array([0]), np.array([0]), 2, count=10)
    assert labels.shape == (2, 2) and names == ("bicycle", "red")


def test_scripts_that_are_not_english_have_content_words_too() -> None:
    captions = ["कुत्ता घास पर दौड़ रहा है", "两只狗在公园里", "un café 2nd"]
    _, names = content_word_labels(captions, np.arange(3), np.arange(3), 3, count=50)
    assert {"कुत्ता", "घास", "दौड़", "狗", "café"} <= set(names)
    assert not {"un", "2nd"} & set(names)
