"""Score anything (vectors, encodings with a scorer, or a matrix of scores) into a record like any other."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from crossmodal_bench.core.encoding import Encoding, Scorer
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.validation import is_folder_name
from crossmodal_bench.data.equal_inputs import repeated_captions
from crossmodal_bench.evaluation.evaluate import Evaluation, evaluate_all
from crossmodal_bench.evaluation.items import positives_of
from crossmodal_bench.evaluation.numbers import numbers, searched_groups
from crossmodal_bench.evaluation.protocols.protocol import (
    PROTOCOLS,
    Match,
    Protocol,
    id_scheme,
    matches,
    own_protocol,
    resolve_protocols,
    unverified,
    with_given_pairs,
)
from crossmodal_bench.evaluation.protocols.splits import split_hash
from crossmodal_bench.evaluation.query_results import QueryResults
from crossmodal_bench.evaluation.ranking.positives import PositivePairs
from crossmodal_bench.evaluation.stored_results import load_query_results
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.fingerprints.sources import EVALUATOR, fingerprint_of
from crossmodal_bench.jobs.given.dataset import NamedDataset, ReadDataset, named_dataset, read_dataset
from crossmodal_bench.jobs.given.files import Column, Given, read_column, read_ids, read_labels, read_pairs
from crossmodal_bench.jobs.given.galleries import (
    Array,
    GivenGalleries,
    galleries_of_encodings,
    galleries_of_scores,
    galleries_of_vectors,
)
from crossmodal_bench.jobs.given.identification import Identified, identify, rows_of
from crossmodal_bench.jobs.given.records import PRESET
from crossmodal_bench.jobs.inputs import fitting_protocols
from crossmodal_bench.jobs.locks import locked
from crossmodal_bench.jobs.provenance import environment
from crossmodal_bench.jobs.query_ids import spelled_alike
from crossmodal_bench.jobs.record import Record, read_record, write_record
from crossmodal_bench.jobs.results import device_name, peak_memory_mb, results

_SELECTION = "the user's own; evaluated as given"


@dataclass(frozen=True)
class Scored:
    """The results of evaluating a given model; each mapping is by protocol, the main one first.

    Attributes:
        protocols: those that it was measured under.
        metrics: by key: recalls in percent, 1-based ranks, mAP as a fraction.
        intervals: by key, the 95 % interval (low, high) of this model on other images.
        query_results: per-query results, for comparisons.
        remarks: what was assumed and what does not apply, in sentences.
        record: what was written to RUNS; None if nothing was to be written.
        already_there: whether a record of the same inputs already existed.
    """

    protocols: tuple[Protocol, ...]
    metrics: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    query_results: Mapping[str, QueryResults]
    remarks: tuple[str, ...]
    record: Record | None = None
    already_there: bool = False


@dataclass(frozen=True)
class _Plan:
    """Everything but the numbers: galleries and items in the order of evaluation, and the protocols."""

    named: NamedDataset
    galleries: GivenGalleries
    identified: Identified
    protocols: tuple[Protocol, ...]
    pairs: PositivePairs | None
    remarks: tuple[str, ...]

    def positives(self, protocol: Protocol) -> PositivePairs | None:
        """The positive pairs of a pair-based protocol: the user's, judged ones, or those of equal inputs."""
        if self.pairs is not None or self.identified.corpus is None:
            return self.pairs
        return positives_of(self.identified.corpus, "test", protocol)


