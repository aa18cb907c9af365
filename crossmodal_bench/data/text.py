"""Sentences as word ids, bags of words and content-word labels.

All are fitted on training captions only, except that a vocabulary may be asked to count validation's as well.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.language.tokens import NamedTokens, TokenRows
from crossmodal_bench.data.language.words import SPLITTERS, Words, has_letters_alone, is_character, tokenize

if TYPE_CHECKING:
    import scipy.sparse

PAD = "<pad>"
UNKNOWN = "<unk>"
START = "<start>"
END = "<end>"
SPECIAL = (PAD, UNKNOWN, START, END)
"""The first words of every vocabulary, with the ids 0 to 3; padding is 0 in every view."""
VocabularySplits = Literal["train", "train+val"]


@dataclass(frozen=True)
class TextSettings:
    """How sentences become numbers.

    Attributes:
        min_count: words with fewer occurrences in the captions of ``vocabulary`` are unknown.
        network: ``hf:NAME`` of a dual encoder whose text tower turns each caption into a vector, instead of
            bags of words and of a data set's own text features; ``same``: that of ``data.images.network``;
            None: none.
        vocabulary: the captions whose words the view ``words`` knows. ``train``: only those of training;
            ``train+val``: those of training and validation, as in the code of VSE++, SCAN and SCAN's
            successors (``vocab.py``). The test split's captions are never counted.
        bow_size: number of words in the TF-IDF bag.
        tokenizer: a Hugging Face name or local path for word pieces, and for the language model of methods
            that have one; or None: a WordPiece vocabulary fitted on the training captions.
        content_labels: number of content words that serve as labels if a data set has none.
        words: what counts as a word in the view ``words``. ``plain``: letters and digits, see
            language.words.tokenize; ``treebank``: NLTK's words, including punctuation, as in the code of SCAN
            and its successors.
        unknown_captions: ``fail`` or ``keep`` if a caption of any split has no word of the vocabulary in the
            view ``words``.
    """

    min_count: int = 4
    bow_size: int = 3000
    tokenizer: str | None = None
    content_labels: int = 100
    words: Words = "plain"
    unknown_captions: Literal["fail", "keep"] = "fail"
    vocabulary: VocabularySplits = "train"
    network: str | None = None


@dataclass(frozen=True)
class Vocabulary:
    """Words of known captions, most frequent first, after the four special tokens.

    Attributes:
        words: word i has the id i.
        kind: how captions are split into words, in ``fit`` and in ``encode``; see TextSettings.words.
    """

    words: tuple[str, ...]
    kind: Words = "plain"

    @classmethod
    def fit(cls, captions: Iterable[str], min_count: int = 4, kind: Words = "plain") -> Vocabulary:
        """Count the words of captions and keep the frequent ones (ties in alphabetical order).

        Args:
            captions: of the training split and, on request, of validation; never of test.
            min_count: minimal number of occurrences of a word.
            kind: how captions are split into words.
        """
        counts = Counter(word for caption in captions for word in SPLITTERS[kind](caption))
        return cls.of(counts, min_count, kind)

    @classmethod
    def of(cls, counts: Mapping[str, int], min_count: int, kind: Words) -> Vocabulary:
        """The frequent ones of words that have been counted; arguments as in ``fit``."""
        kept = sorted(
            (word for word, n in counts.items() if n >= min_count), key=lambda word: (-counts[word], word)
        )
        return cls((*SPECIAL, *kept), kind)

    def __len__(self) -> int:
        return len(self.words)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {word: i for i, word in enumerate(self.words)})

    def split(self, caption: str) -> list[str]:
        """The caption's words, known or not."""
        return SPLITTERS[self.kind](caption)

    def encode(self, caption: str) -> NDArray[np.int64]:
        """(L,) ids, including start and end; words below the cut-off become ``<unk>``."""
        index: dict[str, int] = self._index  # type: ignore[attr-defined]
        ids = [index.get(word, index[UNKNOWN]) for word in self.split(caption)]
        return np.array([index[START], *ids, index[END]], dtype=np.int64)

    def encode_all(self, tokens: NamedTokens) -> TokenRows:
        """The ids of all captions, as from ``encode``, given their words as numbers."""
        index: dict[str, int] = self._index  # type: ignore[attr-defined]
        known = np.array([index.get(name, index[UNKNOWN]) for name in tokens.names], dtype=np.int32)
        starts = tokens.rows.starts + 2 * np.arange(len(tokens.rows) + 1)
        ids = np.empty(int(starts[-1]), dtype=np.int32)
        inner = np.ones(len(ids), dtype=bool)
        inner[starts[:-1]] = inner[starts[1:] - 1] = False
        ids[starts[:-1]], ids[starts[1:] - 1] = index[START], index[END]
        ids[inner] = known[tokens.rows.ids]
        return TokenRows(ids, starts)

    def decode(self, ids: Iterable[int]) -> str:
        """The words of ``ids`` up to the first end, separated by spaces; without start and padding."""
        words = itertools.takewhile(lambda word: word != END, (self.words[index] for index in ids))
        return " ".join(word for word in words if word not in (START, PAD))


