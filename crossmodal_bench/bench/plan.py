"""From the options of a command line to the list of jobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crossmodal_bench.bench.descriptions import Description, Descriptions
from crossmodal_bench.bench.option_checks import check_options, check_preset, dataset_name, method_names
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.core.class_paths import class_paths, is_below
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data import Corpus
from crossmodal_bench.data.view_builders import lacking
from crossmodal_bench.evaluation.protocols.protocol import Protocol, measured_on
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.experiments import Config
from crossmodal_bench.jobs.fingerprints.sources import DRAW
from crossmodal_bench.jobs.inputs import Inputs, corpus_key, read_inputs
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import Job
from crossmodal_bench.jobs.schema import SuiteFile
from crossmodal_bench.jobs.suite_ensembles import with_members


@dataclass
class _Known:
    """What the rows of a plan share.

    Attributes:
        corpora: data already read, by ``corpus_key``.
        descriptions: of the configurations' classes.
        used: which of the options NETWORK, WEIGHTS and TEXT affect some row.
        faults: why a method cannot use the chosen networks, by method, data set and protocol, for the rows
            that such an option affects; empty if it can.
    """

    corpora: dict[str, Inputs]
    descriptions: Descriptions
    used: set[str] = field(default_factory=set)
    faults: dict[tuple[str, str, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Row:
    method: str
    dataset: str
    preset: str
    seeds: int | None
    overrides: dict[str, Any]
    label: str
    suite: str | None
    evaluate: str
    protocols: Sequence[str] | None = None
    """The data set's protocols that a suite asks for; all of them if the data set has none of those."""
    parent: bool = False
    """Whether it is only planned as a parent: it may not have the settings that the other row overrides."""


def make_plan(options: BenchOptions, gpu: bool, corpora: dict[str, Inputs] | None = None) -> list[PlannedJob]:
    """All jobs of one bench and the jobs they start from, parents first; starts none of them.

    Args:
        options: the command's options.
        gpu: whether a GPU is visible; decides what the preset ``auto`` means.
        corpora: data read by earlier plans; this plan adds to them.

    Raises:
        BadInput: an option or the data cannot be used; nothing has been written.
    """
    check_options(options)
    known = _Known({} if corpora is None else corpora, Descriptions(options.runs))
    batches: list[list[PlannedJob]] = []
    for row in _rows(options, gpu):
        settings = experiments.dataset_settings(row.dataset, options.data_root)
        variants = experiments.protocols_of(settings)
        wanted = [name for name in variants if name in (row.protocols or ())] or list(variants)
        for protocol in wanted:
            variant = variants[protocol]
            batches.append(_jobs(row, protocol, variant, options, known))
    if known.faults and all(known.faults.values()):
        # No method can use the chosen networks, so there is nothing to plan.
        raise BadInput(next(iter(known.faults.values())))
    if options.text is not None and "text" not in known.used:
        raise BadInput(
            f"TEXT is '{options.text}' and has no effect: none of these methods reads one vector per "
            "caption; leave it out"
        )
    for name, value in (("network", options.network), ("weights", options.weights)):
        if value is not None and name not in known.used:
            datasets = ", ".join(dict.fromkeys(batch[0].job.dataset for batch in batches))
            raise BadInput(
                f"{name.upper()} is '{value}' and has no effect: none of these methods runs an image "
                f"network on {datasets}; leave it out"
            )
    _check_plugins(options.plugins, [batch[0].config for batch in batches])
    if any(not planned.missing for batch in batches for planned in batch):
        # A rejected bench leaves no files behind.
        known.descriptions.keep()
    return _sharing_passes(_parents_first(batches))


def _sharing_passes(plan: Sequence[PlannedJob]) -> list[PlannedJob]:
    """The jobs, each marked if another one reads a grid of regions of the same images by the same network."""

    def extraction(planned: PlannedJob) -> tuple[str, ...]:
        images = planned.config["data"].get("images", {})
        return planned.data_fingerprint, *(
            str(images.get(key)) for key in ("network", "weights", "size", "fit")
        )

    grids = {
        extraction(planned)
        for planned in plan
        if "regions" in planned.requires and planned.config["data"].get("images", {}).get("regions") == "grid"
    }
    return [replace(planned, with_grid=extraction(planned) in grids) for planned in plan]


def _check_plugins(plugins: Sequence[str], configs: Sequence[Config]) -> None:
    """Raise BadInput for a plugin none of whose classes is named in a configuration."""
    named = {name for config in configs for name in class_paths(config)}
    for plugin in plugins:
        if not any(is_below(name, [plugin]) for name in named):
            raise BadInput(
                f"PLUGINS '{plugin}' has no effect: neither these methods nor their data use a class of it; "
                "give a YAML file that names one, e.g. METHODS=./my_method.yaml, or leave PLUGINS out"
            )


