"""The data for a plan: each corpus is read once, and its test split decides which protocols it matches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol as Interface

import numpy as np

from crossmodal_bench.core.errors import MissingInput
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.equal_inputs import repeated_captions
from crossmodal_bench.evaluation.items import given_pairs
from crossmodal_bench.evaluation.protocols.protocol import (
    Match,
    Protocol,
    expected_protocols,
    id_scheme,
    matches,
    resolve_protocols,
    with_equal_inputs,
    with_given_pairs,
)
from crossmodal_bench.evaluation.protocols.splits import SplitItems, describe, split_hash
from crossmodal_bench.jobs.experiments import Config

REPEATED = 0.01
"""The fraction of repeated test captions above which equal inputs get their own protocol."""


@dataclass(frozen=True)
class Inputs:
    """What a data set's jobs share; ``missing`` says which file is missing and how to create it."""

    protocols: list[Protocol]
    split_hash: str
    fingerprint: str
    counts: dict[str, dict[str, int]]
    missing: str = ""
    corpus: Corpus | None = None


class CorpusSource(Interface):
    """Something that reads a corpus on demand: a data module, or a stand-in for one."""

    @property
    def corpus(self) -> Corpus:
        """The corpus; BadInput if the files are damaged, MissingInput if they are missing."""


def corpus_key(settings: Config) -> str:
    """A key that is equal for data module settings that read the same corpus."""
    chosen = {name: settings.get(name) for name in ("dataset", "validation")}
    chosen["on_bad_image"] = settings.get("images", {}).get("on_bad_image")
    return json.dumps(chosen, sort_keys=True, default=str)


def read_inputs(
    source: CorpusSource, dataset: str, wanted: str, corpora: dict[str, Inputs], settings: Config
) -> Inputs:
    """The inputs from a source whose data module has these settings, cached in ``corpora``.

    ``wanted`` is the protocol that the configuration is meant for; empty for all that match.
    """
    key = corpus_key(settings)
    if key in corpora:
        return corpora[key]
    try:
        corpus = source.corpus
    except MissingInput as error:
        # The protocol of the complete data: it is part of the job's id, by which a record is found.
        corpora[key] = Inputs(expected_protocols(dataset, wanted), "", "", {}, str(error))
        return corpora[key]
    corpora[key] = Inputs(
        protocols=fitting_protocols(corpus, wanted),
        split_hash=split_hash(items_of_test(corpus), id_scheme(corpus.name)),
        fingerprint=corpus.fingerprint,
        counts=corpus.counts(),
        corpus=corpus,
    )
    return corpora[key]


def fitting_protocols(corpus: Corpus, wanted: str = "") -> list[Protocol]:
    """The protocols to measure on the corpus's test split.

    ``wanted`` is the protocol that the corpus was read for, as in ``read_inputs``. If its split is another
    one, the protocol is called ``<wanted>-test``, so that the variants of a data set stay separate.

    If more than ``REPEATED`` of the test captions repeat a caption of another image, recalls that count equal
    inputs as equal answers are measured in addition to the first protocol; so are pairs that the user gave
    with the data set.
    """
    protocols = resolve_protocols(
        corpus.name,
        items_of_test(corpus),
        real_labels=corpus.labels is not None,
        identities=corpus.identities is not None,
    )
    if wanted and wanted not in [protocol.name for protocol in protocols]:
        resembling = [protocol for protocol in protocols if protocol.resembles == wanted]
        protocols = [replace((resembling or protocols)[0], name=f"{wanted}-test")]
    first = protocols[0]
    by_caption = first.positives == "caption" and "ranks" in first.families
    if by_caption and repeated_captions(corpus, "test") > REPEATED * len(corpus.caption_rows("test")):
        protocols.append(with_equal_inputs(first))
    pairs = given_pairs(corpus)
    if pairs is not None:
        items = items_of_test(corpus)
        protocols.append(with_given_pairs(first, pairs, items.image_ids, items.caption_ids or ()))
    return protocols


def matched_protocols(corpus: Corpus) -> list[Match]:
    """How well the corpus's test split matches that of each named protocol."""
    return matches(
        corpus.name,
        items_of_test(corpus),
        real_labels=corpus.labels is not None,
        identities=corpus.identities is not None,
    )


def protocol_lines(corpus: Corpus) -> list[str]:
    """The test split's protocols, how well it matches each named one, and how it is recognised."""
    protocols = fitting_protocols(corpus)
    names = " + ".join(protocol.label for protocol in protocols)
    doubt = " (split unverified)" if any(protocol.resembles for protocol in protocols) else ""
    found = matched_protocols(corpus)
    lines = [f"protocol {names}{doubt}", *(f"  {match.sentence}" for match in found)]
    items = items_of_test(corpus)
    scheme = id_scheme(corpus.name)
    if items.only_numbered(scheme):
        return lines
    known = describe(items, scheme)
    fields = ", ".join(f"{name}: {json.dumps(value)}" for name, value in vars(known).items() if value)
    lines.append(f"split {{{fields}}}")
    lines += [
        f"  if these are the files that {match.protocol.name} was published on, please open a pull request "
        f"with this line as {match.protocol.name}'s 'split' in evaluation/protocols/protocols.yaml, and say "
        "where the files are from"
        for match in found
        if match.counts_agree and not match.protocol.split.verifiable and match.protocol.judged is None
    ]
    return lines


def items_of_test(corpus: Corpus) -> SplitItems:
    """The images and captions of the corpus's test split."""
    images = corpus.image_rows("test")
    captions = corpus.caption_rows("test")

    def chosen(values: Sequence[str] | None) -> list[str] | None:
        return None if values is None else [values[row] for row in captions]

    return SplitItems(
        image_ids=[corpus.image_ids[row] for row in images],
        caption_image=np.searchsorted(images, corpus.caption_image[captions]),
        caption_ids=chosen(corpus.caption_ids),
        captions=chosen(corpus.captions),
        caption_keys=chosen(corpus.caption_keys),
    )
