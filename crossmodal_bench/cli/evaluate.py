"""`crossmodal-bench evaluate`: your own model, by its vectors or scores; needs no Lightning."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from crossmodal_bench.core.errors import tell

if TYPE_CHECKING:
    from crossmodal_bench.jobs.given.scored import Scored

EPILOG = (
    "Id files have one id per line (or are .npy, or a list in .json). Without ids the split cannot be "
    "verified: the row is then <dataset>-test (split unverified), which no published number is compared with."
)

_FILES = {
    "images": ("FILE.npy", "(N, D) vectors of the images, in float16, float32 or float64"),
    "texts": ("FILE.npy", "(M, D) vectors of the captions"),
    "scores": ("FILE.npy", "(N, M) scores instead of vectors, higher is better; read tile by tile"),
    "image_ids": ("FILE", "N ids; rows in a different order from the data set's are reordered"),
    "caption_ids": ("FILE", "M ids, e.g. IMAGE#0, IMAGE#1, ..."),
    "caption_image": ("FILE", "for each caption the row or id of its image, if the ids don't tell"),
    "positives": (
        "FILE",
        "(P, 2) .npy, or lines image,caption: rows or ids of the correct pairs, instead of --caption-image",
    ),
    "labels": (
        "FILE",
        "one class per image (or a multi-hot row), for protocols by label, if the data set has none",
    ),
    "identities": ("FILE", "the person in each image, for protocols by identity, if the data set has none"),
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """All arguments of ``evaluate_embeddings`` except a scorer."""
    command.epilog = EPILOG
    for name, (metavar, text) in _FILES.items():
        command.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar=metavar, help=text)
    text = "similarity of vectors: cosine, dot, or euclidean (negative distance) (cosine)"
    command.add_argument("--similarity", default="cosine", metavar="NAME", help=text)
    text = "a named protocol, e.g. flickr30k-1k; or a data set's name, for the one its split matches"
    command.add_argument("--protocol", default="", metavar="NAME", help=text)
    text = "the data set, if the protocol doesn't determine it; any name for your own data"
    command.add_argument("--dataset", default="", metavar="NAME", help=text)
    text = "folder of the data sets: if it has this one, ids are looked up there (data, if it exists)"
    command.add_argument("--data-root", type=Path, metavar="FOLDER", help=text)
    command.add_argument("--name", default="my-model", help="name of the model in tables (my-model)")
    text = "seeds of the same name are averaged into one row (0)"
    command.add_argument("--seed", type=int, default=0, help=text)


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate vectors or scores, write the record, print the metrics."""
    from crossmodal_bench.jobs.given.scored import evaluate_embeddings

    scored = evaluate_embeddings(
        **{name: getattr(arguments, name) for name in _FILES},
        similarity=arguments.similarity,
        protocol=arguments.protocol,
        dataset=arguments.dataset,
        data_root=arguments.data_root,
        name=arguments.name,
        seed=arguments.seed,
        runs=arguments.runs,
    )
    for line in lines(scored):
        tell(line)
    return 0


def lines(scored: Scored) -> Iterator[str]:
    """The printed result: assumptions made, metrics, and location of the record."""
    from crossmodal_bench.evaluation import metric_table

    for remark in scored.remarks:
        yield f"Note: {remark}"
    for protocol in scored.protocols:
        metrics, intervals = scored.metrics[protocol.name], scored.intervals[protocol.name]
        images, captions = scored.query_results[protocol.name].sizes
        doubt = " (split unverified)" if protocol.resembles else ""
        yield f"{protocol.label}{doubt}, {images:,} images, {captions:,} captions"
        for key in metric_table.in_order(set(metrics)):
            # The record also has the metrics of captions further down the list.
            if (metric_table.lookup(key).caption_rank or 1) > 1:
                continue
            value = f"  {key:12s} {metric_table.formatted(key, metrics[key]):>8s}"
            if key in intervals:
                low, high = (metric_table.formatted(key, bound) for bound in intervals[key])
                value += f"  [{low}, {high}]"
            yield value
    yield "In brackets: the 95 % interval of this model on other images."
    if scored.record is not None:
        there = ", which already existed, from exactly these inputs" if scored.already_there else ""
        yield f"Record: {scored.record.directory}{there}"
        yield f"Compare with others: crossmodal-bench report --runs {scored.record.directory.parents[2]}"
