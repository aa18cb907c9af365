"""Sentences of any script as words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal

import regex

Words = Literal["plain", "treebank"]
_CHARACTER = r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
"""Letters of scripts that put no spaces between words. (ー, which makes a vowel long, is of no script.)"""
_INNER = r"[\p{M}\u200c\u200d]"
"""What belongs to the letter before it: combining marks, and the joiners of Persian and of Indian scripts."""
_LETTER = rf"(?!{_CHARACTER})[\p{{L}}\p{{N}}]{_INNER}*"
_WORD = regex.compile(rf"{_CHARACTER}{_INNER}*|(?:{_LETTER})+(?:'(?:{_LETTER})+)?")
_CHARACTERS = regex.compile(rf"{_CHARACTER}{_INNER}*")
_ASCII_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)?")
"""The same of ASCII, which nearly all captions are, in a fifth of the time."""
_TYPESET = str.maketrans({"\u2019": "'", "\u02bc": "'", "\xad": None})
"""Apostrophes as a typesetter writes them, and the hyphen that shows only where a line ends."""
VERSION = "1"
"""Raise when captions are split in another way: what is kept of them is then split anew."""
UNIQUE = 0.8
"""Above this share of different words among all, sentences have not been split into words."""
ENOUGH = 100
"""Words from which on that share says something."""


def normalised(caption: str) -> str:
    """In lower case; canonically composed (NFC), so that é is one letter however it was typed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", caption.translate(_TYPESET)).lower())


def tokenize(caption: str) -> list[str]:
    """Lower-case words of a sentence: runs of letters and digits with their marks, an inner apostrophe.

    Punctuation is left out. Scripts without spaces between words (Chinese, Japanese, Thai, Lao, Khmer,
    Burmese) are split into characters, as BERT splits Chinese.
    """
    if caption.isascii():
        return _ASCII_WORD.findall(caption.lower())
    words: list[str] = _WORD.findall(normalised(caption))
    return words


def treebank(caption: str) -> list[str]:
    """Lower-case words and punctuation of a sentence, as NLTK's improved Treebank tokenizer splits them.

    A caption counts as one sentence: NLTK's model that splits sentences is a download. Scripts without spaces
    are split into characters, as in ``tokenize``; NLTK leaves them whole.
    """
    text = normalised(caption)
    words: list[str] = _treebank().tokenize(text if text.isascii() else _CHARACTERS.sub(r" \g<0> ", text))
    return words


@cache
def _treebank() -> Any:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()


def splitter_version(kind: Words) -> str:
    """Differs where captions may be split into other words."""
    libraries = [regex.__version__, unicodedata.unidata_version]
    if kind == "treebank":
        import nltk

        libraries.append(nltk.__version__)
    return "-".join(("words", VERSION, kind, *libraries))


SPLITTERS: dict[Words, Callable[[str], list[str]]] = {"plain": tokenize, "treebank": treebank}


def has_letters_alone(word: str) -> bool:
    """Whether a word of ``tokenize`` has letters and marks, and no digit and no apostrophe."""
    return all(
        character.isalpha() or unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")
        for character in word
    )


def is_character(word: str) -> bool:
    """Whether a word of ``tokenize`` is one character of a script that puts no spaces between words."""
    return _CHARACTERS.fullmatch(word) is not None


def unsplit(captions: Iterable[str]) -> float | None:
    """The share of different words among all words, where it is so high that whole sentences count as words.

    Args:
        captions: of the training split.

    Returns:
        The share; None where it is usual, or there are too few words to tell.
    """
    words = [word for caption in captions for word in tokenize(caption)]
    share = len(set(words)) / len(words) if words else 0.0
    return share if len(words) >= ENOUGH and share > UNIQUE else None
