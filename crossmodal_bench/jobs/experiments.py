"""The YAML files of ``experiments/`` and the user's own: method, data set and preset as one configuration."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import crossmodal_bench
from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.core.files import is_path_below, read_yaml
from crossmodal_bench.core.validation import Model, is_folder_name, validated
from crossmodal_bench.data.datasets.karpathy import has_features, is_karpathy_folder
from crossmodal_bench.data.datasets.precomputed import FAMILIAR, familiar_folder, precomputed_folder
from crossmodal_bench.jobs.schema import PRESETS, DatasetFile, MethodFile, SuiteFile, SuiteRow

Config = dict[str, Any]
KARPATHY = "crossmodal_bench.data.datasets.Karpathy"
PRECOMPUTED = "crossmodal_bench.data.datasets.Precomputed"
WORD_READERS = (
    "crossmodal_bench.networks.WordEncoder",
    "crossmodal_bench.networks.LanguageModelEncoder",
)
"""Text encoders whose input is words or word pieces."""
TEXT_FEATURES = "crossmodal_bench.networks.TextFeatureEncoder"
_MODELS: dict[str, type[Model]] = {"methods": MethodFile, "datasets": DatasetFile, "suites": SuiteFile}
"""The schema of each folder's files."""
RowT = TypeVar("RowT", bound=SuiteRow)
_given: dict[str, dict[str, Path]] = {"methods": {}, "datasets": {}}
"""The user's own files, by kind and by the names under which they are known from then on."""
DEFAULT_METHODS = (
    "cca",
    "infonce",
    "acmr",
    "timam_no_adversary",
    "timam",
    "scan",
    "addr_scan",
    "gxn_finetune",
    "gxn",
)


def experiments_folder() -> Path:
    """The folder of YAML files: at the top of a checkout, or inside an installed package."""
    package = Path(crossmodal_bench.__file__).parent
    inside = package / "experiments"
    return inside if inside.is_dir() else package.parent / "experiments"


def names(kind: str) -> list[str]:
    """The names of all ``methods``, ``datasets`` or ``suites``: ours and those of the user's files."""
    return sorted({*_our_names(kind), *_given.get(kind, ())})


def _our_names(kind: str) -> list[str]:
    return [path.stem for path in (experiments_folder() / kind).glob("*.yaml")]


def name_of(kind: str, word: str) -> str:
    """The name that a command-line word means: the word itself, or the name of the file whose path it is.

    A file's name without ``.yaml`` names the method or data set in tables and folders; for the rest of the
    process it is known just like ours.

    Raises:
        BadInput: the file is missing, is not a valid method or data set file, or has a name that is taken.
    """
    if not word.endswith((".yaml", ".yml")):
        return word
    path = Path(word).absolute()
    name = path.stem
    if name in _our_names(kind) or name in ("default", "all", *names("suites")):
        raise BadInput(f"{word}: the name '{name}' is already taken; rename the file")
    _given[kind][name] = path
    _file.cache_clear()
    try:
        _file(kind, name)
    except BadInput:
        del _given[kind][name]
        raise
    return name


def forget_given_files() -> None:
    """Forget the user's files, so that only our own names are known."""
    for given in _given.values():
        given.clear()
    _file.cache_clear()


def default_methods() -> list[str]:
    """The methods of the default leaderboard that exist.

    A closed-form baseline, a purely contrastive objective, and each paper's method with its non-adversarial
    ablation.
    """
    known = names("methods")
    return [name for name in DEFAULT_METHODS if name in known]


@cache
def _file(kind: str, name: str) -> Model:
    if name not in names(kind):
        raise BadInput(f"{kind[:-1]} '{name}' is unknown{nearest(name, names(kind))}")
    path = _path(kind, name)
    if not is_folder_name(name):
        raise BadInput(f"{path}: '{name}' cannot be used as a results folder name; rename the file")
    return validated(_MODELS[kind], read_yaml(path) or {}, path)


def _path(kind: str, name: str) -> Path:
    given = _given.get(kind, {}).get(name)
    return experiments_folder() / kind / f"{name}.yaml" if given is None else given


def _method(name: str) -> MethodFile:
    content = _file("methods", name)
    assert isinstance(content, MethodFile)
    return content


def _dataset(name: str) -> Config:
    """The content of a data set's file as a configuration; each caller gets its own copy."""
    return _file("datasets", name).model_dump(exclude_unset=True)


