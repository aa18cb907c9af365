"""Exceptions whose message is all a user needs, and helpers to word them."""

from __future__ import annotations

import difflib
import errno
import functools
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

LONGEST = 2000
"""Characters of a message; a name quoted in it may be as long as a whole file."""


class BadInput(Exception):
    """Input that cannot be used; the message is one sentence that names the file, the field and the fix.

    The command line prints it and exits with status 2, before anything is trained.
    """

    def __init__(self, message: str) -> None:
        # A loader's worker process passes its exception on as a traceback that ends in "Class: sentence".
        if message.startswith("Caught "):
            message = message.strip().splitlines()[-1].partition(": ")[2]
        if len(message) > LONGEST:
            message = f"{message[: LONGEST // 2]} … {message[-LONGEST // 2 :]}"
        super().__init__(printable(message))


def printable(text: str) -> str:
    """The text on one line, with characters that a terminal would obey or cannot show escaped.

    Names and captions come from files, and are quoted in messages and tables.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    # Spaces of other widths are harmless; line breaks become spaces between sentences.
    return " " if letter.isspace() else letter.encode("unicode_escape").decode("ascii")


class MissingInput(BadInput):
    """A missing input file; the message says which command or download provides it."""


def tell(line: str, stream: TextIO | None = None) -> None:
    """Print a message on one line, made ``printable``: what it quotes may come from untrusted files.

    Args:
        line: the message.
        stream: where to print it; None for standard output.
    """
    print(printable(line), file=stream)


@functools.lru_cache(maxsize=1024)
def warn_once(sentence: str) -> None:
    """Warn about something that is left out, on standard error; each sentence once per process."""
    tell(f"warning: {sentence}", sys.stderr)


def no_permission(error: PermissionError) -> BadInput:
    """The exception for a file that belongs to someone else, as in another user's RUNS."""
    what = error.filename if error.filename is not None else "a file or a process"
    return BadInput(
        f"{what} is not yours to use ({error.strerror or error}); ask its owner for access, or choose "
        "another RUNS folder"
    )


def out_of_memory(error: BaseException) -> str | None:
    """The message for an exception that, in its library's words, reports that memory ran out.

    Python has an exception for it; the system's loader, which maps libraries, and torch's allocators only
    have messages. None for any other exception.
    """
    message = (str(error).strip().splitlines() or [""])[0]
    if "CUDA out of memory" in message:
        return (
            f"the GPU ran out of memory ({message}); use a smaller data.batch_size, or a GPU with more "
            "memory that no other process uses"
        )
    in_words = (
        "failed to map segment",
        "cannot allocate memory",
        "can't allocate memory",
        "can't start new thread",
    )
    if not (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or any(words in message.lower() for words in in_words)
    ):
        return None
    return (
        f"memory ran out ({message or type(error).__name__}); allow the process more (`ulimit -v`, or the "
        "limit of its container or cluster job), or lower the demand: fewer JOBS at a time, a smaller "
        "data.batch_size"
    )


class Diverged(Exception):
    """Training that cannot continue because a loss is not finite; the message is one sentence."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint to append to a sentence about the unknown ``name``: the closest choice, or all of them."""
    known = sorted(choices)
    # CCA means cca. Of two names that differ only in case, the first one.
    lower = {choice.lower(): choice for choice in reversed(known)}
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    close = close or [lower[near] for near in difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)]
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; choose one of {_listed(known)}" if 0 < len(known) <= 40 else ""


def _listed(names: Sequence[str]) -> str:
    """Comma-separated; classes of a single package by their bare names, with the package named once."""
    packages = {name.rpartition(".")[0] for name in names}
    if len(names) > 1 and len(packages) == 1 and (package := packages.pop()):
        return f"{', '.join(name.rpartition('.')[2] for name in names)} of {package}"
    return ", ".join(names)
