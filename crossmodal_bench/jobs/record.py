"""The record of a finished job: the one file that every table, page and W&B run is derived from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import is_unicode, parse_json
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.fields import Fields, damaged

SCHEMA = 1
"""Version of the layout below; a record of another version is refused, not guessed at."""


@dataclass(frozen=True)
class Job:
    """What was run: the directory's id is the hash of exactly this."""

    id: str
    method: str
    dataset: str
    protocol: str
    preset: str
    seed: int
    suite: str | None
    label: str
    overrides: dict[str, Any]


@dataclass(frozen=True)
class Data:
    """What it was measured on. ``features`` is None when the data set comes with its own features."""

    fingerprint: str
    split_hash: str
    counts: dict[str, dict[str, int]]
    labels: dict[str, Any]
    features: dict[str, Any] | None


@dataclass(frozen=True)
class Selection:
    """How the checkpoint was chosen; ``metric`` is None when there was no validation split to choose on."""

    metric: str | None
    epoch: int | None
    rule: str


@dataclass(frozen=True)
class Numbers:
    """What one evaluation gave; see ``Record`` for the units."""

    metrics: dict[str, float]
    bootstrap: dict[str, tuple[float, float]]
    curves: dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Member:
    """A job whose model is part of an ensemble; ``directory`` is relative to the folder of the records.

    ``finished_at`` is that of the record that was there then: a member that has run again has another.
    """

    id: str
    method: str
    seed: int
    overrides: dict[str, Any]
    directory: str
    finished_at: str


@dataclass(frozen=True)
class Record:
    """One finished job, as read from its ``record.json``.

    ``metrics`` holds recalls in percent, 1-based ranks and mAP as a fraction; ``bootstrap`` their 95 %
    intervals over test images (clustered by image, or by identity); ``curves`` lists of numbers by name;
    ``history`` one mapping per epoch; ``also`` the numbers of the same run under other protocols that fit the
    same test split (COCO's 5K and 1K); ``ensemble`` the models whose similarities were summed, none for a
    single model; ``parents`` the runs whose trained weights it started from, by method; ``content`` the JSON
    itself. A number that was not finite when written is absent.
    """

    directory: Path
    job: Job
    evaluated_on: str
    data: Data
    source_fingerprint: str
    selection: Selection
    metrics: dict[str, float]
    bootstrap: dict[str, tuple[float, float]]
    curves: dict[str, dict[str, list[float]]]
    history: list[dict[str, float]]
    cost: dict[str, float]
    environment: dict[str, str]
    started_at: str
    finished_at: str
    also: dict[str, Numbers]
    ensemble: tuple[Member, ...]
    parents: dict[str, dict[str, str]]
    content: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def files(self) -> JobDirectory:
        """The files beside it."""
        return JobDirectory(self.directory)

    @property
    def is_main(self) -> bool:
        """Whether this is the record as written, and not its copy for another protocol."""
        return bool(self.content["job"]["protocol"] == self.job.protocol)

    @property
    def run(self) -> dict[str, str]:
        """Which run this was, as the records of those that start from its weights name it.

        A job that has run again has another.
        """
        return {"job": self.job.id, "finished_at": self.finished_at}

    def by_protocol(self) -> list[Record]:
        """This record, and a copy of it with the other numbers for each protocol in ``also``."""
        others = (
            replace(self, job=replace(self.job, protocol=name), also={}, **vars(numbers))
            for name, numbers in self.also.items()
        )
        return [self, *others]


def row_name(method: str, label: str, overrides: Mapping[str, Any]) -> str:
    """The method, with what distinguishes its row from the method's others."""
    changes = (f"{key.rpartition('.')[2]}={value}" for key, value in overrides.items())
    detail = label or ", ".join(changes)
    return f"{method} ({detail})" if detail else method


def write_record(directory: str | Path, record: Mapping[str, Any]) -> Path:
    """Write ``directory/record.json`` so that it is either complete or not there.

    NumPy and tensor scalars become plain numbers, non-finite ones ``null`` (JSON has no NaN). Raises
    ``BadInput`` when the file system refuses (full disk, read-only directory) and when ``record`` does not
    fit the schema; an earlier record is left as it was in both cases.
    """
    directory = Path(directory)
    path = JobDirectory(directory).record
    content = _plain({"schema": SCHEMA, **record})
    _parse(path, content)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda stream: stream.write(text.encode()))
    except OSError as error:
        raise BadInput(
            f"{path} cannot be written ({error.strerror or error}): free some space or make the "
            "directory writable, then run the bench again"
        ) from error
    return path


