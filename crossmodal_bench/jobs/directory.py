"""A job's directory: the only place that knows its files' names and how each is read and written."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import LARGEST, parse_json, read_plain

_ASIDE = re.compile(r"last(\.previous)?\.(?P<tag>[a-z-]+-\d{8}T\d{6}(-\d+)?)\.ckpt")

ErrorKind = Literal["error", "bad input"]


@dataclass(frozen=True)
class JobDirectory:
    """The files of one job, in ``RUNS/<data set>/<method>/<job id>/``.

    A job has finished when ``record`` exists: it is written last and atomically. Everything else in the
    directory belongs to a run in progress (``progress``, ``lock``, ``resume``), says why one failed
    (``error``, ``log``), or is what the record was measured from.

    Args:
        path: the directory, which need not exist.
    """

    path: Path

    @classmethod
    def of(cls, runs: Path, dataset: str, method: str, job_id: str) -> JobDirectory:
        """The directory of the job with that id."""
        return cls(runs / dataset / method / job_id)

    @classmethod
    def all_below(cls, runs: Path) -> Iterator[JobDirectory]:
        """Every directory that may be a job's, sorted; not all of them need to be."""
        return (cls(path) for path in sorted(runs.glob("*/*/*")))

    # ---- files of a finished job ----------------------------------------------------------------------

    @property
    def record(self) -> Path:
        """The record, see ``jobs.record``."""
        return self.path / "record.json"

    @property
    def ranks(self) -> Path:
        """Per-query results under the job's main protocol, see ``Evaluation.save``."""
        return self.path / "ranks.npz"

    def ranks_under(self, protocol: str) -> Path:
        """The same under another protocol that the test split matches."""
        return self.path / f"ranks_{protocol}.npz"

    def shared_ids(self, digest: str) -> Path:
        """Query ids stored once for all jobs of a data set, as in ``results/``; see ``query_ids``."""
        return self.path.parent.parent / f"ids_{digest}.npz"

    def shown_gallery(self, fingerprint: str, split: str) -> Path:
        """Captions and thumbnails of a split of the data with that fingerprint, stored once for all its jobs.

        See ``reporting.page.gallery``.
        """
        return self.path.parent.parent / f"gallery_{fingerprint}_{split}.npz"

    @property
    def config(self) -> Path:
        """The resolved configuration, as `crossmodal-bench fit --config` reads it."""
        return self.path / "config.yaml"

    @property
    def last_checkpoint(self) -> Path:
        """The latest checkpoint, from which training resumes."""
        return self.path / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint of the best epoch on validation."""
        return self.path / "best.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        """The checkpoint before the latest."""
        return self.path / "last.previous.ckpt"

    @property
    def projection(self) -> Path:
        """t-SNE coordinates of images and texts, see ``training.projection``."""
        return self.path / "projection.npz"

    @property
    def written_captions(self) -> Path:
        """The captions that the model wrote, by image."""
        return self.path / "captions.json"

    @property
    def captions_panel(self) -> Path:
        """A picture of retrieved and written captions, see ``reporting.figures.qualitative``."""
        return self.path / "panel_captions.png"

    @property
    def pictures_panel(self) -> Path:
        """A picture of retrieved and generated images, see ``reporting.figures.qualitative``."""
        return self.path / "panel_pictures.png"

    @property
    def retrieved_captions(self) -> Path:
        """What images retrieve with a model that generates nothing."""
        return self.path / "retrieved_captions.png"

    @property
    def retrieved_pictures(self) -> Path:
        """What captions retrieve with a model that generates nothing."""
        return self.path / "retrieved_pictures.png"

    @property
    def words_panel(self) -> Path:
        """A picture of the model's word vectors, see ``reporting.figures.qualitative``."""
        return self.path / "panel_words.png"

    @property
    def encoded_gallery(self) -> Path:
        """The encodings that the record was measured with, if they are small; see ``encoded_gallery``."""
        return self.path / "gallery.npz"

    def cached_gallery(self, place: str, digest: str) -> Path:
        """Cached encodings of a user's gallery: ``place`` identifies its location, ``digest`` its content."""
        return self.path / f"gallery_{place}-{digest}.npz"

    def cached_galleries(self, place: str) -> list[Path]:
        """All cached encodings of one place, whatever its content was."""
        return sorted(self.path.glob(f"gallery_{place}-*.npz"))

    @property
    def exported_weights(self) -> Path:
        """The weights, in an exported folder, instead of checkpoints; see ``serving.weights``."""
        return self.path / "model.safetensors"

    @property
    def exported_state(self) -> Path:
        """Next to them, a checkpoint's other content: sizes, and the preprocessing of new items."""
        return self.path / "model.json"

    @property
    def model_card(self) -> Path:
        """Next to them, the model card."""
        return self.path / "README.md"

    # ---- files of a running or failed job -------------------------------------------------------------

    @property
    def log(self) -> Path:
        """The output of the job's processes."""
        return self.path / "log.txt"

    def open_log(self) -> TextIO:
        """``log``, opened for appending; BadInput if something else has its name."""
        return _open_plain(self.log, os.O_APPEND)

    @property
    def lock(self) -> Path:
        """The file that a process locks while it works here, see ``jobs.locks``."""
        return self.path / "lock"

    @property
    def planned(self) -> Path:
        """The planned job, for a process not forked from the one that planned it."""
        return self.path / "planned.json"

    @property
    def resume(self) -> Path:
        """What the checkpoints depend on: fingerprints of sources and data, and parents."""
        return self.path / "resume.json"

    def aside(self, tag: str) -> dict[Path, Path]:
        """Where the checkpoints and ``resume`` are moved when set aside, by their usual paths.

        Args:
            tag: why and when, as in ``last.sources-changed-20260131T120000.ckpt``.
        """
        kept = (self.resume, self.best_checkpoint, self.previous_checkpoint, self.last_checkpoint)
        return {path: path.with_name(f"{path.stem}.{tag}{path.suffix}") for path in kept}

    def tags_aside(self) -> list[str]:
        """The tags under which checkpoints have been set aside here."""
        names = (_ASIDE.fullmatch(path.name) for path in self.path.glob("last.*.ckpt"))
        return sorted({name["tag"] for name in names if name is not None})

    @property
    def error(self) -> Path:
        """Why the job failed."""
        return self.path / "error.json"

    @property
    def progress(self) -> Path:
        """What the job is doing."""
        return self.path / "progress.json"

    @property
    def epochs(self) -> Path:
        """The results of each epoch so far, for live monitoring of the job."""
        return self.path / "epochs.json"

    # ---- files of other programs ----------------------------------------------------------------------

    @property
    def slurm(self) -> Path:
        """The folder of submitit's files and of exit statuses."""
        return self.path / "slurm"

    @property
    def slurm_lock(self) -> Path:
        """Held while a SLURM job is submitted."""
        return self.slurm / "lock"

    @property
    def slurm_launch(self) -> Path:
        """The SLURM job that runs the job; removed when that has ended."""
        return self.path / "launch.json"

    def slurm_exit(self, slurm_job: str) -> Path:
        """Where the first process of a SLURM job writes its exit status, unless it is killed."""
        return self.slurm / f"{slurm_job}.json"

    @property
    def wandb_log(self) -> Path:
        """The output of the process that sends the W&B run."""
        return self.path / "wandb.txt"

    def open_wandb_log(self) -> TextIO:
        """``wandb_log``, emptied and opened for writing; BadInput if something else has its name."""
        return _open_plain(self.wandb_log, os.O_TRUNC)

    @property
    def wandb_state(self) -> Path:
        """The state of the W&B run, see ``reporting.wandb.state``."""
        return self.path / "wandb.json"

    @property
    def wandb_lock(self) -> Path:
        """Held while a process sends the W&B run."""
        return self.path / "wandb.lock"

    def open_wandb_lock(self) -> TextIO:
        """``wandb_lock``, opened for locking; BadInput if something else has its name."""
        return _open_plain(self.wandb_lock, os.O_APPEND)

    def open_sender_lock(self, number: int) -> TextIO:
        """The lock of one of the few slots for processes that send runs of this RUNS folder at once."""
        return _open_plain(self.path.parents[2] / f".wandb-sender-{number}.lock", os.O_APPEND)

    def offline_wandb_runs(self, job_id: str = "*") -> list[Path]:
        """W&B runs that were written here and may not have been synced, of one job or of all."""
        return sorted(self.path.glob(f"wandb/offline-run-*-{job_id}"))

    # ---- reading and writing --------------------------------------------------------------------------

    def is_done(self) -> bool:
        """Whether the record exists, readable or not: an unreadable one is not overwritten either."""
        return os.path.lexists(self.record)

    def checkpoints(self) -> list[Path]:
        """Every checkpoint in the directory, including those before the latest."""
        return sorted(self.path.glob("*.ckpt"))

    def read_error(self) -> dict[str, Any]:
        """``kind`` and ``message`` of the failure; empty if there is none."""
        return read_json(self.error)

    def write_error(self, kind: ErrorKind, message: str) -> None:
        """Record why the job failed."""
        write_json(self.error, {"kind": kind, "message": message})

    def read_progress(self) -> dict[str, Any]:
        """What the job is doing; empty if unknown."""
        return read_json(self.progress)

    def write_progress(self, phase: str, **state: Any) -> None:
        """Record what the job is doing."""
        write_json(self.progress, {**state, "phase": phase})

    def read_epochs(self) -> list[dict[str, float]]:
        """The results of each epoch so far; empty if training has not begun or is not monitored."""
        epochs = read_json(self.epochs).get("epochs")
        return epochs if isinstance(epochs, list) else []

    def read_restored_epochs(self) -> int:
        """How many of these epochs an earlier attempt trained, from which training resumed."""
        restored = read_json(self.epochs).get("restored")
        return restored if isinstance(restored, int) else 0

    def write_epochs(self, epochs: Sequence[Mapping[str, float]], restored: int) -> None:
        """Record the results of each epoch so far, and how many of the epochs an earlier attempt trained."""
        write_json(self.epochs, {"epochs": [dict(epoch) for epoch in epochs], "restored": restored})

    def clear_last_run(self) -> None:
        """Remove an earlier run's error and progress."""
        for path in (self.error, self.progress):
            path.unlink(missing_ok=True)


