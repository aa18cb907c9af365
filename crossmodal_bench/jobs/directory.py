"""A job's directory: the one place that knows the names of its files, and how each is read and written."""

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
    """The files of one job, below ``RUNS/<data set>/<method>/<job id>/``.

    A job has finished when ``record`` is there: it is written last, and whole or not at all. What else lies
    in the directory either belongs to a run that is under way (``progress``, ``lock``, ``resume``), says why
    one has failed (``error``, ``log``), or is what the record was measured from.

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
        """Every directory where a job's may be, sorted; not all of them need to be one."""
        return (cls(path) for path in sorted(runs.glob("*/*/*")))

    # ---- what a finished job leaves -------------------------------------------------------------------

    @property
    def record(self) -> Path:
        """The record, see ``jobs.record``."""
        return self.path / "record.json"

    @property
    def ranks(self) -> Path:
        """Per-query results under the protocol that the job is named by, see ``Evaluation.save``."""
        return self.path / "ranks.npz"

    def ranks_under(self, protocol: str) -> Path:
        """Likewise under another protocol that the same test split meets."""
        return self.path / f"ranks_{protocol}.npz"

    def shared_ids(self, digest: str) -> Path:
        """Ids of queries that lie once for all jobs of a data set, as in ``results/``; see ``query_ids``."""
        return self.path.parent.parent / f"ids_{digest}.npz"

    def shown_gallery(self, fingerprint: str, split: str) -> Path:
        """Captions and small pictures of a split of the data with that fingerprint, once for all its jobs.

        See ``reporting.page.gallery``.
        """
        return self.path.parent.parent / f"gallery_{fingerprint}_{split}.npz"

    @property
    def config(self) -> Path:
        """The resolved configuration; `crossmodal-bench fit --config` takes it."""
        return self.path / "config.yaml"

    @property
    def last_checkpoint(self) -> Path:
        """The newest checkpoint, which training resumes from."""
        return self.path / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint of the epoch that was best on validation."""
        return self.path / "best.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        """The one before the newest."""
        return self.path / "last.previous.ckpt"

    @property
    def projection(self) -> Path:
        """t-SNE coordinates of images and texts, see ``training.projection``."""
        return self.path / "projection.npz"

    @property
    def written_captions(self) -> Path:
        """The captions that the model has written, by image."""
        return self.path / "captions.json"

    @property
    def captions_panel(self) -> Path:
        """A picture of captions that were retrieved and written, see ``reporting.figures.qualitative``."""
        return self.path / "panel_captions.png"

    @property
    def pictures_panel(self) -> Path:
        """A picture of images that were retrieved and drawn, see ``reporting.figures.qualitative``."""
        return self.path / "panel_pictures.png"

    @property
    def retrieved_captions(self) -> Path:
        """What images retrieve, of a model that generates nothing."""
        return self.path / "retrieved_captions.png"

    @property
    def retrieved_pictures(self) -> Path:
        """What captions retrieve, of a model that generates nothing."""
        return self.path / "retrieved_pictures.png"

    @property
    def words_panel(self) -> Path:
        """A picture of the model's word vectors, see ``reporting.figures.qualitative``."""
        return self.path / "panel_words.png"

    @property
    def encoded_gallery(self) -> Path:
        """The encodings that the record was measured with, where they are small; see ``encoded_gallery``."""
        return self.path / "gallery.npz"

    def cached_gallery(self, place: str, digest: str) -> Path:
        """Encodings of what somebody has searched: where that lies, and a digest of what it held."""
        return self.path / f"gallery_{place}-{digest}.npz"

    def cached_galleries(self, place: str) -> list[Path]:
        """Those of one place, whatever it held then."""
        return sorted(self.path.glob(f"gallery_{place}-*.npz"))

    @property
    def exported_weights(self) -> Path:
        """The weights, in a folder that was handed out instead of checkpoints; see ``serving.weights``."""
        return self.path / "model.safetensors"

    @property
    def exported_state(self) -> Path:
        """Beside them, what else a checkpoint holds: sizes, and how new items become what the model reads."""
        return self.path / "model.json"

    @property
    def model_card(self) -> Path:
        """Beside them, what people should know of the model."""
        return self.path / "README.md"

    # ---- what a running or failed job leaves ----------------------------------------------------------

    @property
    def log(self) -> Path:
        """What the job's processes have printed."""
        return self.path / "log.txt"

    def open_log(self) -> TextIO:
        """``log``, to write at its end; BadInput where something else has its name."""
        return _open_plain(self.log, os.O_APPEND)

    @property
    def lock(self) -> Path:
        """The file that a process locks while it works here, see ``jobs.locks``."""
        return self.path / "lock"

    @property
    def planned(self) -> Path:
        """The planned job, for a process that was not forked from the one that planned it."""
        return self.path / "planned.json"

    @property
    def resume(self) -> Path:
        """What the checkpoints rest on: fingerprints of sources and data, and parents."""
        return self.path / "resume.json"

    def aside(self, tag: str) -> dict[Path, Path]:
        """Where the checkpoints and what they rest on lie when they are set aside, by where they lay.

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
        """Why the job has failed."""
        return self.path / "error.json"

    @property
    def progress(self) -> Path:
        """What the job is doing."""
        return self.path / "progress.json"

    @property
    def epochs(self) -> Path:
        """What each epoch so far has given, for who follows a job while it runs."""
        return self.path / "epochs.json"

    # ---- what other programs leave --------------------------------------------------------------------

    @property
    def slurm(self) -> Path:
        """Folder of submitit's files and of exit statuses."""
        return self.path / "slurm"

    @property
    def slurm_lock(self) -> Path:
        """Held while a SLURM job is submitted."""
        return self.slurm / "lock"

    @property
    def slurm_launch(self) -> Path:
        """The SLURM job that the job has become; gone when that has ended."""
        return self.path / "launch.json"

    def slurm_exit(self, slurm_job: str) -> Path:
        """Where the first process of a SLURM job leaves its exit status; one that was killed leaves none."""
        return self.slurm / f"{slurm_job}.json"

    @property
    def wandb_log(self) -> Path:
        """What sending the W&B run had to say."""
        return self.path / "wandb.txt"

    def open_wandb_log(self) -> TextIO:
        """``wandb_log``, to write anew; BadInput where something else has its name."""
        return _open_plain(self.wandb_log, os.O_TRUNC)

    @property
    def wandb_state(self) -> Path:
        """What has become of the W&B run, see ``reporting.wandb.state``."""
        return self.path / "wandb.json"

    @property
    def wandb_lock(self) -> Path:
        """Held while a process sends the W&B run."""
        return self.path / "wandb.lock"

    def open_wandb_lock(self) -> TextIO:
        """``wandb_lock``, to be locked; BadInput where something else has its name."""
        return _open_plain(self.wandb_lock, os.O_APPEND)

    def open_sender_lock(self, number: int) -> TextIO:
        """The lock of one of the few places of those who send runs of this folder of runs at once."""
        return _open_plain(self.path.parents[2] / f".wandb-sender-{number}.lock", os.O_APPEND)

    def offline_wandb_runs(self, job_id: str = "*") -> list[Path]:
        """W&B runs that were written here and may not have been synced; of one job, or of any."""
        return sorted(self.path.glob(f"wandb/offline-run-*-{job_id}"))

    # ---- reading and writing --------------------------------------------------------------------------

    def is_done(self) -> bool:
        """Whether the record is there, or something that nobody can read as one: it is not overwritten."""
        return os.path.lexists(self.record)

    def checkpoints(self) -> list[Path]:
        """Every checkpoint that is there, the ones before the newest included."""
        return sorted(self.path.glob("*.ckpt"))

    def read_error(self) -> dict[str, Any]:
        """``kind`` and ``message`` of the failure; empty where there is none."""
        return read_json(self.error)

    def write_error(self, kind: ErrorKind, message: str) -> None:
        """Say why the job has failed."""
        write_json(self.error, {"kind": kind, "message": message})

    def read_progress(self) -> dict[str, Any]:
        """What the job is doing; empty where it does not say."""
        return read_json(self.progress)

    def write_progress(self, phase: str, **state: Any) -> None:
        """Say what the job is doing."""
        write_json(self.progress, {**state, "phase": phase})

    def read_epochs(self) -> list[dict[str, float]]:
        """What each epoch so far has given; empty where training has not begun, or nobody follows it."""
        epochs = read_json(self.epochs).get("epochs")
        return epochs if isinstance(epochs, list) else []

    def read_restored_epochs(self) -> int:
        """How many of them had been trained by an earlier attempt, from which training goes on."""
        restored = read_json(self.epochs).get("restored")
        return restored if isinstance(restored, int) else 0

    def write_epochs(self, epochs: Sequence[Mapping[str, float]], restored: int) -> None:
        """Say what each epoch so far has given, and how many of them an earlier attempt has trained."""
        write_json(self.epochs, {"epochs": [dict(epoch) for epoch in epochs], "restored": restored})

    def forget_last_run(self) -> None:
        """Remove what an earlier run says of its failure and its progress."""
        for path in (self.error, self.progress):
            path.unlink(missing_ok=True)


