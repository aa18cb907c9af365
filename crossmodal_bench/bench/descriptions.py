"""What a plan must know of the classes that a configuration names, without making their instances each time.

A method says of itself which views it reads, whether it is solved, and what it asks of several devices. Some
of that follows from its arguments, so that an instance must be asked, and to make one takes Lightning and its
parser: seconds of imports, and a second for a dozen jobs. The answers follow from the configuration, our
sources and a few libraries. They are kept in the folder of runs under a digest of all these. What is read of
the data is never kept: it may have changed since.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from crossmodal_bench.core import process_group
from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.class_paths import US, imported_class, trusted
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import read_json
from crossmodal_bench.core.validation import Items, Model, validated
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datasets import DatasetReader
from crossmodal_bench.data.reading import read_corpus
from crossmodal_bench.jobs.experiments import Config
from crossmodal_bench.jobs.fingerprints.closure import package_location

MOST = 1000
"""Descriptions that are kept; a plan of a hundred rows has as many."""
MADE_WITH = ("jsonargparse", "pytorch-lightning", "torch", "torchvision", "transformers")
"""Libraries that make the instances; of a library's classes some may be among the arguments."""


class Reader(Model):
    """A data set's reader, as the parser would make it."""

    class_path: str
    init_args: dict[str, Any]


class Description(Model):
    """What the instances of a configuration say of themselves.

    Attributes:
        method: the name of the method's class.
        requires: the views that the method reads.
        deterministic: whether it is solved, and no seed changes it.
        inherits: whether it can start from other methods' weights.
        ddp_strategy, gpu_precision: what it asks for.
        network, text_network: what encodes images and captions, where something frozen does.
        weights, text_weights: which of theirs.
        unusable: why the method cannot do with them; empty where it can.
        regions: where regions come from.
        changed_by: those of the command's words ``network``, ``weights`` and ``text`` that change it.
        skips_unreadable: whether images that cannot be decoded are left out.
        validation: the share of train that is held out for validation.
        redrawn: whether every seed takes a split of its own.
        reader: the data set's; None where plain values do not make it again.
    """

    method: str
    requires: Items[str]
    deterministic: bool
    inherits: bool
    ddp_strategy: str
    gpu_precision: str
    network: str | None
    text_network: str | None
    weights: str
    text_weights: str
    unusable: str
    regions: str
    changed_by: Items[str]
    skips_unreadable: bool
    validation: float
    redrawn: bool
    reader: Reader | None