def suite(name: str) -> SuiteFile:
    """The suite file ``name``.

    Raises:
        BadInput: it does not exist, or a key in it is unknown, missing, or has an unusable value.
    """
    content = _file("suites", name)
    assert isinstance(content, SuiteFile)
    return content


def with_overrides(content: SuiteFile, row: RowT) -> RowT:
    """A row with its own overrides on top of those of the whole suite."""
    return row.model_copy(update={"overrides": {**content.overrides, **row.overrides}})


def suite_rows(content: SuiteFile) -> Iterator[SuiteRow]:
    """A suite's rows in the order listed, including the overrides of the whole suite.

    A parameter sweep varies one key at a time and leaves the others at the method's values; a grid has every
    combination, with the last key varying fastest.
    """
    for row in content.rows:
        yield with_overrides(content, row)
    for method in content.methods:
        yield with_overrides(content, SuiteRow(method=method))
    if content.parameter_sweep is not None:
        for key, values in content.parameter_sweep.keys.items():
            for value in values:
                yield with_overrides(content, _changed(content.parameter_sweep.method, {key: value}))
    if content.grid is not None:
        for combination in itertools.product(*content.grid.keys.values()):
            overrides = dict(zip(content.grid.keys, combination, strict=True))
            yield with_overrides(content, _changed(content.grid.method, overrides))


def _changed(method: str, overrides: dict[str, Any]) -> SuiteRow:
    """A row of a method, labelled by what it overrides."""
    label = ", ".join(f"{key.split('.')[-1]} = {value}" for key, value in overrides.items())
    return SuiteRow(method=method, overrides=overrides, label=label)


def overrides_of(suite_name: str | None, method: str, label: str) -> dict[str, Any]:
    """The overrides of a suite's row with ``method`` and ``label``; empty if that row no longer exists."""
    if suite_name is None or not label or suite_name not in names("suites"):
        return {}
    rows = suite_rows(suite(suite_name))
    return next((row.overrides for row in rows if (row.method, row.label) == (method, label)), {})


def merge(base: Config, over: Config) -> Config:
    """``over`` on top of ``base``, key by key.

    A new ``class_path`` drops the old one's arguments, and a new ``network`` drops the ``weights`` that were
    given for the old one: a preset or NETWORK that selects another network gets that network's default
    weights.
    """
    merged = copy.deepcopy(base)
    _lay_on(merged, over)
    return merged


def _lay_on(config: Config, over: Config) -> None:
    old_network = config.get("network")
    if old_network is not None and over.get("network", old_network) != old_network:
        config.pop("weights", None)
    for key, value in over.items():
        old = config.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            other_class = "class_path" in value and value["class_path"] != old.get("class_path")
            if not other_class:
                _lay_on(old, value)
                continue
        config[key] = copy.deepcopy(value)


def expand(overrides: dict[str, Any]) -> Config:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    nested: Config = {}
    for path, value in overrides.items():
        *parents, last = path.split(".")
        here = nested
        for parent in parents:
            here = here.setdefault(parent, {})
            if not isinstance(here, dict):
                raise BadInput(f"--set {path} conflicts with --set {parent}={here}; give only one of the two")
        here[last] = value
    return nested


def dataset_settings(name: str, root: Path) -> Config:
    """A data set's settings; ``synthetic-N`` and folders in Karpathy's layout or of regions need no file."""
    if Path(name).name != name or not is_path_below(name):
        raise BadInput(
            f"data set '{name}' is a path or empty; give the folder's name alone, and its parent folder as "
            "DATA_ROOT"
        )
    if not is_folder_name(name):
        raise BadInput(
            f"data set '{name}' cannot be used as a results folder name; give its folder a name without "
            "*, ? or ["
        )
    folder = name
    if not (root / name).is_dir() and (theirs := familiar_folder(root, name)) is not None:
        # Such as f30k_precomp/ for flickr30k: the regions as distributed by their authors, and nothing else.
        folder = theirs.relative_to(root).parts[0]
    if _only_regions(root / folder):
        known = FAMILIAR.get(name, name)
        settings = _dataset(known if known in names("datasets") else "flickr8k")
        if settings["data"]["dataset"]["class_path"] == KARPATHY:
            return _of_regions(settings, folder)
    if name not in names("datasets"):
        size = name.removeprefix("synthetic-")
        if size != name:
            settings = _dataset("synthetic")
            settings["data"]["dataset"]["init_args"]["size"] = size
            return settings
        if is_karpathy_folder(root / name):
            settings = _dataset("flickr8k")
            settings["data"]["dataset"]["init_args"]["folder"] = name
            settings.pop("protocols", None)
            return _with_own_features(settings, root / name)
        if (root / name).is_dir():
            fix = f"; write its pictures' names, splits and captions to {root / name / 'dataset.json'}"
        else:
            fix = nearest(name, [*names("datasets"), "synthetic-tiny", "synthetic-small"])
        raise BadInput(
            f"data set '{name}' is unknown, and {root / name} has neither a dataset*.json nor a *_precomp "
            f"folder{fix}"
        )
    return _with_own_features(_dataset(name), root / name)


