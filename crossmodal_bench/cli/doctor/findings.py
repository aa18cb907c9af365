"""What a check returns, and how it is run: nothing that one raises, and no hang, ends the others."""

from __future__ import annotations

import multiprocessing
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, TypeVar

from crossmodal_bench.core.errors import BadInput

IMPATIENT = "see that the disk answers (ls on the folder, dmesg), and run the doctor again"
Status = Literal["ok", "warning", "problem", "information"]
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One thing that a check has found.

    Attributes:
        name: what was looked at, in a few words.
        status: ``problem``: something will not work; ``warning``: something may not, or will be slow.
        text: what was found.
        fix: what to do about it; every problem and every warning has one.
    """

    name: str
    status: Status
    text: str
    fix: str = ""

    def __post_init__(self) -> None:
        if self.status in ("warning", "problem") and not self.fix:
            raise ValueError(f"the {self.status} '{self.name}' has no fix")


@dataclass(frozen=True)
class Target:
    """What is examined: DATA_ROOT, RUNS, and the data sets that were asked for (none: all)."""

    data_root: Path
    runs: Path
    datasets: tuple[str, ...] = ()


Check = Callable[[Target], Iterable[Finding]]


def guarded(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """A check's findings; what it raises becomes one more that names the check."""
    findings: list[Finding] = []
    try:
        findings.extend(check())
    except BadInput as error:
        findings.append(told(name, "problem", str(error), "mend what the sentence names"))
    # A library may raise anything, and SystemExit too; only Ctrl-C ends the whole.
    except (Exception, SystemExit) as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        text = f"the check '{name}' could not be made ({type(error).__name__}: {reason})"
        findings.append(Finding(name, "problem", text, "mend what the message names, or report it as a bug"))
    return findings


def told(name: str, status: Status, sentence: str, fix: str = "") -> Finding:
    """A finding of a sentence that says what is wrong and, behind a semicolon, what to do about it.

    Without either that or ``fix`` it is only information: what a data set does not have, it cannot give.
    """
    text, _, own_fix = sentence.partition("; ")
    fix = own_fix or fix
    return Finding(name, status if fix else "information", text, fix)


def within(
    seconds: float, name: str, check: Callable[[], Iterable[Finding]], fix: str = IMPATIENT
) -> list[Finding]:
    """``guarded`` in a process of its own, which is given up after that many seconds.

    A read from a network file system that is gone never returns. Where there is no fork, the check runs here
    and may take its time.

    Args:
        seconds: how long it may take.
        name: of the check.
        check: makes the findings.
        fix: what to do where it was given up.
    """
    if not sys.platform.startswith("linux"):
        return guarded(name, check)
    context = multiprocessing.get_context("fork")
    try:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(sender, name, check), daemon=True)
        process.start()
    except OSError as error:
        text = f"no process can be started for the check '{name}' ({error.strerror or error})"
        fix = "raise the limits of the session: ulimit -n 4096; ulimit -u 4096"
        return [Finding(name, "problem", text, fix)]
    sender.close()
    try:
        if receiver.poll(seconds):
            findings: list[Finding] = receiver.recv()
            return findings
        text = f"the check '{name}' was given up after {seconds:.0f} s"
        return [Finding(name, "warning", text, fix)]
    except EOFError:
        process.join(1)
        text = f"the check '{name}' ended without a word (status {process.exitcode})"
        fix = "see whether the system has run out of memory (dmesg), and run it again"
        return [Finding(name, "problem", text, fix)]
    finally:
        # Not joined for long: a process that waits for a dead disk cannot even be killed.
        process.kill()
        process.join(0.2)


def _send(sender: Connection, name: str, check: Callable[[], Iterable[Finding]]) -> None:
    warnings.simplefilter("ignore")
    if "torch" in sys.modules:
        # The threads of its pool were not forked along: waiting for them would never end.
        sys.modules["torch"].set_num_threads(1)
    sender.send(guarded(name, check))


def resolved(host: str, seconds: float = 3.0) -> str | None:
    """The address of a host name; None if there is none within that time (resolvers wait far longer)."""
    addresses: list[str] = []

    def ask() -> None:
        try:
            addresses.append(str(socket.getaddrinfo(host, None)[0][4][0]))
        except (OSError, UnicodeError):
            return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return addresses[0] if addresses else None


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def size(count: float) -> str:
    """Bytes with three digits and their unit."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1024:.3g} KiB"