def _open_plain(path: Path, how: int) -> TextIO:
    """A file of a job's directory, to write to.

    Args:
        path: the file.
        how: ``os.O_APPEND`` or ``os.O_TRUNC``.

    Raises:
        BadInput: something else has its name: through a link somebody's file would be written to, and a pipe
            would be waited for.
    """
    refusal = f"{path} is no plain file; remove it, and look at who has put it there"
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
    """A file of a job's directory, in a folder of runs that may be anybody's.

    Folders that are links are their owner's way of using two disks, and are followed; a file that is one
    could show any other file of whoever reads it.

    Args:
        path: the file.
        largest: bytes.

    Raises:
        OSError: it cannot be read, is larger, is no plain file, or a link out of RUNS.
    """
    check_own(path)
    return read_plain(path, largest)


def check_own(path: Path) -> None:
    """Raise OSError where a file of a job's directory is a link out of RUNS."""
    if not path.is_symlink():
        return
    folder = path.absolute().parent
    runs = folder.parents[2] if len(folder.parents) > 2 else folder
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(own)) for own in (folder, runs)):
        raise OSError(errno.ELOOP, "it is a link out of RUNS", str(path))


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file, or {} where it is missing, half-written or no plain file."""
    try:
        content = parse_json(read_own(path).decode("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_text(path: Path, text: str) -> None:
    """Atomically, without waiting for the disk; a link of that name is replaced and not followed."""
    replace_file(path, lambda stream: stream.write(text.encode("utf-8")), durable=False)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Atomically, without waiting for the disk."""
    write_text(path, json.dumps(content))