class BagOfWords:
    """TF-IDF bag of words (scikit-learn) with L2-normalised rows.

    Args:
        size: number of words to keep, the most frequent ones; fewer if there are fewer.
        min_count: minimal number of captions in which a word must occur.
    """

    def __init__(self, size: int = 3000, min_count: int = 1) -> None:
        # Splitting captions into words, as every evaluation does, should not wait for scikit-learn's import.
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.vectorizer = TfidfVectorizer(
            tokenizer=tokenize,
            token_pattern=None,
            lowercase=False,
            max_features=size,
            min_df=min_count,
            dtype=np.float32,
        )

    @classmethod
    def restored(cls, words: Sequence[str], weights: Sequence[float]) -> BagOfWords:
        """A bag that was fitted before.

        Args:
            words: in column order.
            weights: the inverse document frequency of each.

        Raises:
            BadInput: no words, duplicate words, or not one weight per word.
        """
        if not words or len(words) != len(set(words)) or len(words) != len(weights):
            raise BadInput(
                f"a bag of {len(words)} words with {len(weights)} weights cannot be used; list every word "
                "once, with its weight"
            )
        bag = cls(len(words))
        bag.vectorizer.vocabulary = list(words)
        bag.vectorizer.idf_ = np.array(weights)
        return bag

    def fit(self, captions: Iterable[str]) -> BagOfWords:
        """Learn words and document frequencies from training captions.

        Raises:
            BadInput: no caption has any words.
        """
        try:
            self.vectorizer.fit(captions)
        except ValueError as error:
            raise BadInput(
                f"no bag of words can be built from the training captions ({error}); check them"
            ) from error
        return self

    def transform(self, captions: Iterable[str]) -> scipy.sparse.csr_matrix:
        """(M, size) sparse rows."""
        return self.vectorizer.transform(captions)

    @property
    def words(self) -> list[str]:
        """The words, in column order."""
        return list(self.vectorizer.get_feature_names_out())

    @property
    def weights(self) -> list[float]:
        """The inverse document frequency of each word, in column order."""
        return [float(weight) for weight in self.vectorizer.idf_]


def content_word_labels(
    captions: Sequence[str],
    caption_image: NDArray[np.int64],
    train_captions: NDArray[np.int64],
    n_images: int,
    count: int,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels for data sets that have none: the most frequent content words of the training captions.

    A content word is a word of at least three letters outside scikit-learn's English stop words, or a
    character of a script without spaces between words. An image has a label if at least one of its captions
    uses the word. Only the images of training captions are labelled, so nothing of validation or test leaks
    into training, and no metric can be computed from them.

    Args:
        captions: M sentences.
        caption_image: (M,) image of each.
        train_captions: rows of the training captions.
        n_images: N.
        count: number of words.

    Returns:
        (N, C) multi-hot, and the C words; C is smaller than ``count`` if there are fewer words.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    words_of = {int(row): set(tokenize(captions[row])) for row in train_captions}
    counts = Counter(
        word
        for words in words_of.values()
        for word in words
        if has_letters_alone(word)
        and (len(word) >= 3 or is_character(word))
        and word not in ENGLISH_STOP_WORDS
    )
    names = sorted(counts, key=lambda word: (-counts[word], word))[:count]
    column = {word: i for i, word in enumerate(names)}
    labels = np.zeros((n_images, len(names)), dtype=np.int64)
    for row, words in words_of.items():
        labels[caption_image[row], [column[word] for word in words if word in column]] = 1
    return labels, tuple(names)
