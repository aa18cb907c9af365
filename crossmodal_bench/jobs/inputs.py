"""The data behind a plan: each corpus is read once, and its test split says which protocols it meets."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from crossmodal_bench.core.errors import MissingInput
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    own_protocol,
    resolve_protocols,
    split_hash,
)
from crossmodal_bench.jobs.experiments import Config


@dataclass(frozen=True)
class Inputs:
    """What a data set's jobs share; ``missing`` says which file is not there and what makes it."""

    protocols: list[Protocol]
    split_hash: str
    fingerprint: str
    counts: dict[str, dict[str, int]]
    missing: str = ""
    corpus: Corpus | None = None


def corpus_key(settings: Config) -> str:
    """Equal for settings of the data module that read the same corpus."""
    chosen = {name: settings.get(name) for name in ("dataset", "validation")}
    chosen["on_bad_image"] = settings.get("images", {}).get("on_bad_image")
    return json.dumps(chosen, sort_keys=True, default=str)


def read_inputs(
    datamodule: Any, dataset: str, wanted: str, corpora: dict[str, Inputs], settings: Config
) -> Inputs:
    """The inputs of a data module with these settings, kept in ``corpora``.

    ``wanted`` is the protocol that the configuration is meant for; empty for whichever fit.
    """
    key = corpus_key(settings)
    if key in corpora:
        return corpora[key]
    try:
        corpus = datamodule.corpus
    except MissingInput as error:
        # The protocol that whole data would have: it is part of the job's id, by which a record is found.
        known = [
            protocol
            for protocol in PROTOCOLS.values()
            if protocol.name == wanted or (not wanted and protocol.dataset == dataset)
        ]
        corpora[key] = Inputs(known or [own_protocol(dataset)], "", "", {}, str(error))
        return corpora[key]
    protocols = fitting_protocols(corpus)
    if wanted and wanted not in [protocol.name for protocol in protocols]:
        # Not the split that the variant is meant for; the variants of a data set stay apart all the same.
        protocols = [replace(protocol, name=f"{wanted}-unverified") for protocol in protocols]
    corpora[key] = Inputs(
        protocols=protocols,
        split_hash=split_hash(_test_images(corpus)),
        fingerprint=corpus.fingerprint,
        counts=corpus.counts(),
        corpus=corpus,
    )
    return corpora[key]


def fitting_protocols(corpus: Corpus) -> list[Protocol]:
    """The protocols that the corpus's test split meets."""
    return resolve_protocols(
        corpus.name,
        _test_images(corpus),
        len(corpus.caption_rows("test")),
        real_labels=corpus.labels is not None,
        identities=corpus.identities is not None,
    )


def _test_images(corpus: Corpus) -> list[str]:
    return [corpus.image_ids[row] for row in corpus.image_rows("test")]