def evaluate_embeddings(
    images: Array | Encoding | Path | str | None = None,
    texts: Array | Encoding | Path | str | None = None,
    *,
    scores: Array | Path | str | None = None,
    scorer: Scorer | None = None,
    similarity: str = "cosine",
    image_ids: Given | str | None = None,
    caption_ids: Given | str | None = None,
    caption_image: Given | str | None = None,
    positives: Given | str | None = None,
    labels: Given | str | None = None,
    identities: Given | str | None = None,
    protocol: str = "",
    dataset: str = "",
    data_root: Path | str | None = None,
    name: str = "my-model",
    seed: int = 0,
    runs: Path | str | None = None,
) -> Scored:
    """Evaluate your own model exactly as the bench evaluates its methods.

    Every argument that accepts an array or a list also accepts the path of a file.

    Args:
        images: (N, D) vectors; or, with a ``scorer``, anything that an Encoding can hold.
        texts: (M, D), likewise.
        scores: an (N, M) matrix instead, higher is better.
        scorer: compares two Encodings, instead of ``similarity``; (n, m), higher is better.
        similarity: ``cosine``, ``dot`` or ``euclidean`` (the negative distance).
        image_ids: N names. Without them the split cannot be recognised, and the row is unverified.
        caption_ids: M names; ``x#k`` is caption k of image x.
        caption_image: the row or id of each caption's image. By default it is taken from the data set's files
            or the caption ids; otherwise captions are assumed to be in the images' order, equally many each.
        positives: (P, 2), an image and a caption per row, by row or id: the positive pairs, instead of the
            captions' images.
        labels: N classes, or (N, C) multi-hot, for label-based protocols.
        identities: N persons or species, for identity-based protocols.
        protocol: a named protocol; or the data set's name, for whichever its split matches.
        dataset: the data set, if the protocol does not determine it; any name for your own data.
        data_root: the folder of the data sets. If the data set is in it, vectors are matched to it by their
            ids, and captions, labels and identities are taken from there. None: ``data``, if it exists.
        name: of the model, as shown in tables.
        seed: runs of one name with several seeds are averaged into one row.
        runs: the folder of the records; None writes nothing.

    Raises:
        BadInput: anything is unusable, contradictory or missing.

    Examples:
        >>> import numpy as np
        >>> vectors = np.eye(60)
        >>> scored = evaluate_embeddings(vectors, vectors, dataset="mine", name="perfect")
        >>> scored.metrics["mine-test"]["rsum"]
        600.0
    """
    _check_name(name, seed)
    galleries = _galleries(_file(images), _file(texts), _file(scores), scorer, similarity)
    started = datetime.now(UTC)
    plan = _plan(
        galleries,
        named_dataset(protocol, dataset),
        data_root=None if data_root is None else Path(data_root),
        image_ids=None if image_ids is None else read_ids(_file(image_ids), "image_ids"),
        caption_ids=None if caption_ids is None else read_ids(_file(caption_ids), "caption_ids"),
        caption_image=None if caption_image is None else read_column(_file(caption_image), "caption_image"),
        positives=None if positives is None else read_pairs(_file(positives), "positives"),
        labels=None if labels is None else read_labels(_file(labels), "labels", several=True),
        identities=None
        if identities is None
        else read_labels(_file(identities), "identities", several=False),
    )
    if runs is None:
        return _measured(plan, _evaluations(plan))
    # A scorer is code, which can be told from another only by its results.
    evaluations = _evaluations(plan) if galleries.custom else None
    identity = _identity(plan, name, seed, evaluations)
    directory = JobDirectory.of(Path(runs), plan.named.folder, name, identity)
    if directory.is_done():
        return _recorded(plan, read_record(directory.path), already_there=True)
    _refuse_another(directory, plan, seed)
    begin = time.perf_counter()
    evaluations = evaluations or _evaluations(plan)
    seconds = time.perf_counter() - begin
    with locked(directory.path):
        try:
            measured = results(directory.path, plan.identified.items, evaluations)
        except OSError as error:
            raise BadInput(
                f"{directory.path} cannot be written ({error.strerror}); free some space or choose another "
                "RUNS folder"
            ) from error
        content = _content(plan, name, seed, identity, evaluations[0], seconds)
        finished = datetime.now(UTC)
        times = {
            "started_at": started.isoformat(timespec="seconds"),
            "finished_at": finished.isoformat(timespec="seconds"),
        }
        write_record(directory.path, {**content, **measured, **times})
    return _recorded(plan, read_record(directory.path), already_there=False)


def _file(given: Any) -> Any:
    return Path(given) if isinstance(given, str) else given


def _check_name(name: str, seed: int) -> None:
    if not is_folder_name(name) or name.strip() != name:
        raise BadInput(f"--name '{name}' cannot be used as a results folder name; choose another")
    if name in experiments.names("methods"):
        raise BadInput(f"--name '{name}' is a method of the bench; choose another name for your model")
    if not 0 <= seed < 2**63:
        raise BadInput(f"--seed is {seed}; give a whole number, 0 or greater")


def _galleries(
    images: Any, texts: Any, scores: Any, scorer: Scorer | None, similarity: str
) -> GivenGalleries:
    if scores is not None:
        if images is not None or texts is not None or scorer is not None:
            raise BadInput("--scores replaces --images and --texts; give one or the other")
        if similarity != "cosine":
            raise BadInput("--similarity has no effect on --scores; leave it out")
        return galleries_of_scores(scores)
    for side, given in (("images", images), ("texts", texts)):
        if given is None:
            raise BadInput(f"--{side} is missing; give both --images and --texts, or --scores")
    if scorer is None:
        return galleries_of_vectors(images, texts, similarity)
    if similarity != "cosine":
        raise BadInput("similarity has no effect with a scorer; leave it out")
    if isinstance(images, Path) or isinstance(texts, Path):
        raise BadInput("a scorer needs arrays or Encodings, not files; load them first")
    return galleries_of_encodings(images, texts, scorer)