def _with_own_features(settings: Config, folder: Path) -> Config:
    """The settings for a folder in Karpathy's layout; its features, if it has any, are used as they are."""
    of_karpathy = settings["data"]["dataset"]["class_path"] == KARPATHY
    return (
        _without_image_settings(settings, ("network",)) if of_karpathy and has_features(folder) else settings
    )


def _only_regions(folder: Path) -> bool:
    """Whether a folder has regions but no JSON that says which pictures they belong to."""
    return not is_karpathy_folder(folder) and precomputed_folder(folder) is not None


def _of_regions(settings: Config, folder: str) -> Config:
    """The settings for a folder without pictures, from which nothing can be extracted."""
    settings["data"]["dataset"] = {"class_path": PRECOMPUTED, "init_args": {"folder": folder}}
    return _without_image_settings(settings, ("network", "regions"))


def _without_image_settings(settings: Config, keys: Sequence[str]) -> Config:
    """The settings without some keys of ``data.images`` in their presets."""
    for preset in PRESETS:
        images = settings.get(preset, {}).get("data", {}).get("images") or {}
        for key in keys:
            images.pop(key, None)
    return settings


def protocols_of(settings: Config) -> dict[str, Config]:
    """The configurations of a data set to run, by the protocol that each is meant for."""
    return dict(settings.get("protocols") or {"": {}})


def method_settings(method: str, dataset: str, preset: str) -> Config:
    """The configuration of a method on a data set: ``paper``, modified by preset, data set and override.

    ``tuned`` also modifies what a data set's own section says for ``paper``.

    A method with a ``base`` has that method's configuration with its own sections on top. If it also gives a
    ``class_path``, the model is of that class and keeps the base's arguments (ADDR on a host).
    """
    content = _method(method)
    _check_bases(method)
    config = {} if content.base is None else method_settings(content.base, dataset, preset)
    if content.class_path is not None:
        config.setdefault("model", {})["class_path"] = content.class_path
    dataset = FAMILIAR.get(dataset, dataset)
    family = dataset.split("-")[0]
    sections = [content.paper]
    if preset != "paper":
        sections.append(content.section(preset))
    for name in dict.fromkeys((family, dataset)):
        specific = {str(part): section for part, section in content.datasets.get(name, {}).items()}
        sections += [specific.get(part, {}) for part in ("all", *_layers(preset))]
    sections.append(content.override)
    for section in sections:
        config = merge(config, section)
    return config


def _layers(preset: str) -> tuple[str, ...]:
    """The presets whose sections make up a preset: ``tuned`` goes on top of the paper's settings."""
    return ("paper", "tuned") if preset == "tuned" else (preset,)


def has_papers_settings(method: str, dataset: str, preset: str) -> bool:
    """Whether a preset configures a method as ``paper`` does; CCA has the same configuration in all presets.

    The data set's file is not considered: what it sets for a preset is which features there are.
    """
    if method not in names("methods") or preset not in PRESETS:
        return False
    return method_settings(method, dataset, preset) == method_settings(method, dataset, "paper")


def _check_bases(method: str) -> None:
    line = [method]
    while (base := _method(line[-1]).base) is not None:
        if base in line:
            raise BadInput(f"{_path('methods', method)}: base '{base}' is based on itself; name another one")
        line.append(base)


def title_of(method: str) -> str:
    """A method's full name."""
    content = _method(method)
    return content.title or method


def base_of(method: str) -> str | None:
    """The method on whose configuration a method's is based, if its file names one."""
    return _method(method).base


