"""Which checkpoint a job goes on from, and what becomes of those that rest on something else.

A checkpoint is set aside where it does not fit what the job rests on today, and never removed: it may be a
day's work, and whoever knows that the change does not matter takes it up again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from crossmodal_bench.core.atomic_files import remove_leftovers
from crossmodal_bench.core.checkpoint_files import damage
from crossmodal_bench.core.errors import BadInput, tell
from crossmodal_bench.core.process_group import global_rank
from crossmodal_bench.jobs.directory import JobDirectory, read_json
from crossmodal_bench.jobs.fingerprints.fingerprint import Fingerprint
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.training.basis import made_by, parent_runs

WAY_OUT = "RERUN=resume-anyway"


@dataclass(frozen=True)
class Basis:
    """What a job's checkpoints rest on.

    Attributes:
        fingerprint: of its sources, settings and protocols.
        data: the data's fingerprint.
        parents: ``Record.run`` of the runs whose weights it started from, by method.
    """

    fingerprint: Fingerprint
    data: str
    parents: Mapping[str, Mapping[str, str]]

    def noted(self, taken_up: Sequence[str] = ()) -> dict[str, Any]:
        """What ``resume.json`` says of it, beside the checkpoints.

        Args:
            taken_up: over which mismatches the checkpoints were taken up.
        """
        return {
            **made_by(self.fingerprint.digest, self.data, self.parents),
            "made_from": self.fingerprint.model_dump(),
            "taken_up": list(taken_up),
        }


@dataclass(frozen=True)
class Mismatch:
    """Why checkpoints are not what a job goes on from: a word for their names, and a clause."""

    word: str
    why: str


@dataclass(frozen=True)
class Start:
    """Where training starts: from the checkpoint, or anew.

    ``taken_up``: over which mismatches, in clauses.
    """

    checkpoint: Path | None
    taken_up: tuple[str, ...] = ()


def basis_of(planned: PlannedJob) -> Basis:
    """What a job rests on today; BadInput where a parent has no record, or a damaged one."""
    return Basis(planned.fingerprint(), planned.data_fingerprint, parent_runs(planned))


def start_of(planned: PlannedJob, basis: Basis) -> Start:
    """Where a job's training starts.

    One that is damaged gives way to the one before it, with a warning; with a damaged best epoch, whose
    weights nothing else holds, the job starts over. What does not fit is set aside. Of several processes,
    only the first moves anything.
    """
    files = planned.files
    if global_rank() == 0:
        remove_leftovers(files.path)
    if not any(path.is_file() for path in _checkpoints(files)):
        return Start(None)
    noted = read_json(files.resume)
    mismatch = mismatch_of(noted, basis)
    taken_up = _taken_up(noted)
    if mismatch is None and taken_up and files.is_done():
        # It runs again because it had been taken up.
        mismatch = Mismatch("taken-up", f"they had been taken up although {taken_up[-1]}")
    elif mismatch is not None and planned.resume_anyway:
        taken_up = (*taken_up, mismatch.why)
        mismatch = None
    if mismatch is None:
        found = _undamaged(files)
        if isinstance(found, Path):
            if taken_up:
                _warn(f"going on from {found.name} although {'; '.join(taken_up)}")
            return Start(found, taken_up)
        mismatch = found
    if global_rank() == 0:
        _warn(_set_aside(files, mismatch))
    return Start(None)


def mismatch_of(noted: Mapping[str, Any], basis: Basis) -> Mismatch | None:
    """Why checkpoints that ``noted`` stands beside do not rest on what a job rests on; None where they do."""
    if not noted:
        return Mismatch("unknown-sources", "nothing says what they rest on")
    found = list(_mismatches(noted, basis))
    return Mismatch(found[0].word, "; ".join(each.why for each in found)) if found else None


def coming_mismatch(planned: PlannedJob) -> Mismatch | None:
    """The mismatch that a job's checkpoints would be set aside for, if it was started now; else None."""
    files = planned.files
    if not any(path.is_file() for path in _checkpoints(files)):
        return None
    try:
        return mismatch_of(read_json(files.resume), basis_of(planned))
    # Its parents come first, and nobody knows what they will be.
    except BadInput:
        return None