@dataclass(frozen=True)
class Described:
    """A configuration with its description, and the reader of its data set.

    Attributes:
        description: what its instances say of themselves.
        reader: of the data set.
        root: the data root.
    """

    description: Description
    reader: DatasetReader
    root: Path

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus that the data module of this configuration would read."""
        return read_corpus(
            self.reader,
            self.root,
            skip_unreadable=self.description.skips_unreadable,
            validation=self.description.validation,
        )


class Descriptions:
    """Descriptions by configuration: those of earlier commands, and new ones.

    Where the user trusts plugins, whose sources nobody looks at here, instances are made and asked each time.

    Args:
        runs: the folder of the records. Nothing is written where it is not there.
    """

    def __init__(self, runs: Path) -> None:
        # No folder is made for it, which others who share these runs might not write to.
        self._file = runs / "descriptions.json"
        self._may_write = runs.is_dir()
        self._uses_file = not trusted()
        self._rests_on = _foundation() if self._uses_file else ""
        self._kept = self._read() if self._uses_file else {}
        self._new = False

    def describe(self, config: Config) -> Described:
        """The description of a configuration, complete but for its seed.

        Raises:
            BadInput: as ``training.lightning_cli.instantiate``.
        """
        config = {**config, "seed_everything": 0}
        name = _digest(config)
        kept = self._kept.get(name)
        if kept is not None and (described := _again(kept, config)) is not None:
            return described
        described = _ask(config)
        if described.description.reader is not None and self._uses_file:
            self._kept[name] = described.description
            self._new = True
        return described

    def keep(self) -> None:
        """Write what is new, for later commands; where that cannot be, they ask again."""
        # Sources that have changed meanwhile were read before, or after.
        if not (self._new and self._may_write) or _foundation() != self._rests_on:
            return
        latest = dict(list(self._kept.items())[-MOST:])
        content = {
            "rests_on": self._rests_on,
            "descriptions": {name: each.model_dump(mode="json") for name, each in latest.items()},
        }
        try:
            replace_file(self._file, lambda stream: stream.write(json.dumps(content).encode()), durable=False)
        except OSError:
            return
        self._new = False

    def _read(self) -> dict[str, Description]:
        if not self._file.is_file():
            return {}
        try:
            content = read_json(self._file)
            if not isinstance(content, Mapping) or content.get("rests_on") != self._rests_on:
                return {}
            return {
                str(name): validated(Description, each, self._file)
                for name, each in content["descriptions"].items()
            }
        # Damaged, or not for this user: it is written anew, or not used.
        except (BadInput, OSError, KeyError, AttributeError):
            return {}


def _ask(config: Config) -> Described:
    """Make the instances of a configuration, and ask them."""
    from crossmodal_bench.methods import RetrievalMethod
    from crossmodal_bench.training.lightning_cli import instantiate

    cli = instantiate(config, accelerator="cpu", devices=1, **process_group.trainer_arguments())
    model, data = cli.model, cli.datamodule
    assert isinstance(model, RetrievalMethod)
    description = Description(
        method=type(model).__name__,
        requires=tuple(sorted(model.requires)),
        deterministic=bool(model.deterministic),
        inherits=type(model).inherit is not RetrievalMethod.inherit,
        ddp_strategy=model.ddp_strategy,
        gpu_precision=model.gpu_precision,
        network=data.images.network,
        text_network=data.text_network,
        weights=data.images.weights,
        text_weights=data.text_weights,
        unusable=_unusable(model, data),
        regions=data.images.regions,
        changed_by=tuple(sorted(_changed_by(model, data.images))),
        skips_unreadable=data.images.on_bad_image == "skip",
        validation=float(data.validation),
        redrawn=bool(data.dataset.redrawn),
        reader=_reader_of(data.dataset, cli.config),
    )
    return Described(description, data.dataset, data.root)


def _changed_by(model: Any, images: Any) -> set[str]:
    """Which of ``network``, ``weights`` and ``text`` a method would be changed by."""
    from crossmodal_bench.networks import ConvNetEncoder

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


def _unusable(model: Any, data: Any) -> str:
    """Why a method cannot do with the networks that its configuration names; empty where it can."""
    from crossmodal_bench.methods import ZeroShot
    from crossmodal_bench.networks import ConvNetEncoder
    from crossmodal_bench.networks.dual_encoders import EXAMPLE, HF, OWN_WEIGHTS

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
    if isinstance(model, ZeroShot) and (reason := model.not_one_encoder(images, text)):
        return str(reason)
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


def _reader_of(reader: DatasetReader, config: Any) -> Reader | None:
    """The arguments that the parser has made a reader from; None where they do not make it again."""
    parsed = config.as_dict()["data"]["dataset"]
    arguments = parsed.get("init_args", {})
    cls = type(reader)
    try:
        if json.loads(json.dumps(arguments)) != arguments or vars(cls(**arguments)) != vars(reader):
            return None
    # Of a class of somebody's own, that compares or stores whatever it likes.
    except (TypeError, ValueError, BadInput):
        return None
    return Reader(class_path=f"{cls.__module__}.{cls.__qualname__}", init_args=arguments)


def _again(kept: Description, config: Config) -> Described | None:
    """A kept description with its reader made again; None where that cannot be, as the file is not ours."""
    if kept.reader is None:
        return None
    try:
        cls = imported_class(
            "data.dataset.class_path", kept.reader.class_path, DatasetReader, "crossmodal_bench.data.datasets"
        )
        reader = cls(**kept.reader.init_args)
    except (BadInput, TypeError, ValueError):
        return None
    return Described(kept, reader, Path(config["data"]["root"]))


def _foundation() -> str:
    """A digest of what descriptions rest on beside the configuration: our sources, and some libraries."""
    digest = hashlib.sha256()
    folder = package_location(US)
    assert folder is not None
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(path.read_bytes())
    versions = [f"{name} {_version(name)}" for name in MADE_WITH]
    digest.update(json.dumps([platform.python_version(), *versions]).encode())
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def _digest(config: Config) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=repr).encode()).hexdigest()
