from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import crossmodal_bench as cb
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.serving.embeddings import evaluation_command, export_embeddings
from crossmodal_bench.serving.weights import export_weights

Trained = Callable[[str], Record]


@pytest.mark.parametrize(
    "method",
    [
        "cca",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("vse", "sm", "acmr", "timam", "vsrn")),
    ],
)
def test_evaluating_the_exported_vectors_gives_the_record_to_the_digit(
    method: str, trained: Trained, tmp_path: Path
) -> None:
    record = trained(method)
    run = cb.load(record.directory)
    files = export_embeddings(run, tmp_path / "out")
    assert [path.name for path in files] == ["images.npy", "texts.npy", "image_ids.txt", "caption_ids.txt"]
    images, texts, image_ids, caption_ids = files
    assert run.model.vector_similarity is not None
    scored = cb.evaluate_embeddings(
        images,
        texts,
        image_ids=image_ids,
        caption_ids=caption_ids,
        similarity=run.model.vector_similarity,
        dataset="synthetic-20",
        data_root=tmp_path,
    )
    ours = {key: value for key, value in record.metrics.items() if not key.startswith("written/")}
    assert dict(scored.metrics[record.job.protocol]) == ours
    assert {k: tuple(v) for k, v in scored.intervals[record.job.protocol].items()} == {
        key: tuple(bounds) for key, bounds in record.intervals.items()
    }
    command = evaluation_command(run, tmp_path / "out")
    assert f"--similarity {run.model.vector_similarity}" in command and "--dataset synthetic-20" in command
    vectors = np.load(texts)
    sentences = [line for line in (tmp_path / "out" / "caption_ids.txt").read_text().splitlines()]
    assert vectors.dtype == np.float32 and len(vectors) == len(sentences)


def test_new_sentences_are_in_the_space_of_the_export(trained: Trained, tmp_path: Path) -> None:
    run = cb.load(trained("vse").directory)
    export_embeddings(run, tmp_path)
    images = np.load(tmp_path / "images.npy")
    query = run.vectors_of_texts(["a red circle at the top left"])
    cosines = (images @ query[0]) / np.linalg.norm(images, axis=1) / np.linalg.norm(query[0])
    best = run.search("a red circle at the top left", top=1)[0]
    ids = (tmp_path / "image_ids.txt").read_text().splitlines()
    assert ids[int(cosines.argmax())] == best.id
    assert abs(float(cosines.max()) - best.score) < 1e-5


@pytest.mark.slow
def test_methods_that_compare_otherwise_are_told(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="scan does not score by one vector per image"):
        export_embeddings(cb.load(trained("scan").directory), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_told(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--format is 'numpy'"):
        export_embeddings(cb.load(trained("vse").directory), tmp_path / "out", "numpy")


def test_parquet_holds_ids_captions_and_vectors(trained: Trained, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run = cb.load(trained("vse").directory)
    export_embeddings(run, tmp_path, "npy")
    images, texts = export_embeddings(run, tmp_path, "parquet")
    table = parquet.read_table(texts).to_pydict()
    assert list(table) == ["id", "image", "caption", "vector"]
    np.testing.assert_array_equal(np.array(table["vector"], np.float32), np.load(tmp_path / "texts.npy"))
    assert table["id"][0].startswith(table["image"][0]) and " " in table["caption"][0]
    assert parquet.read_table(images).to_pydict()["id"] == (tmp_path / "image_ids.txt").read_text().split()


def test_exported_weights_answer_anywhere_and_the_card_says_what_they_are(
    trained: Trained, tmp_path: Path
) -> None:
    record = trained("cca")
    run = cb.load(record.directory)
    folder = tmp_path / "handed out"
    files = export_weights(run, folder)
    assert {path.name for path in files} == {
        "model.safetensors",
        "model.json",
        "config.yaml",
        "README.md",
        "record.json",
    }
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in run.model.state_dict().items())
    again = cb.load(folder)
    sentences = ["a red circle", "a small blue box over snow"]
    assert torch.equal(again.encode_texts(sentences).values, run.encode_texts(sentences).values)
    assert dict(again.metrics) == dict(run.metrics)
    with pytest.raises(BadInput, match=r"is an exported run without its test split; .* --gallery"):
        again.search("a red circle")
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: crossmodal-bench")
    for part in (
        "synthetic-test@1",
        record.data.fingerprint,
        "MIT",
        "| rsum |",
        "bag of",
        "solved in closed form",
    ):
        assert part in card, part
    assert str(Path.cwd()) not in card + (folder / "config.yaml").read_text()
    with pytest.raises(BadInput, match="is itself an exported run"):
        export_weights(again, tmp_path / "twice")
    with pytest.raises(BadInput, match="own folder"):
        export_weights(run, record.directory)
    assert list(tmp_path.glob("twice")) == []


@pytest.mark.slow
def test_a_hostile_export_is_refused(trained: Trained, tmp_path: Path) -> None:
    export_weights(cb.load(trained("cca").directory), tmp_path / "out")
    state = json.loads((tmp_path / "out" / "model.json").read_text())
    for name, damage in {
        "no json": lambda path: path.write_text("{"),
        "no words": lambda path: path.write_text(
            json.dumps({**state, "CrossModalDataModule": {"preprocessing": {"words": 3}}})
        ),
        "other sizes": lambda path: path.write_text(
            json.dumps({**state, "data_spec": {**state["data_spec"], "bow_dim": 3}})
        ),
        "no weights": lambda path: (path.parent / "model.safetensors").write_bytes(b"x" * 100),
    }.items():
        copy = shutil.copytree(tmp_path / "out", tmp_path / name)
        damage(copy / "model.json")
        with pytest.raises(BadInput):
            cb.load(copy)