def _plan(
    galleries: GivenGalleries,
    named: NamedDataset,
    *,
    data_root: Path | None,
    image_ids: Column | None,
    caption_ids: Column | None,
    caption_image: Column | None,
    positives: Column | None,
    labels: Any,
    identities: Any,
) -> _Plan:
    counts = (len(galleries.images), len(galleries.texts))
    at_hand = read_dataset(named, data_root, counts)
    identified = identify(
        counts,
        named.own_name,
        None if at_hand is None else at_hand.corpus,
        image_ids=image_ids,
        caption_ids=caption_ids,
        caption_image=caption_image,
        needs_owners=positives is None,
    )
    identified = _with_labels(identified, labels, identities)
    protocols, remarks = _protocols(named, identified, at_hand, has_pairs=positives is not None)
    _check_use(protocols, labels, identities)
    pairs = None
    if positives is not None:
        pairs = _pairs(positives, identified, image_ids, caption_ids)
        protocols, doubts = _by_pairs(protocols[0], pairs, identified, named)
        remarks += doubts
    if galleries.scores is not None and any("class_level" in each.families for each in protocols):
        raise BadInput(
            f"protocol '{protocols[0].name}' compares images with a class's mean vector; give --images and "
            "--texts instead of --scores"
        )
    return _Plan(
        named,
        galleries.reordered(identified.image_rows, identified.text_rows),
        identified,
        tuple(protocols),
        pairs,
        (*identified.remarks, *remarks),
    )


def _with_labels(identified: Identified, labels: Any, identities: Any) -> Identified:
    items = identified.items
    for option, given, known in (
        ("--labels", labels, items.labels),
        ("--identities", identities, items.identities),
    ):
        if given is not None and len(given) != len(items.image_ids):
            raise BadInput(
                f"{option} has {len(given)} entries for {len(items.image_ids)} images; give one per image"
            )
        if given is not None and known is not None:
            raise BadInput(f"{option} is already in the data set's files; leave it out")
    rows = identified.image_rows
    return replace(
        identified,
        items=replace(
            items,
            labels=items.labels if labels is None else labels[rows],
            identities=items.identities if identities is None else identities[rows],
        ),
    )


def _protocols(
    named: NamedDataset, identified: Identified, at_hand: ReadDataset | None, *, has_pairs: bool
) -> tuple[list[Protocol], list[str]]:
    """The protocols to measure, the main one first, and remarks about them."""
    items = identified.items
    if items.owner is None:
        return [own_protocol(named.own_name)], []
    facts = {"real_labels": items.labels is not None, "identities": items.identities is not None}
    known = identified.images_known and identified.owners_known
    corpus = identified.corpus
    name = named.own_name if corpus is None else corpus.name
    compared = matches(name, identified.split_items, **facts)
    remarks = [] if has_pairs else _wanted(named, compared, known=known, facts=facts)
    if corpus is not None and at_hand is not None and known and identified.captions_known:
        return fitting_protocols(corpus, at_hand.variant), remarks
    protocols = resolve_protocols(name, identified.split_items, **facts)
    if not known:
        captions = (len(items.caption_ids),)
        protocols = [
            replace(unverified(each), captions=captions) if each.name in PROTOCOLS else each
            for each in protocols
            if each.judged is None
        ]
    if at_hand is not None and at_hand.variant and at_hand.variant not in [each.name for each in protocols]:
        protocols = [replace(protocols[0], name=f"{at_hand.variant}-test")]
    return protocols, remarks


def _wanted(
    named: NamedDataset, compared: Sequence[Match], *, known: bool, facts: Mapping[str, bool]
) -> list[str]:
    """Remarks on whether this is the wanted protocol's split; BadInput if it cannot be."""
    near = [match for match in compared if match.counts_agree]
    if named.wanted:
        near = [match for match in compared if match.protocol.name == named.wanted]
        wanted = PROTOCOLS[named.wanted]
        if not near:
            lacks = "--labels" if wanted.needs_labels and not facts["real_labels"] else "--identities"
            raise BadInput(f"protocol '{named.wanted}' defines positives by {wanted.positives}; give {lacks}")
        if wanted.judged is not None and near[0].counts_agree and not (known and near[0].measurable):
            raise BadInput(
                f"protocol '{named.wanted}' cannot be measured ({near[0].sentence}); give image and caption "
                "ids (--image-ids, --caption-ids), and put Karpathy's dataset_coco.json into --data-root"
            )
        if not near[0].counts_agree:
            raise BadInput(
                f"this is {near[0].sentence}; give that split, or --dataset {named.folder} without "
                "--protocol for your own split"
            )
    lines = []
    for match in near:
        if match.protocol.judged is not None:
            if match.obstacle and known:
                lines.append(match.sentence)
            continue
        if not known and match.protocol.split.verifiable:
            what = "image ids (--image-ids) and caption ids or the captions' images (--caption-image)"
            lines.append(f"{match.protocol.name}: split unverified; recognising it takes {what}")
        elif not match.verified:
            lines.append(match.sentence)
    return lines


