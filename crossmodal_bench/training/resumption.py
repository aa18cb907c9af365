"""Which checkpoint a job resumes from, and what happens to those with another basis.

A checkpoint that does not match the job's basis today is set aside but never removed: it may be a day's work,
and a user who knows that the change does not matter can still resume from it.
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

RESUME_ANYWAY = "RERUN=resume-anyway"


@dataclass(frozen=True)
class Basis:
    """What a job's checkpoints depend on.

    Attributes:
        fingerprint: of its sources, settings and protocols.
        data: the data's fingerprint.
        parents: ``Record.run`` of the runs whose weights it started from, by method.
    """

    fingerprint: Fingerprint
    data: str
    parents: Mapping[str, Mapping[str, str]]

    def noted(self, taken_up: Sequence[str] = ()) -> dict[str, Any]:
        """The content of ``resume.json``, which is kept next to the checkpoints.

        Args:
            taken_up: the mismatches despite which the checkpoints were resumed.
        """
        return {
            **made_by(self.fingerprint.digest, self.data, self.parents),
            "made_from": self.fingerprint.model_dump(),
            "taken_up": list(taken_up),
        }


@dataclass(frozen=True)
class Mismatch:
    """Why a job does not resume from its checkpoints: a word for their file names, and a clause."""

    word: str
    why: str


@dataclass(frozen=True)
class Start:
    """Where training starts: from the checkpoint, or from scratch.

    ``taken_up``: the mismatches despite which it resumes, as clauses.
    """

    checkpoint: Path | None
    taken_up: tuple[str, ...] = ()


def basis_of(planned: PlannedJob) -> Basis:
    """A job's basis today; BadInput if a parent has no record or a damaged one."""
    return Basis(planned.fingerprint(), planned.data_fingerprint, parent_runs(planned))


def start_of(planned: PlannedJob, basis: Basis) -> Start:
    """Where a job's training starts.

    If the latest checkpoint is damaged, the previous one is used, with a warning; if the best epoch's is, the
    job starts over, because nothing else holds those weights. Mismatching checkpoints are set aside. Of
    several processes, only the first moves files.
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
        # The job runs again because its checkpoints had been resumed despite a mismatch.
        mismatch = Mismatch("taken-up", f"they had been resumed although {taken_up[-1]}")
    elif mismatch is not None and planned.resume_anyway:
        taken_up = (*taken_up, mismatch.why)
        mismatch = None
    if mismatch is None:
        found = _undamaged(files)
        if isinstance(found, Path):
            if taken_up:
                _warn(f"resuming from {found.name} although {'; '.join(taken_up)}")
            return Start(found, taken_up)
        mismatch = found
    if global_rank() == 0:
        _warn(_set_aside(files, mismatch))
    return Start(None)


def mismatch_of(noted: Mapping[str, Any], basis: Basis) -> Mismatch | None:
    """How the checkpoints that ``noted`` describes differ in their basis from a job's; None if they don't."""
    if not noted:
        return Mismatch("unknown-sources", "nothing records what they are based on")
    found = list(_mismatches(noted, basis))
    return Mismatch(found[0].word, "; ".join(each.why for each in found)) if found else None


def expected_mismatch(planned: PlannedJob) -> Mismatch | None:
    """The mismatch for which a job's checkpoints would be set aside if it were started now, or None."""
    files = planned.files
    if not any(path.is_file() for path in _checkpoints(files)):
        return None
    try:
        return mismatch_of(read_json(files.resume), basis_of(planned))
    # Its parents run first, and their results are not known yet.
    except BadInput:
        return None


def restore_set_aside(files: JobDirectory) -> str:
    """Restore checkpoints that were set aside if they are further along than the current ones.

    No process may be working in the directory.

    Returns:
        What was done, as a sentence; empty if nothing was.
    """
    here = max(
        (_steps(path) for path in (files.last_checkpoint, files.previous_checkpoint)), default=(-1, -1)
    )
    found = [(steps, tag) for tag in files.tags_aside() if (steps := _steps_aside(files, tag)) > here]
    if not found:
        return ""
    _, tag = max(found)
    overtaken = Mismatch("overtaken", f"those of {tag} are further along")
    said = _set_aside(files, overtaken) if any(path.is_file() for path in _checkpoints(files)) else ""
    # The last checkpoint last: if this is killed midway, the tag is still found next time.
    for path, aside in files.aside(tag).items():
        if aside.is_file():
            aside.rename(path)
    return f"{said + '; ' if said else ''}the checkpoints {tag} are restored"


def _checkpoints(files: JobDirectory) -> tuple[Path, ...]:
    return (files.last_checkpoint, files.previous_checkpoint, files.best_checkpoint)


def _mismatches(noted: Mapping[str, Any], basis: Basis) -> Iterator[Mismatch]:
    if noted.get("sources") != basis.fingerprint.digest:
        try:
            before = Fingerprint.model_validate(noted.get("made_from"))
        except ValidationError:
            yield Mismatch("unknown-sources", "an earlier version wrote them without recording their basis")
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
    """The newest checkpoint that training can resume from, or why there is none."""
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
        _warn(f"{path} is damaged ({wrong}); resuming from the previous one, or from scratch")
    return Mismatch("damaged", "all that training could resume from are damaged")


def _set_aside(files: JobDirectory, mismatch: Mismatch) -> str:
    """Rename the checkpoints and their basis; returns what was done, as a sentence."""
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
    """How far along the checkpoints of a tag are; (-1, -1) if training cannot resume from them."""
    aside = files.aside(tag)
    best = aside[files.best_checkpoint]
    if best.is_file() and damage(best):
        return (-1, -1)
    return max(_steps(aside[path]) for path in (files.last_checkpoint, files.previous_checkpoint))


def _steps(checkpoint: Path) -> tuple[int, int]:
    """The epoch and the step of a checkpoint; (-1, -1) if it is missing or damaged."""
    if not checkpoint.is_file() or damage(checkpoint):
        return (-1, -1)
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return (int(content.get("epoch", -1)), int(content.get("global_step", -1)))


def _warn(sentence: str) -> None:
    tell(f"warning: {sentence}", sys.stderr)