def read_record(path: str | Path) -> Record:
    """The record in ``path`` (the file, or the job's directory).

    Raises ``BadInput`` naming the file, the field and the fix when it is damaged or of another schema.
    """
    path = Path(path)
    if path.is_dir():
        path = JobDirectory(path).record
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        if not is_unicode(json.dumps(content, ensure_ascii=False)):
            raise ValueError("half a character")
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): run the bench again to make it") from error
    except ValueError as error:
        raise damaged(path, "it is not complete JSON") from error
    return _parse(path, content)


def read_records(runs: str | Path) -> list[Record]:
    """Every finished job's record under ``runs/<dataset>/<method>/<job id>/``, sorted by path.

    Jobs that have not finished (no ``record.json``) are left out.
    """
    return [read_record(files.record) for files in JobDirectory.all_below(Path(runs)) if files.is_done()]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value)


def _parse(path: Path, content: Any) -> Record:
    if not isinstance(content, dict):
        raise damaged(path, "it is not a JSON object")
    if content.get("schema") != SCHEMA:
        raise BadInput(
            f"{path} has schema {content.get('schema')!r} and this version reads schema {SCHEMA}: "
            "delete it and run the bench again"
        )
    fields = Fields(path, content)
    job, data, selection = fields.part("job"), fields.part("data"), fields.part("selection")
    return Record(
        directory=path.parent,
        job=Job(
            id=job.name("id"),
            method=job.name("method"),
            dataset=job.name("dataset"),
            protocol=job.text("protocol"),
            preset=job.text("preset"),
            seed=job.get("seed", int),
            suite=job.get("suite", str, optional=True),
            label=job.text("label"),
            overrides=job.get("overrides", dict),
        ),
        evaluated_on=fields.text("evaluated_on"),
        data=Data(
            fingerprint=data.text("fingerprint"),
            split_hash=data.text("split_hash"),
            counts=data.objects("counts"),
            labels=data.get("labels", dict),
            features=_features(data),
        ),
        source_fingerprint=fields.text("source_fingerprint"),
        selection=Selection(
            metric=selection.get("metric", str, optional=True),
            epoch=selection.get("epoch", int, optional=True),
            rule=selection.text("rule"),
        ),
        **vars(_numbers(fields)),
        history=fields.rows("history"),
        cost=fields.numbers("cost"),
        environment=fields.get("environment", dict),
        started_at=fields.text("started_at"),
        finished_at=fields.text("finished_at"),
        also={name: _numbers(fields.part("also").part(name)) for name in fields.objects("also")},
        ensemble=tuple(_member(member) for member in fields.parts("ensemble")),
        parents={name: _run(fields.part("parents").part(name)) for name in fields.objects("parents")},
        content=content,
    )


def _numbers(fields: Fields) -> Numbers:
    return Numbers(fields.numbers("metrics"), fields.intervals("bootstrap"), fields.curves("curves"))


def _features(data: Fields) -> dict[str, Any] | None:
    """What made the features; an ensemble's stand in a list, with None for given ones."""
    found = data.get("features", dict, optional=True)
    sources = found.get("members", [found]) if found else []
    if not isinstance(sources, list) or not all(isinstance(one, dict | None) for one in sources):
        raise damaged(data.path, "field 'data.features.members' is not a list of objects")
    if not all(isinstance(one.get("pooled"), dict | None) for one in sources if one):
        raise damaged(data.path, "field 'data.features.pooled' is not an object")
    return cast(dict[str, Any] | None, found)


def _run(fields: Fields) -> dict[str, str]:
    return {name: fields.text(name) for name in ("job", "finished_at")}


def _member(fields: Fields) -> Member:
    return Member(
        id=fields.text("id"),
        method=fields.text("method"),
        seed=fields.get("seed", int),
        overrides=fields.get("overrides", dict),
        directory=fields.text("directory"),
        finished_at=fields.text("finished_at"),
    )