def _check_use(protocols: Sequence[Protocol], labels: Any, identities: Any) -> None:
    """Raise BadInput for labels or identities that no protocol uses."""
    if labels is not None and not any(each.needs_labels for each in protocols):
        raise BadInput(f"--labels has no effect under {protocols[0].label}; leave it out")
    if identities is not None and not any(each.positives == "identity" for each in protocols):
        raise BadInput(f"--identities has no effect under {protocols[0].label}; leave it out")


def _pairs(
    positives: Column, identified: Identified, image_ids: Column | None, caption_ids: Column | None
) -> PositivePairs:
    """The user's pairs as positions of the evaluated items."""
    sides = []
    for column, ids, rows, what in (
        (0, image_ids, identified.image_rows, "image"),
        (1, caption_ids, identified.text_rows, "caption"),
    ):
        names = None if ids is None else ids.texts
        given = rows_of(positives.values[:, column], names, len(rows), positives.name, what)
        position = np.empty(len(rows), dtype=np.int64)
        position[rows] = np.arange(len(rows))
        sides.append(position[given])
    return PositivePairs.of(np.stack(sides, 1), len(identified.image_rows), len(identified.text_rows))


def _by_pairs(
    base: Protocol, pairs: PositivePairs, identified: Identified, named: NamedDataset
) -> tuple[list[Protocol], list[str]]:
    """The protocol of a set of pairs; its name identifies the set, so that two sets never share a table."""
    items = identified.items
    protocol = with_given_pairs(base, pairs, items.image_ids, items.caption_ids)
    instead = f"{named.wanted or base.name} does not apply to given pairs, which define {protocol.name}"
    unasked = len(items.image_ids) - len(np.unique(pairs.image))
    unsought = len(items.caption_ids) - len(np.unique(pairs.text))
    remarks = [instead]
    if unasked or unsought:
        remarks.append(
            f"{unasked:,} images and {unsought:,} captions are in no pair, so they do not count as queries"
        )
    return [protocol], remarks


def _evaluations(plan: _Plan) -> list[Evaluation]:
    items = plan.identified.items
    try:
        return evaluate_all(
            plan.protocols,
            plan.galleries.images,
            plan.galleries.texts,
            plan.galleries.score,
            items.owner,
            items.labels,
            items.identities,
            positives=[plan.positives(protocol) for protocol in plan.protocols],
        )
    # A non-finite score, a scorer with the wrong output shape, labels that no two items share.
    except ValueError as error:
        raise BadInput(f"{plan.galleries.how} cannot be evaluated: {error}") from error


def _measured(plan: _Plan, evaluations: Sequence[Evaluation]) -> Scored:
    names = [protocol.name for protocol in plan.protocols]
    fields = [numbers(evaluation, plan.identified.items) for evaluation in evaluations]
    return Scored(
        plan.protocols,
        metrics=dict(zip(names, (each["metrics"] for each in fields), strict=True)),
        intervals={
            name: {key: (low, high) for key, (low, high) in each["intervals"].items()}
            for name, each in zip(names, fields, strict=True)
        },
        query_results={name: each.query_results for name, each in zip(names, evaluations, strict=True)},
        remarks=plan.remarks,
    )


def _recorded(plan: _Plan, record: Record, *, already_there: bool) -> Scored:
    parts = {part.job.protocol: part for part in record.by_protocol()}
    return Scored(
        plan.protocols,
        metrics={name: part.metrics for name, part in parts.items()},
        intervals={name: part.intervals for name, part in parts.items()},
        query_results={name: load_query_results(part.ranks) for name, part in parts.items()},
        remarks=plan.remarks,
        record=record,
        already_there=already_there,
    )


