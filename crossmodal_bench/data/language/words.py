"""Splitting sentences of any script into words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal

import regex

Words = Literal["plain", "treebank"]
_CHARACTER = r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
"""Letters of scripts without spaces between words. (ー, which lengthens a vowel, belongs to no script.)"""
_INNER = r"[\p{M}\u200c\u200d]"
"""What belongs to the preceding letter: combining marks, and the joiners of Persian and Indic scripts."""
_LETTER = rf"(?!{_CHARACTER})[\p{{L}}\p{{N}}]{_INNER}*"
_WORD = regex.compile(rf"{_CHARACTER}{_INNER}*|(?:{_LETTER})+(?:'(?:{_LETTER})+)?")
_CHARACTERS = regex.compile(rf"{_CHARACTER}{_INNER}*")
_ASCII_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)?")
"""The same for ASCII, which covers nearly all captions, five times faster."""
_TYPESET = str.maketrans({"\u2019": "'", "\u02bc": "'", "\xad": None})
"""Typographic apostrophes, and the soft hyphen, which only shows at a line end."""
VERSION = "1"
"""Increase this when captions are split differently: cached splits are then redone."""
UNIQUE = 0.8
"""Share of distinct words above which sentences are not split into words."""
ENOUGH = 100
"""Number of words from which that share is meaningful."""


def normalised(caption: str) -> str:
    """Lower-cased and canonically composed (NFC), so that é is one letter however it was typed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", caption.translate(_TYPESET)).lower())


def tokenize(caption: str) -> list[str]:
    """Lower-case words of a sentence: runs of letters and digits with their marks, and inner apostrophes.

    Punctuation is dropped. Scripts without spaces between words (Chinese, Japanese, Thai, Lao, Khmer,
    Burmese) are split into characters, as BERT splits Chinese.
    """
    if caption.isascii():
        return _ASCII_WORD.findall(caption.lower())
    words: list[str] = _WORD.findall(normalised(caption))
    return words


def treebank(caption: str) -> list[str]:
    """Lower-case words and punctuation of a sentence, as NLTK's improved Treebank tokenizer splits them.

    A caption counts as one sentence, because NLTK's sentence splitter would need a download. Scripts without
    spaces are split into characters, as in ``tokenize``; NLTK leaves them whole.
    """
    text = normalised(caption)
    words: list[str] = _treebank().tokenize(text if text.isascii() else _CHARACTERS.sub(r" \g<0> ", text))
    return words


@cache
def _treebank() -> Any:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()


def splitter_version(kind: Words) -> str:
    """Differs if captions may be split into other words."""
    libraries = [regex.__version__, unicodedata.unidata_version]
    if kind == "treebank":
        import nltk

        libraries.append(nltk.__version__)
    return "-".join(("words", VERSION, kind, *libraries))


SPLITTERS: dict[Words, Callable[[str], list[str]]] = {"plain": tokenize, "treebank": treebank}


def has_letters_alone(word: str) -> bool:
    """Whether a word from ``tokenize`` consists of letters and marks only, without digits or apostrophes."""
    return all(
        character.isalpha() or unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")
        for character in word
    )


def is_character(word: str) -> bool:
    """Whether a word from ``tokenize`` is one character of a script without spaces between words."""
    return _CHARACTERS.fullmatch(word) is not None


def unsplit(captions: Iterable[str]) -> float | None:
    """The share of distinct words, if it is so high that whole sentences must count as words.

    Args:
        captions: of the training split.

    Returns:
        The share; None if it is normal, or if there are too few words to tell.
    """
    words = [word for caption in captions for word in tokenize(caption)]
    share = len(set(words)) / len(words) if words else 0.0
    return share if len(words) >= ENOUGH and share > UNIQUE else None
