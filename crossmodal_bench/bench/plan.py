"""From the words of a command line to the list of jobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.words import check_preset, check_words, dataset_name, method_names
from crossmodal_bench.core import process_group
from crossmodal_bench.core.class_paths import class_paths, is_below
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data import Corpus, CrossModalDataModule
from crossmodal_bench.data.image_settings import ImageSettings
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
from crossmodal_bench.methods import RetrievalMethod, ZeroShot
from crossmodal_bench.networks import ConvNetEncoder
from crossmodal_bench.networks.dual_encoders import EXAMPLE, HF, OWN_WEIGHTS, out_of_reach
from crossmodal_bench.training.lightning_cli import instantiate


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
    """Of the data set's named protocols, those that a suite asks for; all, where it has none of them."""
    parent: bool = False
    """Whether it is planned for the sake of another: what is overridden there may be nothing that it has."""


def make_plan(options: BenchOptions, gpu: bool, corpora: dict[str, Inputs] | None = None) -> list[PlannedJob]:
    """All jobs of one bench and those that they start from, parents first; none of them is started.

    Args:
        options: the command's words.
        gpu: whether a GPU is visible; decides what the preset ``auto`` is.
        corpora: what earlier plans have read, to which this one adds.

    Raises:
        BadInput: anything unusable among the words or in the data; nothing has been written then.
    """
    check_words(options)
    used: set[str] = set()
    faults: dict[tuple[str, str, str], str] = {}
    batches: list[list[PlannedJob]] = []
    corpora = {} if corpora is None else corpora
    for row in _rows(options, gpu):
        settings = experiments.dataset_settings(row.dataset, options.data_root)
        variants = experiments.protocols_of(settings)
        wanted = [name for name in variants if name in (row.protocols or ())] or list(variants)
        for protocol in wanted:
            variant = variants[protocol]
            batches.append(_jobs(row, protocol, variant, options, corpora, used, faults))
    if faults and all(faults.values()):
        # No method can do with the networks that were chosen: there is no plan to make.
        raise BadInput(next(iter(faults.values())))
    if options.text is not None and "text" not in used:
        raise BadInput(
            f"TEXT is '{options.text}' and has no effect: none of these methods reads vectors of whole "
            "captions; leave it out"
        )
    for name, value in (("network", options.network), ("weights", options.weights)):
        if value is not None and name not in used:
            datasets = ", ".join(dict.fromkeys(batch[0].job.dataset for batch in batches))
            raise BadInput(
                f"{name.upper()} is '{value}' and has no effect: none of these methods runs such an image "
                f"network on {datasets}; leave it out"
            )
    _check_plugins(options.plugins, [batch[0].config for batch in batches])
    return _sharing_passes(_parents_first(batches))


def _sharing_passes(plan: Sequence[PlannedJob]) -> list[PlannedJob]:
    """The jobs, each told whether another one reads a grid of regions of its images by its network."""

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
    """Raise BadInput for a plugin of which no configuration names a class."""
    named = {name for config in configs for name in class_paths(config)}
    for plugin in plugins:
        if not any(is_below(name, [plugin]) for name in named):
            raise BadInput(
                f"PLUGINS '{plugin}' has no effect: no class of it is named by these methods or their data; "
                "give a YAML file that names one, e.g. METHODS=./my_method.yaml, or leave it out"
            )


def command_overrides(options: BenchOptions) -> dict[str, Any]:
    """What the command's words override in the configuration of every job."""
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
    """Every job once, behind those that it starts from; the jobs of one row together."""
    requested: dict[str, PlannedJob] = {}
    for batch in batches:
        for planned in batch:
            requested.setdefault(planned.job.id, planned)
    ordered: dict[str, PlannedJob] = {}

    def add(batch: Sequence[PlannedJob]) -> None:
        for name in batch[0].parents:
            add([planned.parents[name] for planned in batch])
        for planned in batch:
            # A row that asks for the job itself may have a label for it.
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
    """What PRESET means on a data set; ``suite`` may have a word of its own for ``auto``."""
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
    corpora: dict[str, Inputs],
) -> bool:
    """Whether a row's data set comes with a validation split."""
    config = experiments.resolve(row.method, row.dataset, variant, row.preset, overrides, options.data_root)
    if not isinstance(config["data"], dict):
        return False
    config["data"].update(root=str(options.data_root), cache=str(options.runs / "cache"))
    key = corpus_key(config["data"])
    if key not in corpora:
        cli = instantiate(
            {**config, "seed_everything": 0},
            accelerator="cpu",
            devices=1,
            **process_group.trainer_arguments(),
        )
        read_inputs(cli.datamodule, row.dataset, protocol, corpora, config["data"])
    return bool(corpora[key].counts.get("val", {}).get("images"))


