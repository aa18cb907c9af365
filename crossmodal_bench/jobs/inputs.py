"""The data behind a plan: each corpus is read once, and its test split says which protocols it meets."""

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
"""The share of repeated test captions above which equal inputs have a protocol of their own."""


@dataclass(frozen=True)
class Inputs:
    """What a data set's jobs share; ``missing`` says which file is not there and what makes it."""

    protocols: list[Protocol]
    split_hash: str
    fingerprint: str
    counts: dict[str, dict[str, int]]
    missing: str = ""
    corpus: Corpus | None = None


class HasCorpus(Interface):
    """What reads a corpus when it is asked for it: a data module, or what stands for one."""

    @property
    def corpus(self) -> Corpus:
        """The corpus; BadInput where the files are damaged, MissingInput where they are not there."""


def corpus_key(settings: Config) -> str:
    """Equal for settings of the data module that read the same corpus."""
    chosen = {name: settings.get(name) for name in ("dataset", "validation")}
    chosen["on_bad_image"] = settings.get("images", {}).get("on_bad_image")
    return json.dumps(chosen, sort_keys=True, default=str)


def read_inputs(
    source: HasCorpus, dataset: str, wanted: str, corpora: dict[str, Inputs], settings: Config
) -> Inputs:
    """The inputs of what reads the corpus of a data module with these settings, kept in ``corpora``.

    ``wanted`` is the protocol that the configuration is meant for; empty for whichever fit.
    """
    key = corpus_key(settings)
    if key in corpora:
        return corpora[key]
    try:
        corpus = source.corpus
    except MissingInput as error:
        # The protocol that whole data would have: it is part of the job's id, by which a record is found.
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
    """What is measured on the corpus's test split.

    ``wanted`` is the protocol that the corpus was read for, as in ``read_inputs``. Where its split is another
    one, what is measured is called ``<wanted>-test``: the variants of a data set stay apart.

    Where more than ``REPEATED`` of the test captions say what a caption of another image says, the recalls
    with equal inputs as equal answers are measured beside the first protocol; and so are the pairs that a
    user has given with the data set.
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
    """How far the corpus's test split is that of each named protocol."""
    return matches(
        corpus.name,
        items_of_test(corpus),
        real_labels=corpus.labels is not None,
        identities=corpus.identities is not None,
    )


def protocol_lines(corpus: Corpus) -> list[str]:
    """By what the test split is measured, how far it is each named protocol's, and how it is recognised."""
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
        f"  if these are the files that {match.protocol.name} was published on, send this line in "
        f"a pull request, as {match.protocol.name}'s 'split' in evaluation/protocols/protocols.yaml, and say "
        "where they are from"
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
