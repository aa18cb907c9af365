"""Tokens that are kept: the same as split anew, made once, and never believed where they are not whole."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from crossmodal_bench.data.language import token_cache
from crossmodal_bench.data.language.token_cache import cached_tokens
from crossmodal_bench.data.language.tokens import NamedTokens, TokenRows
from crossmodal_bench.data.language.words import SPLITTERS, splitter_version
from crossmodal_bench.data.text import Vocabulary

CAPTIONS = ("A dog runs.", "", "Two dogs, and a cat!", "?!", "Ein Hund läuft", "狗在跑", "a dog")


@pytest.fixture(autouse=True)
def keep_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "WORTH_KEEPING", 3)


class Splitter:
    """Splits, and counts how often it was asked to."""

    def __init__(self, captions: tuple[str, ...] = CAPTIONS) -> None:
        self.captions, self.calls = captions, 0

    def __call__(self) -> NamedTokens:
        self.calls += 1
        return NamedTokens.split(self.captions, SPLITTERS["treebank"])


def equal(first: NamedTokens, second: NamedTokens) -> bool:
    """Whether two say the same."""
    same = np.array_equal(first.rows.ids, second.rows.ids)
    return same and np.array_equal(first.rows.starts, second.rows.starts) and first.names == second.names


def files(cache: Path) -> list[Path]:
    """What is kept."""
    return sorted((cache / "tokens").glob("*.npz"))


@pytest.mark.parametrize("kind", ["plain", "treebank"])
def test_a_vocabulary_of_counted_tokens_is_the_one_of_captions(kind: str) -> None:
    tokens = NamedTokens.split(CAPTIONS, SPLITTERS[kind])  # type: ignore[index]
    rows = np.array([0, 2, 5])
    vocabulary = Vocabulary.fit([CAPTIONS[row] for row in rows], 1, kind)  # type: ignore[arg-type]
    assert Vocabulary.of(tokens.counts(rows), 1, kind) == vocabulary  # type: ignore[arg-type]
    anew = TokenRows.of(vocabulary.encode(caption) for caption in CAPTIONS)
    encoded = vocabulary.encode_all(tokens)
    assert np.array_equal(encoded.ids, anew.ids) and np.array_equal(encoded.starts, anew.starts)
    assert encoded.ids.dtype == anew.ids.dtype and encoded.starts.dtype == anew.starts.dtype


def test_captions_are_split_once_for_each_tokenizer(tmp_path: Path) -> None:
    split = Splitter()
    first = cached_tokens(tmp_path, CAPTIONS, "one", split)
    again = cached_tokens(tmp_path, CAPTIONS, "one", split)
    assert split.calls == 1 and equal(first, again) and equal(again, Splitter()())
    other = Splitter((*CAPTIONS[1:], "a cow"))
    cached_tokens(tmp_path, other.captions, "one", other)
    cached_tokens(tmp_path, CAPTIONS, "two", split)
    cached_tokens(tmp_path, CAPTIONS, "", split)
    assert (split.calls, other.calls, len(files(tmp_path))) == (3, 1, 3)
    assert splitter_version("plain") != splitter_version("treebank")


def test_captions_that_are_joined_otherwise_are_others(tmp_path: Path) -> None:
    for captions in (("ab", "c", "d"), ("a", "bc", "d")):
        assert equal(cached_tokens(tmp_path, captions, "one", Splitter(captions)), Splitter(captions)())
    assert len(files(tmp_path)) == 2


def outside(path: Path) -> None:
    """A whole file with an honest digest, of ids that no token has."""
    token_cache._write(path, NamedTokens(TokenRows.of([[99]] * len(CAPTIONS)), ("a", "b")))


def of_other_captions(path: Path) -> None:
    token_cache._write(path, NamedTokens.split(CAPTIONS[:-1], SPLITTERS["treebank"]))


def changed(path: Path) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    arrays["ids"] = arrays["ids"][::-1].copy()
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: np.savez(path, ids=np.array([{}], dtype=object)),
        lambda path: np.savez(path, ids=np.zeros(3)),
        changed,
        outside,
        of_other_captions,
    ],
    ids=["empty", "truncated", "objects", "others", "changed", "outside", "of other captions"],
)
def test_a_file_that_is_not_whole_is_made_anew(tmp_path: Path, spoil) -> None:  # type: ignore[no-untyped-def]
    split = Splitter()
    cached_tokens(tmp_path, CAPTIONS, "one", split)
    spoil(files(tmp_path)[0])
    assert equal(cached_tokens(tmp_path, CAPTIONS, "one", split), Splitter()()) and split.calls == 2
    assert equal(cached_tokens(tmp_path, CAPTIONS, "one", split), Splitter()()) and split.calls == 2


def test_ids_of_a_tokenizers_own_vocabulary(tmp_path: Path) -> None:
    rows = TokenRows.of([[2, 7, 3]] * len(CAPTIONS))
    calls: list[int] = []

    def split() -> NamedTokens:
        calls.append(1)
        return NamedTokens(rows, cut=4)

    for size, n in ((8, 1), (8, 1), (7, 2)):
        tokens = cached_tokens(tmp_path, CAPTIONS, "pieces", split, size)
        assert np.array_equal(tokens.rows.ids, rows.ids) and tokens.cut == 4 and len(calls) == n


def test_several_at_once_split_once(tmp_path: Path) -> None:
    split = Splitter()
    found: list[NamedTokens] = []
    threads = [
        threading.Thread(target=lambda: found.append(cached_tokens(tmp_path, CAPTIONS, "one", split)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert split.calls == 1 and len(found) == 4 and all(equal(each, found[0]) for each in found)


def test_where_nothing_can_be_kept_captions_are_split_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a file where the folder should be")
    split = Splitter()
    for _ in range(2):
        assert equal(cached_tokens(tmp_path, CAPTIONS, "one", split), Splitter()())
    assert split.calls == 2
