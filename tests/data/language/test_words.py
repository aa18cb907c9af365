"""Sentences of any script as words."""

from __future__ import annotations

import itertools
import re
import unicodedata

import fakes
import pytest

from crossmodal_bench.data.language.words import has_letters_alone, is_character, tokenize, treebank, unsplit
from crossmodal_bench.data.text import BagOfWords, Vocabulary

HINDI = "कुत्ता घास पर दौड़ रहा है"


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A Dog's ball -- red, 2nd-hand.", ["a", "dog's", "ball", "red", "2nd", "hand"]),
        ("snake_case 'quoted' don't", ["snake", "case", "quoted", "don't"]),
        ("Zürich — Ñandú", ["zürich", "ñandú"]),
        ("the dog’s ball, they don’t", ["the", "dog's", "ball", "they", "don't"]),
        ("extra\xadordinary", ["extraordinary"]),
        ("東京タワー and 2 dogs", ["東", "京", "タ", "ワ", "ー", "and", "2", "dogs"]),
        ("两只狗在公园里。", list("两只狗在公园里")),
        ("สุนัขวิ่ง", ["สุ", "นั", "ข", "วิ่", "ง"]),
        (HINDI, HINDI.split()),
        ("강아지가 잔디에서 뛴다", ["강아지가", "잔디에서", "뛴다"]),
        ("سگ می\u200cدود", ["سگ", "می\u200cدود"]),
        ("العَرَبِيَّة جميلة", ["العَرَبِيَّة", "جميلة"]),
        (" ... !", []),
        ("???", []),
        ("", []),
    ],
)
def test_tokenize(caption: str, words: list[str]) -> None:
    assert tokenize(caption) == words


@pytest.mark.parametrize("caption", ["un café Ñandú", HINDI, "강아지가 뛴다", "Tiếng Việt"])
def test_words_do_not_depend_on_how_letters_are_composed(caption: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, caption) for form in ("NFC", "NFD"))
    assert decomposed != composed or caption == HINDI
    assert tokenize(decomposed) == tokenize(composed)
    assert treebank(decomposed) == treebank(composed)
    assert len(tokenize(caption)) == len(caption.split())


def test_english_has_the_words_that_it_always_had() -> None:
    captions = [fakes.caption(row, k) for row in range(50) for k in range(3)]
    captions += ["A man's T-shirt, isn't it? 3,000 'x' a_b", "ROCK'N'ROLL o'clock"]
    pattern = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
    for caption in captions:
        assert tokenize(caption) == pattern.findall(caption.lower())
        # The way of every other script gives the same of English.
        assert tokenize(f"{caption} é") == [*tokenize(caption), "é"]


def test_treebank_words_keep_punctuation_and_split_contractions() -> None:
    assert treebank("Two dogs aren't here, are they?") == [
        *("two", "dogs", "are", "n't", "here", ",", "are", "they", "?")
    ]
    assert treebank('A man\'s "red" hat (old).') == [
        *("a", "man", "'s", "``", "red", "''", "hat", "(", "old", ")", ".")
    ]
    assert treebank("東京 — Zürich") == ["東", "京", "—", "zürich"] and treebank("  ") == []


def test_held_out_chinese_captions_have_known_words() -> None:
    who, where, what = ["一个男人", "两只狗", "一只猫"], ["在公园里", "在海滩上"], ["跑步", "睡觉", "玩球"]
    captions = ["".join(parts) for parts in itertools.product(who, where, what)]
    train, test = captions[::2], captions[1::2]
    assert (BagOfWords().fit(train).transform(test).getnnz(axis=1) > 5).all()
    vocabulary = Vocabulary.fit(train, min_count=1)
    assert all(len(set(vocabulary.encode(caption).tolist()) - {1, 2, 3}) > 4 for caption in test)


@pytest.mark.parametrize(
    ("word", "letters", "character"),
    [
        ("dog", True, False),
        ("दौड़", True, False),
        ("狗", True, True),
        ("dog's", False, False),
        ("2nd", False, False),
    ],
)
def test_what_a_word_is_made_of(word: str, letters: bool, character: bool) -> None:
    assert (has_letters_alone(word), is_character(word)) == (letters, character)


def test_sentences_that_were_not_split_are_noticed() -> None:
    english = [fakes.caption(row, k) for row in range(20) for k in range(5)]
    assert unsplit(english) is None
    glued = [caption.replace(" ", "").replace(".", "") for caption in english]
    assert unsplit(glued) == 1.0
    assert unsplit(glued[:50]) is None, "too few words to tell"
    assert unsplit([]) is None
