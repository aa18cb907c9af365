"""The record of a finished job: the single file from which every table, page and W&B run is derived."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationError

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput, nearest, warn_once
from crossmodal_bench.core.files import is_unicode, parse_json, shown
from crossmodal_bench.core.validation import (
    FolderName,
    Items,
    Model,
    WholeNumber,
    complaint,
    damaged,
    fault,
)
from crossmodal_bench.jobs.directory import JobDirectory, read_own
from crossmodal_bench.jobs.encoders import Encoders
from crossmodal_bench.jobs.fingerprints.fingerprint import Fingerprint

SCHEMA = 2
"""Version of the layout below; a record of another version is rejected rather than guessed at."""


def _is_absent(value: Any) -> bool:
    """Whether a number, or one of an interval's, was not finite when written; JSON stores null for it."""
    if isinstance(value, list):
        return any(map(_is_absent, value))
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _finite(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {name: value for name, value in values.items() if not _is_absent(value)}


def _finite_points(curve: Any) -> Any:
    """A curve without its incomplete points; anything else is returned as is, for validation to reject."""
    if not isinstance(curve, dict) or not all(isinstance(values, list) for values in curve.values()):
        return curve
    if len({len(values) for values in curve.values()}) != 1:
        return curve
    names, points = list(curve), zip(*curve.values(), strict=True)
    kept = [point for point in points if not _is_absent(list(point))]
    return {name: [point[at] for point in kept] for at, name in enumerate(names)}


def _drawable(curves: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    for name, curve in curves.items():
        if len({len(values) for values in curve.values()}) > 1:
            raise fault("has lists of different lengths; make them equally long", name)
        if name.endswith("precision_scope") and not {"scope", "precision"} <= curve.keys():
            raise fault("lacks 'scope' or 'precision'", name)
    return curves


def _feature_source(features: dict[str, Any]) -> dict[str, Any]:
    sources = features.get("members", [features])
    if not isinstance(sources, list) or not all(isinstance(source, dict | None) for source in sources):
        raise fault(f"is {shown(sources)}; it must be a list of objects", "members")
    for source in sources:
        if source and not isinstance(source.get("pooled"), dict | None):
            raise fault(f"is {shown(source['pooled'])}; it must be keys and values", "pooled")
    return features


def _parent_run(run: dict[str, str]) -> dict[str, str]:
    for key in run:
        if key not in _RUN:
            raise fault(f"is unknown{nearest(key, _RUN)}", key)
    for key in _RUN:
        if key not in run:
            raise fault("is missing", key)
    return run


_RUN = ("job", "finished_at")
"""The keys of ``Record.run``."""

FiniteNumbers = Annotated[dict[str, float], BeforeValidator(_finite)]
Interval = Annotated[tuple[float, float], Strict(False)]
Intervals = Annotated[dict[str, Interval], BeforeValidator(_finite)]
Curve = Annotated[dict[str, list[float]], BeforeValidator(_finite_points)]
Curves = Annotated[dict[str, Curve], AfterValidator(_drawable)]
ParentRun = Annotated[dict[str, str], AfterValidator(_parent_run)]


class Job(Model):
    """What was run: the directory's id is the hash of exactly this."""

    id: FolderName
    method: FolderName
    dataset: FolderName
    protocol: str
    preset: str
    seed: WholeNumber
    suite: str | None
    label: str
    overrides: dict[str, Any]


class Data(Model):
    """The data that a job was measured on.

    ``features`` says what produced the features, None if the data set comes with its own; an ensemble's are a
    list, ``members``. ``skipped_images`` could not be read; ``cut_captions`` counts captions longer than
    BERT, or a dual encoder's text tower, can read.
    """

    fingerprint: str
    split_hash: str
    counts: dict[str, dict[str, WholeNumber]]
    labels: dict[str, Any]
    features: Annotated[dict[str, Any], AfterValidator(_feature_source)] | None
    skipped_images: Items[str] = ()
    cut_captions: WholeNumber = 0


class Selection(Model):
    """How the checkpoint was selected; ``metric`` is None if there was no validation split to select on."""

    metric: str | None
    epoch: WholeNumber | None
    rule: str


class Numbers(Model):
    """The results of one evaluation.

    ``metrics`` has recalls in percent, 1-based ranks and mAP as a fraction; ``intervals`` their 95 %
    intervals over test images (clustered by image, or by identity); ``curves`` lists of numbers by name,
    equally long within a curve. A number that was not finite when written is absent.

    ``protocol_version`` is that of the protocol.
    ``resembles`` names the protocol that the test split matches in its numbers of images and captions without
    being verified as its split; empty otherwise.
    ``dropped`` is how many queries have no label, and so do not count in label-based metrics, by direction
    (``i2t``: images); empty if there are no such metrics.
    ``asked`` gives, if positives are pairs, the number of items in the ``gallery`` of each direction, of
    ``queries``, and of ``positives`` that all queries together can find; empty otherwise.
    """

    metrics: FiniteNumbers
    intervals: Intervals
    curves: Curves
    protocol_version: WholeNumber
    resembles: str = ""
    dropped: dict[str, WholeNumber] = Field(default_factory=dict)
    asked: dict[str, dict[str, WholeNumber]] = Field(default_factory=dict)


class Member(Model):
    """A job whose model is part of an ensemble; ``directory`` is relative to the RUNS folder.

    ``finished_at`` is that of the record at the time; a member that has run again since has a different one.
    """

    id: str
    method: str
    seed: WholeNumber
    overrides: dict[str, Any]
    directory: str
    finished_at: str


class RecordContent(Numbers):
    """The content of ``record.json`` except for its schema version.

    ``history`` has one mapping per epoch; ``also`` the numbers of the same run under other protocols that
    match the same test split (COCO's 5K and 1K); ``ensemble`` the models whose similarities were summed,
    empty for a single model; ``parents`` the runs whose trained weights it started from, by method;
    ``encoders`` the image and text encoders, those of each member if an ensemble's differ, empty if unknown.
    ``made_from`` is what ``source_fingerprint`` is the digest of; None for an ensemble, and in records of
    earlier versions. ``taken_up``: the differences, as clauses, despite which training resumed from a
    checkpoint. ``ablation`` is the method without its adversary, if its file names one; that file may be the
    user's own and need not exist when a report is made.
    """

    job: Job
    evaluated_on: str
    data: Data
    source_fingerprint: str
    selection: Selection
    history: list[FiniteNumbers]
    cost: FiniteNumbers
    environment: dict[str, str]
    started_at: str
    finished_at: str
    also: dict[str, Numbers] = Field(default_factory=dict)
    ensemble: Items[Member] = ()
    parents: dict[str, ParentRun] = Field(default_factory=dict)
    encoders: Items[Encoders] = ()
    made_from: Fingerprint | None = None
    taken_up: Items[str] = ()
    ablation: str | None = None


class Record(RecordContent):
    """One finished job, as read from its ``record.json``; ``content`` is the JSON itself.

    ``reference``: whether it is one of ``results/``, which are shown alongside the user's own.
    """

    directory: Path
    content: Mapping[str, Any] = Field(repr=False)
    reference: bool = False

    @property
    def files(self) -> JobDirectory:
        """The files of its directory."""
        return JobDirectory(self.directory)

    @property
    def is_main(self) -> bool:
        """Whether this is the record as written rather than its copy for another protocol."""
        return bool(self.content["job"]["protocol"] == self.job.protocol)

    @property
    def ranks(self) -> Path:
        """The per-query results under its protocol."""
        return self.files.ranks if self.is_main else self.files.ranks_under(self.job.protocol)

    @property
    def protocol_label(self) -> str:
        """The protocol with its version: ``flickr30k-1k@1``."""
        return f"{self.job.protocol}@{self.protocol_version}"

    @property
    def run(self) -> dict[str, str]:
        """What identifies this run in the records of jobs that start from its weights.

        It changes when the job runs again.
        """
        return {"job": self.job.id, "finished_at": self.finished_at}

    def stale_because(self, today: Fingerprint) -> str:
        """How sources, settings, protocols or libraries differ from today's; empty if they don't."""
        if self.source_fingerprint == today.digest:
            return ""
        if self.made_from is None or self.made_from.digest != self.source_fingerprint:
            return "the sources or settings differ from the record's, which does not say how"
        return "; ".join(difference.text for difference in self.made_from.differences(today))

    def by_protocol(self) -> list[Record]:
        """This record, and a copy of it with the other numbers for each protocol in ``also``."""
        copies = [self]
        for protocol, numbers in self.also.items():
            job = self.job.model_copy(update={"protocol": protocol})
            copies.append(self.model_copy(update={"job": job, "also": {}, **vars(numbers)}))
        return copies


def row_name(method: str, label: str, overrides: Mapping[str, Any]) -> str:
    """The method, with what distinguishes this row from the method's others."""
    changes = (f"{key.rpartition('.')[2]}={value}" for key, value in overrides.items())
    detail = label or ", ".join(changes)
    return f"{method} ({detail})" if detail else method


def write_record(directory: str | Path, record: Mapping[str, Any]) -> Path:
    """Write ``directory/record.json`` atomically.

    NumPy and tensor scalars become plain numbers, non-finite ones ``null`` (JSON has no NaN). Raises
    ``BadInput`` if the file system refuses (full disk, read-only directory) or ``record`` does not match the
    schema; in both cases an earlier record is left unchanged.
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
            "directory writable, and run the bench again"
        ) from error
    return path


def read_record(path: str | Path) -> Record:
    """The record in ``path`` (the file, or the job's directory).

    Raises ``BadInput``, naming the file, the field and the fix, if it is damaged or has another schema.
    """
    path = Path(path)
    if path.is_dir():
        path = JobDirectory(path).record
    try:
        content = parse_json(read_own(path).decode("utf-8"))
        if not is_unicode(json.dumps(content, ensure_ascii=False)):
            raise ValueError("lone surrogate")
    except FileNotFoundError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror}): run the bench again to create it"
        ) from error
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror}): make it a readable regular file, or delete it and "
            "run the bench again"
        ) from error
    except ValueError as error:
        raise damaged(path, "it is not complete JSON") from error
    return _parse(path, content)


def read_record_or_warn(path: str | Path) -> Record | None:
    """Like ``read_record``, but return None for one that cannot be read, with a warning that says why."""
    try:
        return read_record(path)
    except BadInput as error:
        warn_once(_left_out(error))
        return None


def read_records(runs: str | Path) -> list[Record]:
    """Every finished job's record under ``runs/<dataset>/<method>/<job id>/``, sorted by path.

    Jobs that have not finished (no ``record.json``) are left out. Records that cannot be read are left out
    with a warning, so that one damaged file does not hide all others.

    Raises:
        BadInput: there are records, but none of them can be read.
    """
    paths = [files.record for files in JobDirectory.all_below(Path(runs)) if files.is_done()]
    records = [record for path in paths if (record := read_record_or_warn(path)) is not None]
    if paths and not records:
        # Nothing can be shown, so raise the first one's error.
        return [read_record(paths[0])]
    return records


def unreadable_records(runs: str | Path, readable: Collection[Path]) -> list[str]:
    """A sentence about each finished job in ``runs`` whose record cannot be read.

    Args:
        runs: a RUNS folder.
        readable: directories whose records are known to be readable.
    """
    sentences = []
    known = set(readable)
    for files in JobDirectory.all_below(Path(runs)):
        if files.path in known or not files.is_done():
            continue
        try:
            read_record(files.record)
        except BadInput as error:
            sentences.append(_left_out(error))
    return sentences


def _left_out(error: BadInput) -> str:
    return f"{error}; it is left out for now"


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
    fields = dict(content)
    schema = fields.pop("schema", None)
    if schema != SCHEMA:
        raise BadInput(
            f"{path} has schema {shown(schema)}, but this version reads schema {SCHEMA}: "
            "delete it and run the bench again"
        )
    try:
        checked = RecordContent.model_validate(fields)
    except ValidationError as error:
        raise damaged(path, complaint(error, fields)) from error
    return Record.model_construct(**vars(checked), directory=path.parent, content=content)
