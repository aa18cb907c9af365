"""What a plan needs to know about the classes a configuration names, cached so as not to instantiate them.

A method declares which views it reads, whether it has a closed-form solution, and what it needs on several
devices. Some of this depends on its arguments, so an instance must be asked, and creating one takes Lightning
and its parser: seconds of imports, plus about a second per dozen jobs. The answers depend only on the
configuration, our sources and a few libraries, so they are cached in the folder of runs under a digest of all
three. Nothing read from the data is ever cached: the data may have changed since.
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
"""Maximum number of cached descriptions; a plan of a hundred rows needs a hundred."""
MADE_WITH = ("jsonargparse", "pytorch-lightning", "torch", "torchvision", "transformers")
"""Libraries that create the instances, or whose classes may be among the arguments."""


class Reader(Model):
    """A data set's reader, as the parser would create it."""

    class_path: str
    init_args: dict[str, Any]


class Description(Model):
    """What the instances of a configuration declare about themselves.

    Attributes:
        method: the name of the method's class.
        requires: the views that the method reads.
        deterministic: whether it is solved in closed form, so that no seed changes it.
        inherits: whether it can start from other methods' weights.
        ddp_strategy, gpu_precision: what it requests.
        network, text_network: the frozen encoders of images and captions, if any.
        weights, text_weights: the weights of these encoders.
        unusable: why the method cannot use these encoders; empty if it can.
        regions: how regions are obtained.
        changed_by: which of the options ``network``, ``weights`` and ``text`` affect the method.
        skips_unreadable: whether images that cannot be decoded are skipped.
        validation: the fraction of train held out for validation.
        redrawn: whether every seed uses its own split.
        reader: the data set's reader; None if it cannot be rebuilt from plain values.
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
        description: what its instances declare about themselves.
        reader: the data set's reader.
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
    """Descriptions by configuration: cached ones from earlier commands, and new ones.

    If the user trusts plugins, nothing is cached, because plugin sources are not part of the digest.

    Args:
        runs: the folder of the records. If it does not exist, nothing is written.
    """

    def __init__(self, runs: Path) -> None:
        # Never create the folder for it: others who share these runs might not be able to write there.
        self._file = runs / "descriptions.json"
        self._may_write = runs.is_dir()
        self._uses_file = not trusted()
        self._rests_on = _foundation() if self._uses_file else ""
        self._kept = self._read() if self._uses_file else {}
        self._new = False

    def describe(self, config: Config) -> Described:
        """The description of a configuration that is complete except for its seed.

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
        """Write new descriptions for later commands; if that fails, they will ask the classes again."""
        # Sources changed in the meantime: it is unknown which version the descriptions came from.
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
        # Damaged, or not readable by this user: it is rewritten, or ignored.
        except (BadInput, OSError, KeyError, AttributeError):
            return {}


def _ask(config: Config) -> Described:
    """Create the instances of a configuration and query them."""
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
    """Which of ``network``, ``weights`` and ``text`` affect a method."""
    from crossmodal_bench.networks import ConvNetEncoder

    used: set[str] = {"text"} if "bow" in model.requires else set()
    if "features" in model.requires:
        used |= {"network"} if images.network is None else {"network", "weights"}
    if "regions" in model.requires and images.regions != "auto":
        used |= {"weights"} if images.regions == "detector" else {"network", "weights"}
    if "pixels" in model.requires:
        encoders = [module for module in model.modules() if isinstance(module, ConvNetEncoder)]
        # A user's own encoder may depend on both.
        used |= {"network"} if not encoders or any(encoder.name is None for encoder in encoders) else set()
        used |= {"weights"} if not encoders or any(encoder.weights is None for encoder in encoders) else set()
    return used


def _unusable(model: Any, data: Any) -> str:
    """Why a method cannot use the networks its configuration names; empty if it can."""
    from crossmodal_bench.methods import ZeroShot
    from crossmodal_bench.networks import ConvNetEncoder
    from crossmodal_bench.networks.dual_encoders import EXAMPLE, HF, OWN_WEIGHTS

    images, text = data.images.network, data.text_network
    is_tower = images is not None and images.startswith(HF)
    if "bow" in model.requires and data.text.network is not None:
        if data.text.network == "same" and not is_tower:
            return (
                f"TEXT is 'same', but NETWORK is {_quoted(images)}, which does not encode captions; set "
                f"NETWORK=hf:NAME, a dual encoder such as {EXAMPLE}, or set another TEXT, or leave TEXT out"
            )
        if text is None or not text.startswith(HF):
            return f"TEXT is {_quoted(text)}; name a dual encoder such as {EXAMPLE}, or leave TEXT out"
    if isinstance(model, ZeroShot) and (reason := model.not_one_encoder(images, text)):
        return str(reason)
    if not is_tower:
        return ""
    if "regions" in model.requires and data.images.regions == "grid":
        return (
            f"NETWORK is '{images}', a dual encoder, which has no grid of regions; name a torchvision "
            "network or timm:NAME, or choose a method that reads features"
        )
    if "features" in model.requires and data.images.weights not in OWN_WEIGHTS:
        return (
            f"WEIGHTS is '{data.images.weights}', but the name of NETWORK '{images}' already determines its "
            "weights; leave WEIGHTS out, or set it to none for random weights"
        )
    if "pixels" in model.requires:
        encoders = [module for module in model.modules() if isinstance(module, ConvNetEncoder)]
        if any(encoder.name is None for encoder in encoders):
            return (
                f"NETWORK is '{images}', a frozen tower, but this method trains an image network; "
                "name a torchvision network or timm:NAME, or use a preset with features, e.g. PRESET=small"
            )
    return ""


def _quoted(network: str | None) -> str:
    return "not set" if network is None else f"'{network}'"


def _reader_of(reader: DatasetReader, config: Any) -> Reader | None:
    """The arguments the parser built a reader from; None if they do not rebuild the same reader."""
    parsed = config.as_dict()["data"]["dataset"]
    arguments = parsed.get("init_args", {})
    cls = type(reader)
    try:
        if json.loads(json.dumps(arguments)) != arguments or vars(cls(**arguments)) != vars(reader):
            return None
    # A user's own class may compare and store whatever it likes.
    except (TypeError, ValueError, BadInput):
        return None
    return Reader(class_path=f"{cls.__module__}.{cls.__qualname__}", init_args=arguments)


def _again(kept: Description, config: Config) -> Described | None:
    """A cached description with its reader rebuilt; None if that fails, since anyone may write the file."""
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
    """A digest of what descriptions depend on besides the configuration: our sources and some libraries."""
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
