"""Whether RUNS, its cache and TMPDIR have space and support the file operations of a bench."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from crossmodal_bench.cli.doctor.findings import Finding, Status, Target, existing, size

ENOUGH_ROOM = 10 * 2**30
"""Bytes; less is a warning (regions of 31,000 images take 9 GB)."""
LEAST_ROOM = 2**29
"""Bytes; less is a problem."""
FEW_FILES = 10_000
"""Inodes; a job writes a dozen files."""
NETWORKED = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "afs",
    "9p",
    "glusterfs",
)
LOCAL_LOCKS = ("nolock", "localflock", "local_lock=all", "local_lock=flock")
"""Mount options with which locks are invisible to other machines."""


def runs(target: Target) -> Iterator[Finding]:
    """RUNS: space, writing, renaming, syncing and locking."""
    yield from folder_findings("RUNS", target.runs)
    yield from locking("RUNS", target.runs)


def cache(target: Target) -> Iterator[Finding]:
    """RUNS/cache, which may be a link to another disk."""
    folder = target.runs / "cache"
    if folder.is_symlink() and not folder.exists():
        text = f"{folder} is a link to {os.readlink(folder)}, which does not exist"
        yield Finding("cache", "problem", text, f"create that folder, or remove the link: rm '{folder}'")
    elif not folder.exists():
        # Problems with RUNS are reported under RUNS.
        if existing(folder).is_dir():
            yield Finding("cache", "ok", "in RUNS, created on first use")
    else:
        yield from folder_findings("cache", folder)


def temporary(target: Target) -> Iterator[Finding]:
    """TMPDIR, which Python silently ignores if it cannot be used."""
    named = os.environ.get("TMPDIR")
    try:
        used = Path(tempfile.gettempdir())
    except OSError as error:
        fix = "free space there, or export TMPDIR=folder"
        yield Finding("TMPDIR", "problem", f"no temporary folder is writable ({error})", fix)
        return
    if named and Path(named).absolute() != used.absolute():
        fix = f"make it writable (mkdir -p '{named}'), or export TMPDIR=folder"
        yield Finding("TMPDIR", "warning", f"{named} cannot be used; {used} is used instead", fix)
    yield from folder_findings("TMPDIR", used)


def folder_findings(name: str, folder: Path) -> Iterator[Finding]:
    """Whether files can be written, renamed and synced in a folder, and how much space it has.

    A missing folder is judged by the nearest existing one above it; nothing is left behind.
    """
    there = existing(folder)
    elsewhere = f"name another folder with {'--runs (RUNS=)' if name != 'TMPDIR' else 'export TMPDIR='}"
    if not there.is_dir():
        yield Finding(name, "problem", f"{there} is a file, not a folder", elsewhere)
        return
    volume = os.statvfs(there)
    room = volume.f_bavail * volume.f_frsize
    text = f"{folder}: {size(room)} free"
    status: Status
    if volume.f_files and volume.f_favail < FEW_FILES:
        fix = f"remove files there, or {elsewhere}"
        status = "problem" if volume.f_favail < 100 else "warning"
        yield Finding(name, status, f"{folder} has inodes for only {volume.f_favail} more files", fix)
    try:
        probe(there)
    except OSError as error:
        fix = f"make it writable (see ls -ld '{there}' and df '{there}'), or {elsewhere}"
        yield Finding(name, "problem", f"{there} cannot be written ({error.strerror or error})", fix)
        return
    if room < ENOUGH_ROOM:
        status = "problem" if room < LEAST_ROOM else "warning"
        yield Finding(name, status, text, f"free space there, or {elsewhere}")
    else:
        yield Finding(name, "ok", f"{text}, writes, renames and syncs work")


def probe(folder: Path) -> None:
    """Write a file, sync it, and rename it over another, as for records and checkpoints; leaves no files.

    Raises:
        OSError: one of these does not work, or the file does not contain what was written.
    """

    with _scratch(folder) as scratch:
        old = Path(scratch, "old")
        new = Path(scratch, "new")
        old.write_bytes(b"before")
        with new.open("wb") as handle:
            handle.write(b"x" * 4096)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(new, old)
        if new.exists() or old.read_bytes() != b"x" * 4096:
            raise OSError("a renamed file does not contain what was written")


def _scratch(folder: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(
        prefix=".crossmodal-bench-doctor-", dir=folder, ignore_cleanup_errors=True
    )


def _check_lock(folder: Path) -> None:
    """Raise OSError if two holders of a lock do not exclude each other."""
    with _scratch(folder) as scratch:
        path = Path(scratch, "lock")
        with path.open("a+") as first, path.open("a+") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        raise OSError("two processes can hold the same lock")


def locking(name: str, folder: Path) -> Iterator[Finding]:
    """Whether a lock excludes a second process, on this machine and, as far as one can tell, on others."""
    there = existing(folder)
    kind, options = file_system(there)
    fix = "choose a RUNS on a file system with locks (mount NFS 4, or Lustre with -o flock)"
    title = f"locks in {name}"

    if not there.is_dir() or not os.access(there, os.W_OK):
        return
    try:
        _check_lock(there)
    except OSError as error:
        text = f"{there} ({kind}) has no locks ({error.strerror or error}): two benches would collide"
        yield Finding(title, "problem", text, fix)
        return
    if kind in NETWORKED and (local := sorted(set(options) & set(LOCAL_LOCKS))):
        text = f"{there} is on {kind} with {', '.join(local)}: other machines do not see locks of this one"
        yield Finding(title, "warning", text, f"{fix}, or run benches on one machine at a time")
    elif kind in NETWORKED:
        yield Finding(title, "ok", f"work here; {there} is on {kind}, shared with other machines")
    else:
        yield Finding(title, "ok", f"work ({kind or 'unknown file system'})")


def file_system(folder: Path) -> tuple[str, list[str]]:
    """The type of a folder's file system, and its mount options; empty if unknown."""
    try:
        mounts = psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        return "", []
    folder = folder.resolve()
    above = [mount for mount in mounts if folder.is_relative_to(mount.mountpoint)]
    # A later mount at the same mount point hides the earlier one.
    nearest = max(reversed(above), key=lambda mount: len(mount.mountpoint), default=None)
    return ("", []) if nearest is None else (nearest.fstype, nearest.opts.split(","))