def command_overrides(options: BenchOptions) -> dict[str, Any]:
    """What the command's options override in the configuration of every job."""
    chosen: dict[str, Any] = {}
    if options.network is not None:
        chosen["data.images.network"] = options.network
    if options.weights is not None:
        chosen["data.images.weights"] = options.weights
    if options.text is not None:
        chosen["data.text.network"] = options.text
    if options.on_bad_image != "fail":
        chosen["data.images.on_bad_image"] = options.on_bad_image
    return chosen | options.overrides


def _parents_first(batches: Sequence[Sequence[PlannedJob]]) -> list[PlannedJob]:
    """Every job once, after the jobs it starts from; jobs of one row stay together."""
    requested: dict[str, PlannedJob] = {}
    for batch in batches:
        for planned in batch:
            requested.setdefault(planned.job.id, planned)
    ordered: dict[str, PlannedJob] = {}

    def add(batch: Sequence[PlannedJob]) -> None:
        for name in batch[0].parents:
            add([planned.parents[name] for planned in batch])
        for planned in batch:
            # A row that requests the job itself may give it a label.
            ordered.setdefault(planned.job.id, requested.get(planned.job.id, planned))

    for batch in batches:
        add(batch)
    return list(ordered.values())


def _rows(options: BenchOptions, gpu: bool) -> Iterator[_Row]:
    suites = experiments.names("suites")
    is_suite = options.methods in suites
    if is_suite:
        suite = experiments.suite(options.methods)
    else:
        suite = SuiteFile(methods=tuple(method_names(options.methods)))
    datasets = [dataset_name(options.dataset)] if options.dataset else suite.datasets or ["synthetic"]
    for dataset in datasets:
        for row in with_members(suite):
            yield _Row(
                method=row.method,
                dataset=dataset,
                preset=preset_for(options.preset, dataset, gpu=gpu, suite=suite),
                seeds=options.seeds if options.seeds is not None else suite.seeds,
                overrides=row.overrides,
                label=row.label,
                suite=options.methods if is_suite else None,
                evaluate=suite.evaluate,
                protocols=suite.protocols,
            )


def preset_for(word: str, dataset: str, *, gpu: bool, suite: SuiteFile | None = None) -> str:
    """The preset for a data set; ``suite`` may define its own meaning of ``auto``."""
    check_preset(word)
    if word != "auto":
        return word
    if suite is not None and (own := suite.presets.get(dataset, suite.preset)) is not None:
        return own
    if dataset.startswith("synthetic"):
        return "smoke"
    return "paper" if gpu else "small"


def _has_validation(
    row: _Row,
    protocol: str,
    variant: Config,
    overrides: dict[str, Any],
    options: BenchOptions,
    known: _Known,
) -> bool:
    """Whether a row's data set comes with a validation split."""
    config = experiments.resolve(row.method, row.dataset, variant, row.preset, overrides, options.data_root)
    if not isinstance(config["data"], dict):
        return False
    config["data"].update(root=str(options.data_root), cache=str(options.runs / "cache"))
    key = corpus_key(config["data"])
    if key not in known.corpora:
        _inputs_of(config, row.dataset, protocol, known)
    return bool(known.corpora[key].counts.get("val", {}).get("images"))