def _jobs(
    row: _Row,
    protocol: str,
    variant: Config,
    options: BenchOptions,
    corpora: dict[str, Inputs],
    used: set[str],
    faults: dict[tuple[str, str, str], str],
) -> list[PlannedJob]:
    """A row's jobs, one for each seed.

    ``used`` gets those of NETWORK, WEIGHTS and TEXT that would change it; where there are any, ``faults``
    gets why the chosen networks do not go with its method, empty where they do.
    """
    command = command_overrides(options)
    if row.parent:
        settings = experiments.method_settings(row.method, row.dataset, row.preset)
        row = replace(row, overrides=experiments.applicable(row.overrides, settings))
        command = experiments.applicable(command, settings)
    chosen = {**row.overrides, **command}
    if "data.validation" in row.overrides.keys() - command.keys():
        without = {key: value for key, value in chosen.items() if key != "data.validation"}
        if _has_validation(row, protocol, variant, without, options, corpora):
            # A suite's share is for data sets that have no validation split of their own.
            chosen = without
    config = experiments.resolve(row.method, row.dataset, variant, row.preset, chosen, options.data_root)
    for part in ("data", "trainer"):
        if not isinstance(config.get(part, {}), dict):
            raise BadInput(
                f"configuration key '{part}' is {config[part]!r}; name one of its keys, as {part}.KEY"
            )
    epochs = config.get("trainer", {}).get("max_epochs", 1)
    if not isinstance(epochs, int) or epochs < 1:
        raise BadInput(f"trainer.max_epochs is {epochs!r}; give a whole number from 1")
    config["data"].update(root=str(options.data_root), cache=str(options.runs / "cache"))
    cli = instantiate(
        {**config, "seed_everything": 0}, accelerator="cpu", devices=1, **process_group.trainer_arguments()
    )
    assert isinstance(cli.model, RetrievalMethod)
    words = _network_words(cli.model, cli.datamodule.images)
    used |= words
    data = read_inputs(cli.datamodule, row.dataset, protocol, corpora, config["data"])
    if row.evaluate == "val" and not data.missing and not data.counts["val"]["images"]:
        raise BadInput(
            f"suite {row.suite} evaluates on validation and {row.dataset} has none; "
            "set data.validation, e.g. 0.2"
        )
    redrawn = cli.datamodule.dataset.redrawn
    if cli.model.deterministic:
        # Solved before the first epoch: a training length meant for the others would only cost time.
        config = experiments.merge(config, {"trainer": {"max_epochs": 1}})
    if cli.model.deterministic and not redrawn:
        seeds = 1
    elif row.seeds is not None:
        seeds = row.seeds
    else:
        seeds = 3 if row.preset in ("paper", "tuned") else 1
    # Among the default methods there may be some that this data set has nothing for.
    regions = cli.datamodule.images.regions
    missing = data.missing or (lacking(data.corpus, cli.model.requires, regions) if data.corpus else "")
    if words and not missing:
        missing = _unusable_towers(cli.model, cli.datamodule, data.corpus)
        faults[row.method, row.dataset, protocol] = missing
    missing = missing or _missing_towers(cli.model, cli.datamodule)
    own = replace(row, seeds=seeds, label=row.label if row.overrides else "")
    parents: dict[str, list[PlannedJob]] = {}
    for name in experiments.parents_of(row.method):
        parent = replace(own, method=name, parent=True)
        parents[name] = _jobs(parent, protocol, variant, options, corpora, used, faults)
    if parents and type(cli.model).inherit is RetrievalMethod.inherit:
        raise BadInput(
            f"method '{row.method}' names parents and {type(cli.model).__name__} cannot start from their "
            "weights; implement its inherit, or drop the key parents from the method's file"
        )
    if redrawn:
        _check_draws(seeds, data.protocols[0], chosen)
    plan = []
    for seed in range(seeds):
        seeded = experiments.merge(config, {"data": {"seed": seed}})
        seeded["seed_everything"] = seed
        if redrawn:
            seeded = experiments.merge(seeded, experiments.expand({DRAW: seed}))
            data = _inputs_of(seeded, row.dataset, protocol, corpora)
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
            ddp_strategy=cli.model.ddp_strategy,
            gpu_precision=cli.model.gpu_precision,
            # One that is solved has a single seed, which serves all.
            parents={name: jobs[min(seed, len(jobs) - 1)] for name, jobs in parents.items()},
            ablation=experiments.ablation_of(row.method),
            plugins=options.plugins,
            corpus=data.corpus,
            resume_anyway=options.rerun == "resume-anyway",
            measure_lacking=options.rerun == "stale",
            requires=tuple(sorted(cli.model.requires)),
        )
        plan.append(planned)
    return plan


