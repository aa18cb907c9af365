"""`crossmodal-bench evaluate`: a model from elsewhere, by its vectors or scores; without Lightning."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from crossmodal_bench.core.errors import tell

if TYPE_CHECKING:
    from crossmodal_bench.jobs.given.scored import Scored

EPILOG = (
    "Files of ids have one a line (or are .npy, or a list in .json). Without ids nobody can tell which split "
    "this is: the row is then <dataset>-test (split unverified), beside which no published number stands."
)

_FILES = {
    "images": ("FILE.npy", "(N, D) vectors of the images, in float16, float32 or float64"),
    "texts": ("FILE.npy", "(M, D) vectors of the captions"),
    "scores": ("FILE.npy", "(N, M) scores instead of vectors, higher is better; read tile by tile"),
    "image_ids": ("FILE", "N ids; rows in another order than the data set's are reordered by them"),
    "caption_ids": ("FILE", "M ids, as IMAGE#0, IMAGE#1, ..."),
    "caption_image": ("FILE", "for each caption the row or the id of its image, where ids don't say it"),
    "positives": (
        "FILE",
        "(P, 2) .npy, or lines image,caption: rows or ids of what is right, in place of that",
    ),
    "labels": (
        "FILE",
        "a class for each image (or a multi-hot row), for protocols by label, where the data set gives none",
    ),
    "identities": ("FILE", "whom each image shows, for protocols by identity, where the data set gives none"),
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Everything that ``evaluate_embeddings`` takes but a scorer."""
    command.epilog = EPILOG
    for name, (metavar, text) in _FILES.items():
        command.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar=metavar, help=text)
    text = "of vectors: cosine, dot, or euclidean (minus the distance) (cosine)"
    command.add_argument("--similarity", default="cosine", metavar="NAME", help=text)
    text = "a named protocol, as flickr30k-1k; or a data set's name, for whichever its split meets"
    command.add_argument("--protocol", default="", metavar="NAME", help=text)
    text = "the data set, where the protocol doesn't say it; any name for data of one's own"
    command.add_argument("--dataset", default="", metavar="NAME", help=text)
    text = "folder of the data sets: where this one is in it, ids are looked up there (data, if it is there)"
    command.add_argument("--data-root", type=Path, metavar="FOLDER", help=text)
    command.add_argument("--name", default="my-model", help="of the model, in tables (my-model)")
    text = "several seeds of one name are averaged into one row (0)"
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
    """What is printed of a result: what was taken for granted, the metrics, where the record is."""
    from crossmodal_bench.evaluation import metric_table

    for remark in scored.remarks:
        yield f"Note: {remark}"
    for protocol in scored.protocols:
        metrics, intervals = scored.metrics[protocol.name], scored.intervals[protocol.name]
        images, captions = scored.query_results[protocol.name].sizes
        doubt = " (split unverified)" if protocol.resembles else ""
        yield f"{protocol.label}{doubt}, {images:,} images, {captions:,} captions"
        for key in metric_table.in_order(set(metrics)):
            # Of captions further down the list the record knows, too.
            if (metric_table.lookup(key).caption_rank or 1) > 1:
                continue
            value = f"  {key:12s} {metric_table.formatted(key, metrics[key]):>8s}"
            if key in intervals:
                low, high = (metric_table.formatted(key, bound) for bound in intervals[key])
                value += f"  [{low}, {high}]"
            yield value
    yield "In brackets: the 95 % interval of this model on other images."
    if scored.record is not None:
        there = ", which was there already, of exactly these inputs" if scored.already_there else ""
        yield f"Record: {scored.record.directory}{there}"
        yield f"Beside others: crossmodal-bench report --runs {scored.record.directory.parents[2]}"