def _data(plan: _Plan) -> dict[str, Any]:
    """The record's field on the data, except for what depends on the evaluation."""
    items = plan.identified.items
    corpus = plan.identified.corpus
    n_images, n_texts = len(items.image_ids), len(items.caption_ids)
    counts: dict[str, dict[str, int]] = {"test": {"images": n_images, "captions": n_texts}}
    labels: dict[str, Any] = {"kind": "none", "count": 0, "rule": ""}
    if corpus is not None:
        counts = corpus.counts()
        if repeats := repeated_captions(corpus, "test"):
            counts["test"]["repeated_captions"] = repeats
    if corpus is not None and corpus.labels is not None:
        labels = {"kind": "real", "count": corpus.labels.count, "rule": corpus.labels.rule}
    elif items.labels is not None:
        count = items.labels.shape[1] if items.labels.ndim == 2 else int(items.labels.max()) + 1
        labels = {"kind": "real", "count": count, "rule": "given"}
    scheme = id_scheme(plan.named.own_name)
    hashed = "" if items.owner is None else split_hash(plan.identified.split_items, scheme)
    return {
        "fingerprint": _fingerprint(plan),
        "split_hash": hashed,
        "counts": counts,
        "labels": labels,
        "features": {"given": plan.galleries.how},
    }


def _fingerprint(plan: _Plan) -> str:
    """The fingerprint of the data set, or 16 hexadecimal digits over all that is known of the items.

    The order of the items does not matter.
    """
    if plan.identified.corpus is not None:
        return plan.identified.corpus.fingerprint
    items = plan.identified.items
    scheme = id_scheme(plan.named.own_name)
    images, captions = spelled_alike((list(items.image_ids), list(items.caption_ids)), scheme)
    known = [array.tolist() for array in (items.labels, items.identities) if array is not None]
    described = [] if items.owner is None else [[images[row] for row in items.owner.tolist()]]
    content = [
        sorted(zip(images, *known, strict=True)),
        sorted(zip(captions, *described, strict=True)),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _identity(plan: _Plan, name: str, seed: int, evaluations: Sequence[Evaluation] | None) -> str:
    """16 hexadecimal digits over exactly what was given, independent of row order if there are ids."""
    if evaluations is None:
        content = plan.galleries.checksum()
    else:
        digest = hashlib.sha256()
        for evaluation in evaluations:
            arrays = {**evaluation.per_query}
            if evaluation.ranks is not None:
                arrays |= evaluation.ranks.arrays()
            for field, values in arrays.items():
                digest.update(field.encode() + np.ascontiguousarray(values).tobytes())
        content = digest.hexdigest()
    key: dict[str, Any] = {
        "given": name,
        "dataset": plan.named.folder,
        "protocols": [protocol.label for protocol in plan.protocols],
        "seed": seed,
        "how": plan.galleries.how,
        "content": content,
        "items": _fingerprint(plan),
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _refuse_another(directory: JobDirectory, plan: _Plan, seed: int) -> None:
    """Raise BadInput if name and seed are already used for other inputs under the same protocol."""
    for other in map(JobDirectory, sorted(directory.path.parent.glob("*"))):
        if not other.is_done():
            continue
        job = read_record(other.path).job
        if (job.preset, job.seed, job.protocol) == (PRESET, seed, plan.protocols[0].name):
            raise BadInput(
                f"{other.path} already has this name and seed, from other inputs; give another --name "
                "(or --seed, for another run of the same model), or delete that folder"
            )


def _content(
    plan: _Plan, name: str, seed: int, identity: str, main: Evaluation, seconds: float
) -> dict[str, Any]:
    data = _data(plan)
    data["counts"]["test"] |= searched_groups(main, plan.identified.items)
    device = plan.galleries.images.values.device
    fingerprint = fingerprint_of({PRESET: plan.galleries.how}, plan.protocols, EVALUATOR)
    return {
        "job": {
            "id": identity,
            "method": name,
            "dataset": plan.named.folder,
            "protocol": plan.protocols[0].name,
            "preset": PRESET,
            "seed": seed,
            "suite": None,
            "label": "",
            "overrides": {},
        },
        "evaluated_on": "test",
        "data": data,
        "source_fingerprint": fingerprint.digest,
        "made_from": fingerprint.model_dump(),
        "selection": {"metric": None, "epoch": None, "rule": _SELECTION},
        "history": [],
        # Empty, so that no published number is shown for comparison: what produced the vectors is unknown.
        "encoders": [],
        "cost": {"evaluation_seconds": seconds, "peak_memory_mb": peak_memory_mb()},
        "environment": {
            **environment(device_name(device)),
            "precision": str(plan.galleries.images.values.dtype).removeprefix("torch."),
        },
    }
