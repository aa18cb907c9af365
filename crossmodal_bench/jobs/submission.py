"""From a finished job to a folder that can be submitted: record, ranks and configuration, checked."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import read_yaml
from crossmodal_bench.core.npy import load_npz, names_in_npz
from crossmodal_bench.evaluation.protocols.protocol import Protocol
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.fingerprints.sources import EVALUATOR, fingerprint_of
from crossmodal_bench.jobs.given.records import PRESET
from crossmodal_bench.jobs.portable_paths import mapped, path_replacement
from crossmodal_bench.jobs.query_ids import SHARED, digest, load_query_ids, shared_arrays
from crossmodal_bench.jobs.record import Record, read_record, write_record
from crossmodal_bench.jobs.verification import check_record, named_protocol

LARGEST = 12_000_000
"""Limit in bytes for all of ``results/``, since everyone who clones the repository downloads it."""

_NEEDED = ("python", "torch", "lightning", "numpy", "device", "threads", "precision")
"""What a record's environment must name, so that others can judge whether theirs is comparable."""

_DEVICE_WORDS = ("strategy", "precision", "sync_batchnorm")
"""Trainer keys that the worker adds to the configuration in a job's directory."""

_IDS = ("image_ids", "caption_ids")
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Submitted:
    """One job's folder among the reference results.

    Attributes:
        directory: the folder.
        replaced: whether it replaced another run of the same job.
        verified: whether the protocol is a named one and the test split was recognised as its split.
    """

    directory: Path
    replaced: bool
    verified: bool


def submit(records: Sequence[Record], to: Path) -> list[Submitted]:
    """Copy record, ranks and configuration of finished jobs to ``to``, laid out like a RUNS folder.

    Paths of this machine are replaced by portable ones, and query ids are stored once for all runs of one
    split. Nothing is written unless every record can be submitted.

    Raises:
        BadInput: a record is incomplete, is not of today's sources and protocols, does not match its ranks,
            or names a folder of this machine that cannot be removed; or ``to`` cannot be written.
    """
    for record in records:
        _check(record, records, to)
    contents = [portable_record(record) for record in records]
    configs = [portable_config(record) if _has_config(record) else None for record in records]
    try:
        submitted = [
            _write(record, content, config, to)
            for record, content, config in zip(records, contents, configs, strict=True)
        ]
    except OSError as error:
        raise BadInput(
            f"{to} cannot be written ({error.strerror or error}); free space or name another folder with --to"
        ) from error
    return submitted


def folder_size(folder: Path) -> int:
    """The size of all files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _check(record: Record, together: Sequence[Record], to: Path) -> None:
    path = record.directory
    if record.evaluated_on != "test":
        raise BadInput(f"{path} was evaluated on {record.evaluated_on}; submit rows of the test split")
    missing = [name for name in _NEEDED if not record.environment.get(name)]
    if missing:
        again = "evaluate its vectors again" if record.job.preset == PRESET else "run its job again"
        raise BadInput(
            f"{path} does not name its {', '.join(missing)}, because an earlier version wrote it; {again}"
        )
    for fault in check_record(record):
        raise BadInput(fault)
    for member in record.ensemble:
        ours = [(other.job.id, other.finished_at) for other in together]
        there = JobDirectory(to / member.directory)
        if there.is_done():
            sent = read_record(there.record)
            ours.append((sent.job.id, sent.finished_at))
        if (member.id, member.finished_at) not in ours:
            raise BadInput(f"{path} sums {member.directory}, which is not submitted; name that job too")
    if not record.ensemble:
        _check_sources(record)


def _has_config(record: Record) -> bool:
    """Whether a configuration says how the job was run: not that of a sum, nor of a model from elsewhere."""
    return not record.ensemble and record.job.preset != PRESET


def _check_evaluator(record: Record, protocols: Sequence[Protocol]) -> None:
    """BadInput where vectors of a user's were evaluated by other sources than today's."""
    how = (record.data.features or {}).get("given")
    if reason := record.stale_because(fingerprint_of({PRESET: how}, protocols, EVALUATOR)):
        raise BadInput(f"{record.directory} is stale: {reason}; evaluate its vectors again")


def _check_sources(record: Record) -> None:
    protocols = [protocol for part in record.by_protocol() if (protocol := named_protocol(part)) is not None]
    if record.job.preset == PRESET:
        _check_evaluator(record, protocols)
        return
    config = _config(record)
    trainer = config.get("trainer", {})
    plain = {name: value for name, value in trainer.items() if name not in _DEVICE_WORDS}
    differing = [
        record.stale_because(fingerprint_of(settings, protocols))
        for settings in (config, {**config, "trainer": plain})
    ]
    if all(differing):
        # The second lacks only what the worker added, so its differences are the ones to report.
        raise BadInput(f"{record.directory} is stale: {differing[-1]}; run its job again with RERUN=stale")
    if record.taken_up:
        raise BadInput(
            f"{record.directory} was resumed from a checkpoint although {'; '.join(record.taken_up)}; run "
            "its job again with RERUN=stale"
        )


def _config(record: Record) -> dict[str, Any]:
    path = record.files.config
    if not path.is_file():
        raise BadInput(f"{path} is missing, so nobody could reproduce the job; run it again")
    config = read_yaml(path)
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        raise BadInput(f"{path} is damaged: it has no 'data'; run the job again")
    if not isinstance(config.get("trainer", {}), dict):
        raise BadInput(f"{path} is damaged: its 'trainer' is not a mapping; run the job again")
    return config


def portable_config(record: Record) -> dict[str, Any]:
    """A record's configuration without this machine's folders; BadInput if one cannot be removed."""
    config = _config(record)
    replace = _path_replacement(record, config)
    config["data"] = {**config["data"], "root": "data", "cache": "runs/cache"}
    portable: dict[str, Any] = mapped(config, replace)
    _check_portable(portable, record.files.config)
    return portable


def portable(content: dict[str, Any], record: Record) -> dict[str, Any]:
    """The same for other plain values of a record's run."""
    portable: dict[str, Any] = mapped(content, _path_replacement(record, _config(record)))
    _check_portable(portable, record.directory)
    return portable