def _check_draws(seeds: int, protocol: Protocol, overrides: Collection[str]) -> None:
    """Raise BadInput for more seeds than the protocol knows draws, and for a draw that was chosen."""
    if DRAW in overrides:
        raise BadInput(
            f"--set {DRAW} has no effect where each seed takes a draw of its own; set SEEDS instead"
        )
    known = len(protocol.split.draws)
    if known and seeds > known:
        raise BadInput(
            f"SEEDS is {seeds}, and {protocol.name} has {known} draws, one for each seed; "
            f"give at most {known}"
        )


def _inputs_of(config: Config, dataset: str, protocol: str, corpora: dict[str, Inputs]) -> Inputs:
    """The inputs of one configuration, which is complete."""
    cli = instantiate(config, accelerator="cpu", devices=1, **process_group.trainer_arguments())
    return read_inputs(cli.datamodule, dataset, protocol, corpora, config["data"])


def _unusable_towers(model: RetrievalMethod, data: CrossModalDataModule, corpus: Corpus | None) -> str:
    """Why a method cannot do with the networks that its configuration names; empty where it can."""
    images, text = data.images.network, data.text_network
    is_tower = images is not None and images.startswith(HF)
    if "bow" in model.requires and data.text.network is not None:
        if data.text.network == "same" and not is_tower:
            return (
                f"TEXT is 'same', but NETWORK is {_quoted(images)}, which encodes no captions; give "
                f"NETWORK=hf:NAME, a dual encoder, as {EXAMPLE}, or another TEXT, or leave TEXT out"
            )
        if text is None or not text.startswith(HF):
            return f"TEXT is {_quoted(text)}; name a dual encoder, as {EXAMPLE}, or leave TEXT out"
        if corpus is not None and corpus.captions is None:
            return f"{corpus.name} has no captions for TEXT '{text}' to encode; leave TEXT out"
    if isinstance(model, ZeroShot) and (reason := model.not_one_encoder(images, text)):
        return reason
    if not is_tower:
        return ""
    if "regions" in model.requires and data.images.regions == "grid":
        return (
            f"NETWORK is '{images}', a dual encoder, which has no grid of regions; name a network of "
            "torchvision or timm:NAME, or a method that reads features"
        )
    if "features" in model.requires and data.images.weights not in OWN_WEIGHTS:
        return (
            f"WEIGHTS is '{data.images.weights}', but NETWORK '{images}' says which by its name; leave "
            "WEIGHTS out, or set it to none for random ones"
        )
    if "pixels" in model.requires:
        encoders = [module for module in model.modules() if isinstance(module, ConvNetEncoder)]
        if any(encoder.name is None for encoder in encoders):
            return (
                f"NETWORK is '{images}', a frozen tower, but this method trains a network of pixels; name "
                "one of torchvision or timm:NAME, or take a preset with features, as PRESET=small"
            )
    return ""


def _quoted(network: str | None) -> str:
    return "not given" if network is None else f"'{network}'"


def _missing_towers(model: RetrievalMethod, data: CrossModalDataModule) -> str:
    """Why a dual encoder that a method reads vectors of is not at hand; empty where there is none to miss."""
    weights_of: dict[str, str] = {}
    if "features" in model.requires and data.images.network is not None:
        weights_of[data.images.network] = data.images.weights
    if "bow" in model.requires and data.text_network is not None:
        weights_of[data.text_network] = data.text_weights
    reasons = (out_of_reach(name, weights) for name, weights in weights_of.items() if name.startswith(HF))
    return next(filter(None, reasons), "")


def _network_words(model: RetrievalMethod, images: ImageSettings) -> set[str]:
    """Which of ``network``, ``weights`` and ``text`` a method would be changed by."""
    used: set[str] = {"text"} if "bow" in model.requires else set()
    if "features" in model.requires:
        used |= {"network"} if images.network is None else {"network", "weights"}
    if "regions" in model.requires and images.regions != "auto":
        used |= {"weights"} if images.regions == "detector" else {"network", "weights"}
    if "pixels" in model.requires:
        encoders = [module for module in model.modules() if isinstance(module, ConvNetEncoder)]
        # One of somebody's own may look at both.
        used |= {"network"} if not encoders or any(encoder.name is None for encoder in encoders) else set()
        used |= {"weights"} if not encoders or any(encoder.weights is None for encoder in encoders) else set()
    return used