def take_back(files: JobDirectory) -> str:
    """Put checkpoints that were set aside where they were, if they are further than those that lie there now.

    Nobody may be working in the directory.

    Returns:
        What was done, in a sentence; empty where it was nothing.
    """
    here = max(
        (_steps(path) for path in (files.last_checkpoint, files.previous_checkpoint)), default=(-1, -1)
    )
    found = [(steps, tag) for tag in files.tags_aside() if (steps := _steps_aside(files, tag)) > here]
    if not found:
        return ""
    _, tag = max(found)
    overtaken = Mismatch("overtaken", f"those of {tag} are further")
    said = _set_aside(files, overtaken) if any(path.is_file() for path in _checkpoints(files)) else ""
    # The last one last: until then, whoever is killed in between finds the tag again.
    for path, aside in files.aside(tag).items():
        if aside.is_file():
            aside.rename(path)
    return f"{said + '; ' if said else ''}the checkpoints {tag} are taken up"


def _checkpoints(files: JobDirectory) -> tuple[Path, ...]:
    return (files.last_checkpoint, files.previous_checkpoint, files.best_checkpoint)


def _mismatches(noted: Mapping[str, Any], basis: Basis) -> Iterator[Mismatch]:
    if noted.get("sources") != basis.fingerprint.digest:
        try:
            before = Fingerprint.model_validate(noted.get("made_from"))
        except ValidationError:
            yield Mismatch("unknown-sources", "an earlier version wrote them, and not what they rest on")
        else:
            for difference in before.differences(basis.fingerprint):
                yield Mismatch(f"{difference.kind}-changed", difference.text)
    if noted.get("data") != basis.data:
        yield Mismatch("data-changed", "the data have changed")
    if noted.get("parents", {}) != basis.parents:
        yield Mismatch("parents-changed", f"{', '.join(basis.parents) or 'what it starts from'} ran again")


def _taken_up(noted: Mapping[str, Any]) -> tuple[str, ...]:
    clauses = noted.get("taken_up", [])
    return tuple(str(clause) for clause in clauses) if isinstance(clauses, list) else ()


def _undamaged(files: JobDirectory) -> Path | Mismatch:
    """The newest checkpoint that can be gone on from, or why there is none."""
    best = files.best_checkpoint
    wrong = damage(best) if best.is_file() else ""
    if wrong:
        _warn(f"{best} is damaged ({wrong}); the job starts over")
        return Mismatch("damaged", f"{best.name} is damaged")
    candidates = [path for path in (files.last_checkpoint, files.previous_checkpoint) if path.is_file()]
    for path in candidates:
        wrong = damage(path)
        if not wrong:
            return path
        _warn(f"{path} is damaged ({wrong}); going on from the one before it, or from the start")
    return Mismatch("damaged", "none that training could go on from is whole")


def _set_aside(files: JobDirectory, mismatch: Mismatch) -> str:
    """Rename the checkpoints and what they rest on; what was done, in a sentence."""
    name = f"{mismatch.word}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    tag = name
    number = 1
    while any(aside.exists() for aside in files.aside(tag).values()):
        number += 1
        tag = f"{name}-{number}"
    moved = []
    for path, aside in files.aside(tag).items():
        if path.is_file():
            path.rename(aside)
            moved.append(path.name)
    checkpoints = [name for name in moved if name != files.resume.name]
    return f"{files.path}: {', '.join(checkpoints)} set aside as *.{tag}.ckpt, because {mismatch.why}"


def _steps_aside(files: JobDirectory, tag: str) -> tuple[int, int]:
    """How far the checkpoints of a tag are; nowhere where they cannot be gone on from."""
    aside = files.aside(tag)
    best = aside[files.best_checkpoint]
    if best.is_file() and damage(best):
        return (-1, -1)
    return max(_steps(aside[path]) for path in (files.last_checkpoint, files.previous_checkpoint))


def _steps(checkpoint: Path) -> tuple[int, int]:
    """The epoch and the step of a checkpoint; (-1, -1) where it is not there, or damaged."""
    if not checkpoint.is_file() or damage(checkpoint):
        return (-1, -1)
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return (int(content.get("epoch", -1)), int(content.get("global_step", -1)))


def _warn(sentence: str) -> None:
    tell(f"warning: {sentence}", sys.stderr)
