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
    found = fitting_protocols(corpus)
    if wanted and wanted not in [one.name for one in found]:
        # Not the split that the variant is meant for; the variants of a data set stay apart all the same.
        found = [replace(one, name=f"{wanted}-unverified") for one in found]
    corpora[key] = Inputs(found, hash_of_test(corpus), corpus.fingerprint, corpus.counts(), corpus=corpus)
    return corpora[key]


def fitting_protocols(corpus: Corpus) -> list[Protocol]:
    """The protocols that the corpus's test split meets."""
    return resolve_protocols(
        corpus.name,
        [corpus.image_ids[row] for row in corpus.image_rows("test")],
        len(corpus.caption_rows("test")),
        corpus.labels is not None,
        corpus.identities is not None,
    )


def hash_of_test(corpus: Corpus) -> str:
    """``split_hash`` of the corpus's test images."""
    return split_hash([corpus.image_ids[row] for row in corpus.image_rows("test")])
