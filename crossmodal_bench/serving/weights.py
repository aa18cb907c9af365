"""Export of a run's model: weights without code, preprocessing of new items, and a model card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import yaml
from safetensors.torch import save
from torch import Tensor

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput, printable
from crossmodal_bench.data.preprocessing import PreprocessingState
from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.encoders import Encoders
from crossmodal_bench.jobs.record import row_name, write_record
from crossmodal_bench.jobs.submission import portable, portable_config, portable_record
from crossmodal_bench.serving.trained_run import TrainedRun
from crossmodal_bench.training.trained_model import DATA, exported_state


def export_weights(run: TrainedRun, folder: Path) -> list[Path]:
    """Write ``model.safetensors``, ``model.json``, ``config.yaml``, ``record.json`` and ``README.md``.

    The folder works with `crossmodal-bench retrieve FOLDER --gallery PICTURES` and ``crossmodal_bench.load``
    on any machine. It contains no image and no caption; a vocabulary is a list of single words.

    Args:
        run: the run.
        folder: the target folder, created if missing.

    Returns:
        The files.

    Raises:
        BadInput: the run has no usable checkpoint, its configuration names folders of this machine, or the
            folder contains another run or cannot be written.
    """
    record = run.record
    files = JobDirectory(folder)
    if record.files.exported_weights.is_file():
        raise BadInput(f"{record.directory} is itself an exported run; copy that folder")
    if folder.resolve() == record.directory.resolve():
        raise BadInput(f"{folder} is the run's own folder; name another one")
    if files.record.exists() and not files.exported_weights.is_file():
        raise BadInput(f"{folder} is the folder of a run; name another one")
    weights, state = exported_state(record)
    config = portable_config(record)
    content = portable_record(record)
    # Only fields that may hold paths: a vocabulary may contain a word that looks like one.
    state["data_spec"] = portable(state["data_spec"], record)
    pieces = state[DATA]["preprocessing"]["wordpieces"]
    if pieces is not None:
        pieces["name"] = portable({"name": pieces["name"]}, record)["name"]
    # Tied weights share memory, which the format cannot express.
    plain = {name: value.detach().clone().contiguous() for name, value in weights.items()}
    card = model_card(run, plain)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = {
            files.exported_weights: save(plain, {"format": "pt"}),
            files.exported_state: json.dumps(state, indent=1).encode(),
            files.config: yaml.safe_dump(config, sort_keys=False).encode(),
            files.model_card: card.encode(),
        }
        for path, data in written.items():
            replace_file(path, lambda stream, data=data: stream.write(data))  # type: ignore[misc]
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be written ({error.strerror or error}); free space there, or name another"
        ) from error
    return [*written, write_record(folder, content)]


def model_card(run: TrainedRun, weights: dict[str, Tensor]) -> str:
    """The model card, in Markdown with the front matter that model hubs read."""
    return "\n".join(_card(run, weights)) + "\n"


def _card(run: TrainedRun, weights: dict[str, Tensor]) -> Iterator[str]:
    record = run.record
    job = record.job
    name = row_name(job.method, job.label, job.overrides)
    title = experiments.title_of(job.method) if job.method in experiments.names("methods") else job.method
    head = {
        "library_name": "crossmodal-bench",
        "license": "other",
        "license_name": "see-the-data",
        "tags": ["image-text-retrieval", "cross-modal-retrieval", job.method, job.dataset],
    }
    yield f"---\n{yaml.safe_dump(head, sort_keys=False)}---"
    yield f"\n# {_line(title)} on {_line(job.dataset)}\n"
    yield (
        f"Row `{_line(name)}`, preset `{job.preset}`, seed {job.seed}: an image-text retrieval model, "
        "trained and measured by crossmodal-bench."
    )
    yield "\n## Data\n"
    for split, counts in record.data.counts.items():
        yield f"- {split}: {counts['images']:,} images, {counts['captions']:,} captions"
    yield f"- fingerprint `{record.data.fingerprint}`, of the test split `{record.data.split_hash}`"
    yield f"- licence of the data: {_line(experiments.licence_of(job.dataset))}"
    yield "- The weights were trained on these data, whose owners may restrict their use."
    yield "\n## Numbers\n"
    for part in record.by_protocol():
        doubt = f" (split unverified: only its counts match {part.resembles})" if part.resembles else ""
        yield f"Protocol `{part.protocol_label}`, on the {part.evaluated_on} split{doubt}:\n"
        yield "| metric | value | 95 % interval on other images |\n|---|---|---|"
        for key in metric_table.in_order(part.metrics):
            if (metric_table.lookup(key).caption_rank or 1) > 1:
                continue
            value = metric_table.formatted(key, part.metrics[key])
            bounds = part.intervals.get(key)
            interval = ""
            if bounds is not None:
                interval = " to ".join(metric_table.formatted(key, bound) for bound in bounds)
            yield f"| {key} | {value} | {interval} |"
        yield ""
    yield (
        "Recalls are in percent, ranks start at 1, average precisions are fractions. Numbers under other "
        "protocols are not comparable."
    )
    yield "\n## Training\n"
    yield f"- checkpoint: {_line(record.selection.rule)}"
    for encoders in record.encoders:
        yield f"- {_encoders(encoders)}"
    for key, value in job.overrides.items():
        yield f"- `{_line(key)}` = `{_line(str(value))}`"
    yield f"- {sum(tensor.numel() for tensor in weights.values()):,} numbers in {len(weights)} tensors"
    made = ", ".join(f"{key} {value}" for key, value in record.environment.items() if key in _VERSIONS)
    yield f"- made with {_line(made)}, {record.finished_at}; sources `{record.source_fingerprint}`"
    yield "\n## Inputs\n"
    yield from (f"- {line}" for line in _inputs(run.preprocessing.state))
    for refusal in (run.preprocessing.refusal, run.pictures.refusal):
        if refusal:
            yield f"- {_line(refusal.partition(';')[0])}"
    yield "\n## Use\n"
    yield '```python\nimport crossmodal_bench as cb\n\nrun = cb.load("this folder")'
    if run.preprocessing.refusal:
        yield "run.metrics\n```"
    elif run.pictures.refusal:
        yield 'run.encode_texts(["a sentence"])\n```'
    else:
        yield 'run.search("a sentence", gallery="a folder of pictures", top=5)\n```'
    yield (
        "\nThe weights are in `model.safetensors`, which contains numbers and no code; `model.json` has the "
        "vocabulary, tokenizer and image transform; `config.yaml` names the classes; `record.json` has all "
        "the numbers above."
    )


_VERSIONS = ("python", "torch", "lightning", "transformers", "device", "precision")


def _encoders(part: Encoders) -> str:
    """``image: vgg19 (IMAGENET1K_V1), 4,096 wide; text: gru``."""
    sides = []
    if part.image is not None:
        network = part.image.network or "features of the data set"
        weights = f" ({part.image.weights})" if part.image.weights else ""
        sides.append(f"image: {network}{weights}, {part.image.dim:,} wide")
    if part.text is not None:
        encoder = part.text.encoder or "features of the data set"
        sides.append(f"text: {encoder}{f' ({part.text.weights})' if part.text.weights else ''}")
    return "; ".join(sides) or "encoders unknown"


def _inputs(preprocessing: PreprocessingState) -> Iterator[str]:
    own = f"as shipped with {preprocessing.dataset}"
    if preprocessing.words is not None:
        count = len(preprocessing.words.words)
        yield f"sentences, with a vocabulary of {count:,} words; other words carry no meaning"
    if preprocessing.wordpieces is not None:
        pieces = preprocessing.wordpieces
        yield f"sentences, as word pieces of {pieces.name or 'its own tokenizer'}, at most {pieces.limit}"
    if "bow" in preprocessing.requires:
        bag, tower = preprocessing.bag, preprocessing.text_tower
        if tower is not None:
            origin = f"{tower.network} ({tower.weights}, checksum {tower.weights_sha256})"
            yield f"sentences, by the text tower of {origin}, which must be available"
        elif bag is not None:
            yield f"sentences, as a bag of {len(bag.words):,} words"
        else:
            yield f"features of texts, {own}"
    size = f"{preprocessing.image_size} x {preprocessing.image_size} pixels ({preprocessing.image_fit})"
    if "pixels" in preprocessing.requires:
        yield f"pictures of {size}"
    for view, network in (("features", preprocessing.features), ("regions", preprocessing.regions)):
        if view not in preprocessing.requires:
            continue
        if network is None:
            what = "regions of images" if view == "regions" else "features of images"
            yield f"{what}, {own}"
        else:
            checksum = f"checksum {network.weights_sha256}"
            origin = f"{network.network} ({network.weights}, {checksum})"
            yield f"pictures, by {view} of {origin}, which must be available"


def _line(text: str) -> str:
    """Text from a file, made safe for use within a line of Markdown."""
    return printable(text).replace("|", "\\|").replace("`", "'")
