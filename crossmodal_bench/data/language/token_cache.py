"""Tokens of captions on disk, keyed by what they depend on: tokenised once, for all jobs and ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.file_locks import wait_for_lock
from crossmodal_bench.core.npy import load_npz
from crossmodal_bench.data.language.tokens import NamedTokens, TokenRows

WORTH_KEEPING = 20_000
"""Number of captions above which splitting them takes longer than a second."""
_ARRAYS = ["ids", "starts", "names", "cut"]


def cached_tokens(
    cache: Path, captions: Sequence[str], tokenizer: str, split: Callable[[], NamedTokens], size: int = 0
) -> NamedTokens:
    """The result of ``split``, read from disk if it has been called for the same captions before.

    One process splits while the others wait for it. A file that is damaged, or was tampered with, is written
    anew; if the folder is not writable, nothing is kept.

    Args:
        cache: the cache folder; its subfolder ``tokens`` is used.
        captions: the captions to split.
        tokenizer: name, version and vocabulary of what splits them; empty if they are unknown.
        split: splits them.
        size: of the ids' vocabulary, if the tokens have no names.
    """
    if len(captions) < WORTH_KEEPING or not tokenizer:
        return split()
    path = cache / "tokens" / f"{_digest(tokenizer, captions)}.npz"
    if (tokens := _read(path, len(captions), size)) is not None:
        return tokens
    with ExitStack() as locked:
        # If nothing can be written or locked, every process splits by itself.
        with suppress(OSError, BadInput):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_suffix(".lock")
            wait_for_lock(locked.enter_context(lock.open("a")), lock)
            if (tokens := _read(path, len(captions), size)) is not None:
                return tokens
        tokens = split()
        with suppress(OSError):
            _write(path, tokens)
    return tokens


def _digest(tokenizer: str, captions: Iterable[str]) -> str:
    digest = hashlib.sha256(tokenizer.encode())
    for caption in captions:
        # With its length, or else two captions could be mistaken for one.
        encoded = caption.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(encoded) + encoded)
    return digest.hexdigest()[:32]


def _read(path: Path, n: int, size: int) -> NamedTokens | None:
    """The tokens of ``n`` captions; None if the file is missing, or not as ``_write`` left it."""
    if not path.is_file():
        return None
    try:
        arrays = load_npz(path, [*_ARRAYS, "digest"])
        ids, starts, names, cut = (arrays[name] for name in _ARRAYS)
        if arrays["digest"].tobytes() != _content_digest(ids, starts, names, cut):
            return None
        known = tuple(names.tobytes().decode("utf-8", "surrogatepass").split("\n")) if names.size else ()
        limit = len(known) or size
        fits = (
            ids.dtype == np.int32
            and starts.dtype == np.int64
            and ids.ndim == starts.ndim == 1
            and len(starts) == n + 1
            and starts[0] == 0
            and starts[-1] == len(ids)
            and bool((np.diff(starts) >= 0).all())
            and (not ids.size or bool(ids.min() >= 0 and ids.max() < limit))
            and cut.shape == (1,)
        )
    # Damage can raise many exceptions; the file is then written anew in any case.
    except (BadInput, OSError, ValueError, KeyError, TypeError, MemoryError):
        return None
    return NamedTokens(TokenRows(ids, starts), known, int(cut[0])) if fits else None


def _write(path: Path, tokens: NamedTokens) -> None:
    # Tokens never contain a line break, which separates words in every language.
    names = np.frombuffer("\n".join(tokens.names).encode("utf-8", "surrogatepass"), dtype=np.uint8)
    ids, starts, cut = tokens.rows.ids, tokens.rows.starts, np.array([tokens.cut])
    digest = np.frombuffer(_content_digest(ids, starts, names, cut), dtype=np.uint8)
    replace_file(
        path,
        lambda stream: np.savez(stream, ids=ids, starts=starts, names=names, cut=cut, digest=digest),
        durable=False,
    )


def _content_digest(*arrays: NDArray[np.generic]) -> bytes:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