def _jobs(
    row: _Row,
    protocol: str,
    variant: Config,
    options: BenchOptions,
    known: _Known,
) -> list[PlannedJob]:
    """A row's jobs, one per seed."""
    command = command_overrides(options)
    if row.parent:
        settings = experiments.method_settings(row.method, row.dataset, row.preset)
        row = replace(row, overrides=experiments.applicable(row.overrides, settings))
        command = experiments.applicable(command, settings)
    chosen = {**row.overrides, **command}
    if "data.validation" in row.overrides.keys() - command.keys():
        without = {key: value for key, value in chosen.items() if key != "data.validation"}
        if _has_validation(row, protocol, variant, without, options, known):
            # A suite's validation share only applies to data sets without a validation split.
            chosen = without
    config = experiments.resolve(row.method, row.dataset, variant, row.preset, chosen, options.data_root)
    for part in ("data", "trainer"):
        if not isinstance(config.get(part, {}), dict):
            raise BadInput(
                f"configuration key '{part}' is {config[part]!r}; set one of its keys, as {part}.KEY"
            )
    epochs = config.get("trainer", {}).get("max_epochs", 1)
    if not isinstance(epochs, int) or epochs < 1:
        raise BadInput(f"trainer.max_epochs is {epochs!r}; give a whole number from 1")
    config["data"].update(root=str(options.data_root), cache=str(options.runs / "cache"))
    described = known.descriptions.describe(config)
    description = described.description
    known.used |= set(description.changed_by)
    data = read_inputs(described, row.dataset, protocol, known.corpora, config["data"])
    if row.evaluate == "val" and not data.missing and not data.counts["val"]["images"]:
        raise BadInput(
            f"suite {row.suite} evaluates on validation, but {row.dataset} has no validation split; "
            "set data.validation, e.g. 0.2"
        )
    redrawn = description.redrawn
    if description.deterministic:
        # Solved before the first epoch: the other methods' number of epochs would only cost time.
        config = experiments.merge(config, {"trainer": {"max_epochs": 1}})
    if description.deterministic and not redrawn:
        seeds = 1
    elif row.seeds is not None:
        seeds = row.seeds
    else:
        seeds = 3 if row.preset in ("paper", "tuned") else 1
    # Some default methods may need views that this data set does not have.
    missing = data.missing
    if not missing and data.corpus is not None:
        missing = lacking(data.corpus, description.requires, description.regions)
    if description.changed_by and not missing:
        missing = description.unusable or _nothing_to_encode(description, data.corpus)
        known.faults[row.method, row.dataset, protocol] = missing
    missing = missing or _missing_towers(description)
    own = replace(row, seeds=seeds, label=row.label if row.overrides else "")
    parents: dict[str, list[PlannedJob]] = {}
    for name in experiments.parents_of(row.method):
        parent = replace(own, method=name, parent=True)
        parents[name] = _jobs(parent, protocol, variant, options, known)
    if parents and not description.inherits:
        raise BadInput(
            f"method '{row.method}' names parents, but {description.method} cannot start from their weights; "
            "implement inherit, or remove the key parents from the method's file"
        )
    if redrawn:
        _check_draws(seeds, data.protocols[0], chosen)
    plan = []
    for seed in range(seeds):
        seeded = experiments.merge(config, {"data": {"seed": seed}})
        seeded["seed_everything"] = seed
        if redrawn:
            seeded = experiments.merge(seeded, experiments.expand({DRAW: seed}))
            data = _inputs_of(seeded, row.dataset, protocol, known)
        key = {
            "method": row.method,
            "dataset": row.dataset,
            "protocol": data.protocols[0].name,
            "preset": row.preset,
            "seed": seed,
            "overrides": chosen,
            "evaluate": row.evaluate,
        }
        identity = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
        planned = PlannedJob(
            job=Job(
                id=identity,
                method=row.method,
                dataset=row.dataset,
                protocol=data.protocols[0].name,
                preset=row.preset,
                seed=seed,
                suite=row.suite,
                label="" if row.parent and not row.overrides else row.label,
                overrides=chosen,
            ),
            config=seeded,
            protocols=measured_on(row.evaluate, data.protocols),
            evaluate=row.evaluate,
            directory=JobDirectory.of(options.runs, row.dataset, row.method, identity).path,
            split_hash=data.split_hash,
            data_fingerprint=data.fingerprint,
            counts=data.counts,
            missing=missing,
            ddp_strategy=description.ddp_strategy,
            gpu_precision=description.gpu_precision,
            # A closed-form parent has a single seed, shared by all.
            parents={name: jobs[min(seed, len(jobs) - 1)] for name, jobs in parents.items()},
            ablation=experiments.ablation_of(row.method),
            plugins=options.plugins,
            corpus=data.corpus,
            resume_anyway=options.rerun == "resume-anyway",
            measure_missing=options.rerun == "stale",
            requires=description.requires,
        )
        plan.append(planned)
    return plan


def _check_draws(seeds: int, protocol: Protocol, overrides: Collection[str]) -> None:
    """Raise BadInput for more seeds than the protocol has draws, and for a draw set explicitly."""
    if DRAW in overrides:
        raise BadInput(f"--set {DRAW} has no effect because each seed uses its own draw; set SEEDS instead")
    known = len(protocol.split.draws)
    if known and seeds > known:
        raise BadInput(
            f"SEEDS is {seeds}, but {protocol.name} has only {known} draws, one per seed; "
            f"give at most {known}"
        )


def _inputs_of(config: Config, dataset: str, protocol: str, known: _Known) -> Inputs:
    """The inputs of one complete configuration."""
    described = known.descriptions.describe(config)
    return read_inputs(described, dataset, protocol, known.corpora, config["data"])


def _nothing_to_encode(description: Description, corpus: Corpus | None) -> str:
    """Why a text tower has nothing to encode; empty if there are captions or no tower."""
    text = description.text_network
    if "bow" not in description.requires or text is None or corpus is None or corpus.captions is not None:
        return ""
    return f"{corpus.name} has no captions for TEXT '{text}' to encode; leave TEXT out"


def _missing_towers(description: Description) -> str:
    """Why a dual encoder that a method needs is not available; empty if none is missing."""
    from crossmodal_bench.networks.dual_encoders import HF, unavailable_reason

    weights_of: dict[str, str] = {}
    if "features" in description.requires and description.network is not None:
        weights_of[description.network] = description.weights
    if "bow" in description.requires and description.text_network is not None:
        weights_of[description.text_network] = description.text_weights
    reasons = (
        unavailable_reason(name, weights) for name, weights in weights_of.items() if name.startswith(HF)
    )
    return next(filter(None, reasons), "")