def dataset_title(name: str) -> str:
    """A one-line description of a data set, ours or the user's; empty if its file has none."""
    content = _file("datasets", name)
    assert isinstance(content, DatasetFile)
    return content.title


def licence_of(dataset: str) -> str:
    """What the owners of a data set are known to say about its use, as a clause."""
    content = _file_of_variant(dataset)
    licence = content.licence if content is not None else ""
    return licence or "not known; ask the data's owners before you use anything made from them"


def is_free(dataset: str) -> bool:
    """Whether a data set's pictures and sentences are known to be freely redistributable."""
    content = _file_of_variant(dataset)
    return content is not None and content.free


def _file_of_variant(dataset: str) -> DatasetFile | None:
    """The file of a data set, or of the one that it is a variant of; None if neither is known."""
    name = dataset if dataset in names("datasets") else dataset.partition("-")[0]
    name = FAMILIAR.get(name, name)
    content = _file("datasets", name) if name in names("datasets") else None
    return content if isinstance(content, DatasetFile) else None


def ablation_of(method: str) -> str | None:
    """The method's ablation without an adversary, if its file names one."""
    return _method(method).ablation


def parents_of(method: str) -> list[str]:
    """The methods whose trained weights a method starts from; it does not inherit those of its ``base``.

    Raises BadInput for an unknown method, and if a method would start from itself.
    """

    def walk(name: str, line: list[str]) -> None:
        for parent in _named_parents(name):
            if parent in line:
                circle = " -> ".join([*line[line.index(parent) :], parent])
                raise BadInput(
                    f"{_path('methods', name)}: '{parent}' would start from itself ({circle}); remove one"
                )
            walk(parent, [*line, parent])

    walk(method, [method])
    return _named_parents(method)


def _named_parents(method: str) -> list[str]:
    known = names("methods")
    parents = list(dict.fromkeys(_method(method).parents))
    for name in parents:
        if name not in known:
            raise BadInput(f"{_path('methods', method)}: parent '{name}' is unknown{nearest(name, known)}")
    return parents


def applicable(overrides: dict[str, Any], settings: Config) -> dict[str, Any]:
    """The overrides without those for a part of the model that a method with these settings does not have."""
    has = settings.get("model", {}).get("init_args", {})
    inside = "model.init_args."
    return {
        path: value
        for path, value in overrides.items()
        if not path.startswith(inside)
        or path.count(".") == inside.count(".")
        or has.get(path.removeprefix(inside).split(".")[0]) is not None
    }


def resolve(
    method: str,
    dataset: str,
    variant: Config,
    preset: str,
    overrides: dict[str, Any],
    root: Path,
) -> Config:
    """One complete configuration: {"model", "data", "trainer"}."""
    settings = dataset_settings(dataset, root)
    config: Config = {"data": settings["data"]}
    for layer in _layers(preset):
        config = merge(config, settings.get(layer, {}))
    config = merge(config, variant)
    config = merge(config, method_settings(method, dataset, preset))
    config = merge(config, expand(overrides))
    text = config["data"].get("text") if isinstance(config["data"], dict) else None
    if isinstance(text, dict) and text.get("network") is not None:
        _read_text_features(config, overrides)
    for name, part in config.get("model", {}).get("init_args", {}).items():
        # Without this check, the part would be built with defaults for everything else.
        if isinstance(part, dict) and "init_args" in part and "class_path" not in part:
            raise BadInput(
                f"method '{method}' has no model.init_args.{name}, so nothing in it can be set; "
                "choose methods that have it, or also give its class_path"
            )
    return config


def _read_text_features(config: Config, overrides: dict[str, Any]) -> None:
    """Make the text encoder read the caption vectors of a network instead of words.

    A user's own encoder, which may read them already, is kept. Raises BadInput for overrides of an encoder
    that is replaced.
    """
    arguments = config.get("model", {}).get("init_args", {})
    encoder = arguments.get("text_encoder")
    if isinstance(encoder, dict) and encoder.get("class_path") in WORD_READERS:
        own = next((path for path in overrides if path.startswith("model.init_args.text_encoder")), None)
        if own is not None:
            raise BadInput(
                f"--set {own} configures a word encoder, but data.text.network replaces words with caption "
                f"vectors; remove one of the two, or choose the class {TEXT_FEATURES}"
            )
        arguments["text_encoder"] = {"class_path": TEXT_FEATURES}
