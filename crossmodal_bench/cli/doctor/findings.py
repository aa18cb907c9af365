"""What a check returns, and how it is run: neither an exception nor a hang of one check stops the others."""

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

IMPATIENT = "check that the disk responds (ls on the folder, dmesg), and run the doctor again"
Status = Literal["ok", "warning", "problem", "information"]
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One finding of a check.

    Attributes:
        name: what was checked, in a few words.
        status: ``problem``: something will not work; ``warning``: something may not work, or will be slow.
        text: what was found.
        fix: what to do about it; required for problems and warnings.
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
    """What to examine: DATA_ROOT, RUNS, and the requested data sets (none: all)."""

    data_root: Path
    runs: Path
    datasets: tuple[str, ...] = ()


Check = Callable[[Target], Iterable[Finding]]


def guarded(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """A check's findings; an exception becomes one more finding that names the check."""
    findings: list[Finding] = []
    try:
        findings.extend(check())
    except BadInput as error:
        findings.append(told(name, "problem", str(error), "fix what the message names"))
    # A library may raise anything, and SystemExit too; only Ctrl-C stops the doctor.
    except (Exception, SystemExit) as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        text = f"the check '{name}' could not run ({type(error).__name__}: {reason})"
        findings.append(Finding(name, "problem", text, "fix what the message names, or report it as a bug"))
    return findings


def told(name: str, status: Status, sentence: str, fix: str = "") -> Finding:
    """A finding from a message that says what is wrong and, after a semicolon, how to fix it.

    Without such a fix, and without ``fix``, it is only information: nothing can be done about it.
    """
    text, _, own_fix = sentence.partition("; ")
    fix = own_fix or fix
    return Finding(name, status if fix else "information", text, fix)


def within(
    seconds: float, name: str, check: Callable[[], Iterable[Finding]], fix: str = IMPATIENT
) -> list[Finding]:
    """``guarded`` in a process of its own, which is abandoned after that many seconds.

    A read from an unreachable network file system never returns. Without fork, the check runs in this process
    and may take any time.

    Args:
        seconds: timeout.
        name: the check's name.
        check: makes the findings.
        fix: what to do if it timed out.
    """
    if not sys.platform.startswith("linux"):
        return guarded(name, check)
    context = multiprocessing.get_context("fork")
    try:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(sender, name, check), daemon=True)
        process.start()
    except OSError as error:
        text = f"cannot start a process for the check '{name}' ({error.strerror or error})"
        fix = "raise the session's limits: ulimit -n 4096; ulimit -u 4096"
        return [Finding(name, "problem", text, fix)]
    sender.close()
    try:
        if receiver.poll(seconds):
            findings: list[Finding] = receiver.recv()
            return findings
        text = f"the check '{name}' timed out after {seconds:.0f} s"
        return [Finding(name, "warning", text, fix)]
    except EOFError:
        process.join(1)
        text = f"the check '{name}' ended without a message (status {process.exitcode})"
        fix = "check whether the system ran out of memory (dmesg), and run the doctor again"
        return [Finding(name, "problem", text, fix)]
    finally:
        # Do not wait long for it: a process blocked on a dead disk cannot even be killed.
        process.kill()
        process.join(0.2)


def _send(sender: Connection, name: str, check: Callable[[], Iterable[Finding]]) -> None:
    warnings.simplefilter("ignore")
    if "torch" in sys.modules:
        # The threads of torch's pool do not survive a fork: waiting for them would hang.
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
    """A number of bytes with three digits and a unit."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1024:.3g} KiB"