def _open_plain(path: Path, how: int) -> TextIO:
    """A file of a job's directory, opened for writing.

    Args:
        path: the file.
        how: ``os.O_APPEND`` or ``os.O_TRUNC``.

    Raises:
        BadInput: something else has its name: a symbolic link would redirect the write to another file, and
            opening a pipe would block.
    """
    refusal = f"{path} is not a regular file; find out who put it there and remove it"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | how, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise BadInput(refusal) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadInput(refusal)
    return os.fdopen(descriptor, "a")


def read_own(path: Path, largest: int = LARGEST) -> bytes:
    """Read a file of a job's directory in a RUNS folder that may be another user's.

    Folders that are symbolic links are followed, since their owner may be using two disks; a file that is one
    could expose any other file of the reader.

    Args:
        path: the file.
        largest: in bytes.

    Raises:
        OSError: it cannot be read, is larger, is not a regular file, or is a link out of RUNS.
    """
    check_own(path)
    return read_plain(path, largest)


def check_own(path: Path) -> None:
    """Raise OSError if a file of a job's directory is a link out of RUNS."""
    if not path.is_symlink():
        return
    folder = path.absolute().parent
    runs = folder.parents[2] if len(folder.parents) > 2 else folder
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(own)) for own in (folder, runs)):
        raise OSError(errno.ELOOP, "it is a link out of RUNS", str(path))


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file, or {} if it is missing, half-written or not a regular file."""
    try:
        content = parse_json(read_own(path).decode("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_text(path: Path, text: str) -> None:
    """Write text atomically, without waiting for the disk; a link of that name is replaced, not followed."""
    replace_file(path, lambda stream: stream.write(text.encode("utf-8")), durable=False)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically, without waiting for the disk."""
    write_text(path, json.dumps(content))
