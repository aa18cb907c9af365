"""The data set of a user's vectors, found by its name or by a protocol's, and its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmodal_bench.core.class_paths import imported_class
from crossmodal_bench.core.errors import BadInput, MissingInput, nearest
from crossmodal_bench.core.validation import is_folder_name
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datasets.base import DatasetReader
from crossmodal_bench.data.reading import read_corpus
from crossmodal_bench.evaluation.protocols.protocol import PROTOCOLS
from crossmodal_bench.jobs import experiments

_DEFAULT_ROOT = Path("data")


@dataclass(frozen=True)
class NamedDataset:
    """The data set and protocol that a user has named.

    Attributes:
        folder: the data set's name in the bench's records: ``wikipedia_deep``.
        wanted: the requested named protocol; empty for whichever the split matches.
    """

    folder: str
    wanted: str

    @property
    def own_name(self) -> str:
        """The data set's name in protocols: that of the wanted protocol, else the folder's."""
        if self.wanted:
            return PROTOCOLS[self.wanted].dataset
        return self.folder.partition("-")[0] if self.folder.startswith("synthetic-") else self.folder


def named_dataset(protocol: str, dataset: str) -> NamedDataset:
    """What ``--protocol`` and ``--dataset`` name.

    Raises:
        BadInput: both are empty, the protocol is neither a known protocol nor a data set, or the two do not
            belong together.
    """
    if not protocol and not dataset:
        raise BadInput(
            "--protocol is missing; name a protocol such as flickr30k-1k, or a data set (--dataset)"
        )
    if dataset and not is_folder_name(dataset):
        raise BadInput(f"data set '{dataset}' cannot be used as a results folder name; choose another")
    if protocol in PROTOCOLS:
        theirs = PROTOCOLS[protocol].dataset
        if dataset and dataset.partition("-")[0] != theirs and not dataset.startswith(f"{theirs}_"):
            raise BadInput(
                f"protocol '{protocol}' belongs to the data set {theirs}, not {dataset}; leave one out"
            )
        # The bench's default size of synthetic data goes by the data set's bare name.
        own = theirs if theirs != "synthetic" or protocol == "synthetic-small" else protocol
        return NamedDataset(dataset or own, protocol)
    folder = protocol.removesuffix("-test")
    if not protocol or folder == dataset:
        return NamedDataset(dataset, "")
    known = experiments.names("datasets")
    if not dataset and (folder in known or folder.startswith("synthetic-")):
        return NamedDataset(folder, "")
    raise BadInput(
        f"protocol '{protocol}' is unknown{nearest(protocol, [*PROTOCOLS, *known])} For your own data, "
        "leave it out and name the data with --dataset."
    )


@dataclass(frozen=True)
class ReadDataset:
    """A data set's corpus, and the protocol that its settings are for; empty if there is only one."""

    corpus: Corpus
    variant: str


def read_dataset(named: NamedDataset, data_root: Path | None, counts: tuple[int, int]) -> ReadDataset | None:
    """Read the data set's files, if they exist.

    For a data set with several splits (Wikipedia), this is the wanted protocol's, or the first whose test
    split has as many images and captions as were given.

    Args:
        named: which data set.
        data_root: where its files must be; None: they may be in ``data``.
        counts: how many images and captions were given.

    Raises:
        BadInput: files are damaged, or missing from a data root that was named.
    """
    root = _DEFAULT_ROOT if data_root is None else data_root
    first: ReadDataset | None = None
    try:
        for each in _corpora(named, root):
            sizes = each.corpus.counts()["test"]
            if (sizes["images"], sizes["captions"]) == counts:
                return each
            first = first or each
    except MissingInput:
        if data_root is not None:
            raise
        return None
    if first is None and data_root is not None:
        raise MissingInput(
            f"data set '{named.folder}' is not in {data_root}; put it there, or leave --data-root out"
        )
    return first


def _corpora(named: NamedDataset, root: Path) -> Iterator[ReadDataset]:
    is_known = named.folder in experiments.names("datasets") or named.folder.startswith("synthetic-")
    if not is_known and not (root / named.folder).is_dir():
        return
    settings = experiments.dataset_settings(named.folder, root)
    variants = experiments.protocols_of(settings)
    for variant, section in variants.items():
        if named.wanted in variants and variant != named.wanted:
            continue
        data = experiments.merge({"data": settings["data"]}, section)["data"]
        reader = _reader(data["dataset"])
        validation = data.get("validation", 0.0)
        try:
            corpus = read_corpus(reader, root, validation=validation)
        except MissingInput:
            # Ids and captions are enough: the pictures were encoded elsewhere.
            bare = reader.without_pictures()
            if bare is None:
                raise
            corpus = read_corpus(bare, root, validation=validation)
        yield ReadDataset(corpus, variant)


def _reader(settings: dict[str, Any]) -> DatasetReader:
    kind = imported_class(
        "data.dataset.class_path", settings["class_path"], DatasetReader, "crossmodal_bench.data.datasets"
    )
    reader = kind(**settings.get("init_args", {}))
    assert isinstance(reader, DatasetReader)
    return reader
