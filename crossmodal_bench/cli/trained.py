"""`retrieve`, `export-embeddings` and `export-weights`: commands that use a trained run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossmodal_bench.bench.options import plugin_names
from crossmodal_bench.core.errors import BadInput, tell

if TYPE_CHECKING:
    from crossmodal_bench.data.features import Progress
    from crossmodal_bench.serving.trained_run import TrainedRun

RUN = (
    "a job's directory or record.json, DATASET/METHOD in RUNS (if a single job), or an export-weights folder"
)


def add_retrieve_arguments(command: argparse.ArgumentParser) -> None:
    """Options of `retrieve`, besides those of a bench."""
    command.add_argument("run_name", metavar="RUN", help=RUN)
    query = command.add_mutually_exclusive_group(required=True)
    query.add_argument("--text", help="a sentence, to find images")
    query.add_argument("--image", type=Path, metavar="FILE", help="a picture, to find sentences")
    text = (
        "a folder of pictures (with --text), or sentences, one per line (with --image); default: the split "
    )
    command.add_argument("--gallery", type=Path, metavar="FOLDER", help=f"{text}the run was tested on")
    command.add_argument("--top", type=int, default=10, help="number of answers (10)")
    command.add_argument("--html", type=Path, metavar="FILE", help="also write a page with the pictures")
    command.add_argument("--device", default="auto", help="auto, cpu or cuda")
    command.add_argument("--json", action="store_true", help="print JSON")


def add_export_arguments(command: argparse.ArgumentParser, default: str) -> None:
    """Options shared by both exports."""
    command.add_argument("run_name", metavar="RUN", help=RUN)
    command.add_argument(
        "--to", type=Path, default=Path(default), metavar="FOLDER", help=f"target folder ({default})"
    )


def retrieve(arguments: argparse.Namespace) -> int:
    """Print the best matches for a sentence or a picture."""
    if arguments.top < 1:
        raise BadInput(f"--top is {arguments.top}; give the number of answers to show, at least 1")
    run = _loaded(arguments)
    remarks = run.word_remarks(arguments.text) if arguments.text is not None else []
    for remark in remarks:
        tell(f"Note: {remark}", sys.stderr)
    of_pictures = arguments.text is not None
    # A bad query must fail before a gallery is encoded.
    query = run.encoded_query(arguments.text, image=arguments.image)
    with _progress("Encoding the gallery") as progress:
        searched = run.gallery(arguments.gallery, of_pictures=of_pictures, progress=progress)
    answers = run.answers(query, searched, of_pictures=of_pictures, top=arguments.top)
    if arguments.html is not None:
        _write_page(arguments, run, remarks, answers, searched)
    if arguments.json:
        content = {
            "run": str(run.record.directory),
            "query": arguments.text if of_pictures else str(arguments.image),
            "gallery": searched.described,
            "unknown_words": run.unknown_words(arguments.text) if of_pictures else [],
            "answers": [asdict(answer) for answer in answers],
        }
        print(json.dumps(content, indent=1))
        return 0
    tell(f"{run!r}, of {searched.described}:")
    width = max(len(answer.id) for answer in answers)
    for answer in answers:
        caption = answer.captions[0] if answer.captions else ""
        more = f" (+{len(answer.captions) - 1})" if len(answer.captions) > 1 else ""
        tell(f"{answer.rank:4d}  {answer.score:9.4f}  {answer.id:{width}s}  {caption}{more}".rstrip())
    if arguments.html is not None:
        tell(f"Page: {arguments.html}")
    return 0


def _write_page(
    arguments: argparse.Namespace, run: TrainedRun, remarks: list[str], answers: Any, searched: Any
) -> None:
    from crossmodal_bench.core.atomic_files import replace_file
    from crossmodal_bench.data.images import ImageFiles
    from crossmodal_bench.serving.answer_page import answer_page

    picture = None if arguments.image is None else ImageFiles([arguments.image])[0]
    title = arguments.text if arguments.text is not None else arguments.image.name
    page = answer_page(title, [f"{run!r}, of {searched.described}", *remarks], answers, searched, picture)
    try:
        arguments.html.parent.mkdir(parents=True, exist_ok=True)
        replace_file(arguments.html, lambda stream: stream.write(page.encode()))
    except OSError as error:
        raise BadInput(
            f"--html {arguments.html} cannot be written ({error.strerror or error}); name another file"
        ) from error


def export_embeddings(arguments: argparse.Namespace) -> int:
    """Write the vectors of the split a run was tested on."""
    run = _loaded(arguments)
    from crossmodal_bench.serving.embeddings import evaluation_command, export_embeddings

    for path in export_embeddings(run, arguments.to, arguments.format):
        tell(str(path))
    if arguments.format == "npy" and run.record.evaluated_on == "test":
        tell(f"To reproduce the run's numbers from these files: {evaluation_command(run, arguments.to)}")
    return 0


def export_weights(arguments: argparse.Namespace) -> int:
    """Write a run's weights with a model card."""
    run = _loaded(arguments)
    from crossmodal_bench.serving.weights import export_weights

    for path in export_weights(run, arguments.to):
        tell(str(path))
    tell(f"Search with it: crossmodal-bench retrieve {arguments.to} --text '...' --gallery PICTURES")
    return 0


def _loaded(arguments: argparse.Namespace) -> TrainedRun:
    from crossmodal_bench.serving.trained_run import load

    return load(
        arguments.run_name,
        data_root=arguments.data_root,
        runs=arguments.runs,
        device=getattr(arguments, "device", "auto"),
        plugins=plugin_names(arguments.plugins),
    )


@contextmanager
def _progress(what: str) -> Iterator[Progress]:
    """A progress bar on standard error, shown from the first step and removed at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