def portable_record(record: Record) -> dict[str, Any]:
    """The same for the content of a record's file."""
    config = _config(record) if _has_config(record) else {}
    content = {name: value for name, value in record.content.items() if name != "schema"}
    portable: dict[str, Any] = mapped(content, _path_replacement(record, config))
    _check_portable(portable, record.files.record)
    return portable


def _path_replacement(record: Record, config: Mapping[str, Any]) -> Callable[[str], str]:
    root = str(config.get("data", {}).get("root", ""))
    return path_replacement(root, str(record.directory.parent.parent.parent))


def _check_portable(content: Mapping[str, Any], path: Path) -> None:
    """Raise BadInput if a sentence still contains the path of a user's folder."""
    text = json.dumps(content, default=str)
    for folder in {str(Path.home()), str(Path.cwd())}:
        if len(folder) > 1 and f"{folder}/" in text:
            raise BadInput(
                f"{path} names {folder}, a folder on this machine; run its job with relative paths"
            )


def _write(
    record: Record, content: Mapping[str, Any], config: Mapping[str, Any] | None, to: Path
) -> Submitted:
    job = record.job
    target = JobDirectory.of(to, job.dataset, job.method, job.id)
    replaced = target.is_done() and read_record(target.record).finished_at != record.finished_at
    target.path.mkdir(parents=True, exist_ok=True)
    # If the process is killed here, no record may be left next to the ranks of another run.
    target.record.unlink(missing_ok=True)
    for part in record.by_protocol():
        name = target.ranks if part.is_main else target.ranks_under(part.job.protocol)
        _write_ranks(record.files, part.ranks, target, name)
    if config is not None:
        text = yaml.safe_dump(dict(config), sort_keys=False)
        replace_file(target.config, lambda stream: stream.write(text.encode()))
    write_record(target.path, content)
    verified = all(
        (protocol := named_protocol(part)) is not None and protocol.split.verifiable
        for part in record.by_protocol()
        if not part.job.protocol.endswith("-equal")
    )
    return Submitted(target.path, replaced, verified)


def _write_ranks(files: JobDirectory, source: Path, target: JobDirectory, path: Path) -> None:
    ids = load_query_ids(files, source)
    shared = target.shared_ids(digest(*ids))
    if not shared.is_file():
        replace_file(shared, lambda stream: _pack(stream, shared_arrays(ids)))
    names = [name for name in names_in_npz(source) if name not in (*_IDS, SHARED)]
    arrays = {name: _for_readers(name, values) for name, values in load_npz(source, names).items()}
    arrays[SHARED] = np.array(digest(*ids))
    replace_file(path, lambda stream: _pack(stream, arrays))


def _for_readers(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Scores of the top lists in half precision where it holds them: no metric is computed from them, and
    in single precision they are most of a folder that is to stay small."""
    if not name.endswith("_top_scores"):
        return values
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(np.isfinite(half), np.isfinite(values)) else values


def _pack(stream: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the smallest ``.npz`` that NumPy can read, whose bytes depend only on the arrays."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_LZMA) as archive:
        for name, values in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, values, allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            member.compress_type = zipfile.ZIP_LZMA
            archive.writestr(member, content.getvalue())
