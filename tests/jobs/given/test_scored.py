"""A model from elsewhere gets the very numbers that the bench gives its own."""

from __future__ import annotations

import dataclasses
import gzip
import inspect
import json
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from plugins import fenced
from torch import Tensor

import crossmodal_bench
from crossmodal_bench import evaluate_embeddings
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.bench.reproduction import Repetition, reproduce
from crossmodal_bench.cli.main import main
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.datasets import Synthetic
from crossmodal_bench.evaluation import PROTOCOLS, Ranks, evaluate, get_protocol, resolve_protocols
from crossmodal_bench.evaluation.items import items_of
from crossmodal_bench.evaluation.protocols.protocol import own_protocol
from crossmodal_bench.jobs.fingerprints.fingerprint import Fingerprint
from crossmodal_bench.jobs.given import galleries
from crossmodal_bench.jobs.given.files import read_ids
from crossmodal_bench.jobs.given.identification import identify
from crossmodal_bench.jobs.record import Record, read_record, write_record
from crossmodal_bench.jobs.submission import submit
from crossmodal_bench.jobs.verification import check_record
from crossmodal_bench.reporting.rows.leaderboard import leaderboard, tables
from crossmodal_bench.reporting.tables.layout import notes
from crossmodal_bench.training.trained_model import encode
from crossmodal_bench.training.worker import run_job

N, EACH, WIDTH = 12, 2, 6
COCO = Path(__file__).parents[2] / "golden" / "coco_karpathy_test.txt.gz"


@dataclass(frozen=True)
class OwnRun:
    """A finished job of the bench, with the vectors of its test split as files."""

    record: Record
    images: NDArray[np.float32]
    texts: NDArray[np.float32]
    image_ids: list[str]
    caption_ids: list[str]
    similarity: str

    def write(self, folder: Path) -> list[str]:
        """Leave everything in a folder; the words that name it."""
        np.save(folder / "a.npy", self.images)
        np.save(folder / "b.npy", self.texts)
        (folder / "images.txt").write_text("\n".join(self.image_ids) + "\n", encoding="utf-8")
        (folder / "captions.json").write_text(json.dumps(self.caption_ids), encoding="utf-8")
        files = {
            "--images": "a.npy",
            "--texts": "b.npy",
            "--image-ids": "images.txt",
            "--caption-ids": "captions.json",
        }
        words = [word for option, name in files.items() for word in (option, str(folder / name))]
        return [*words, "--similarity", self.similarity, "--runs", str(folder / "runs")]

    @property
    def ids(self) -> dict[str, list[str]]:
        return {"image_ids": self.image_ids, "caption_ids": self.caption_ids}


@pytest.fixture(scope="module")
def own_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OwnRun]:
    """CCA, which ranks by cosine, and ACMR, which ranks by distance, on synthetic-tiny."""
    runs = tmp_path_factory.mktemp("own") / "runs"
    short = {"trainer.max_epochs": 2, "data.batch_size": 16}
    found = {}
    for planned in make_plan(
        BenchOptions(dataset="synthetic-tiny", runs=runs, methods="cca,acmr", seeds=1, overrides=short),
        gpu=False,
    ):
        planned.directory.mkdir(parents=True)
        run_job(planned, "cpu")
        record = read_record(planned.directory)
        encoded = encode(record, Path("data"), runs / "cache", {})
        found[record.job.method] = OwnRun(
            record,
            encoded.member.images.values.numpy(),
            encoded.member.texts.values.numpy(),
            *encoded.items("test"),
            similarity={"cca": "cosine", "acmr": "euclidean"}[record.job.method],
        )
    return found


def assert_same_results(record: Record, own: Record) -> None:
    """Metrics, intervals and per-query results, to the digit."""
    for part, theirs in zip(record.by_protocol(), own.by_protocol(), strict=True):
        assert part.protocol_label == theirs.protocol_label
        assert part.metrics == theirs.metrics
        assert part.intervals == theirs.intervals
        assert part.curves == theirs.curves
        assert (part.resembles, part.dropped) == (theirs.resembles, theirs.dropped)
        with np.load(part.ranks) as ours, np.load(theirs.ranks) as other:
            assert ours.files == other.files
            for name in ours.files:
                np.testing.assert_array_equal(ours[name], other[name], err_msg=name)


def only_record(runs: Path) -> Record:
    (path,) = runs.glob("*/*/*/record.json")
    return read_record(path)


@pytest.mark.parametrize("method", ["cca", "acmr"])
def test_vectors_of_our_own_run_give_its_record_to_the_digit(
    own_runs: dict[str, OwnRun], method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = own_runs[method]
    words = own.write(tmp_path)
    assert main(["evaluate", *words, "--protocol", "synthetic-tiny", "--name", "mine"]) == 0
    record = only_record(tmp_path / "runs")
    assert record.directory == tmp_path / "runs" / "synthetic-tiny" / "mine" / record.job.id
    assert_same_results(record, own.record)
    for field in ("fingerprint", "split_hash", "counts", "labels"):
        assert getattr(record.data, field) == getattr(own.record.data, field)
    assert (record.job.preset, record.job.protocol, record.encoders) == ("given", "synthetic-tiny", ())
    printed = capsys.readouterr().out
    assert "synthetic-tiny@1, 48 images, 144 captions" in printed and str(record.directory) in printed
    low, high = record.intervals["rsum"]
    assert f"{record.metrics['rsum']:.1f}  [{low:.1f}, {high:.1f}]" in printed


def test_permuted_rows_are_put_in_order_by_their_ids(own_runs: dict[str, OwnRun], tmp_path: Path) -> None:
    own = own_runs["cca"]
    rng = np.random.default_rng(0)
    images, texts = rng.permutation(len(own.images)), rng.permutation(len(own.texts))
    scored = evaluate_embeddings(
        own.images[images],
        own.texts[texts],
        image_ids=[own.image_ids[row] for row in images],
        # Another spelling of the same captions.
        caption_ids=[own.caption_ids[row] for row in texts],
        protocol="synthetic-tiny",
        runs=tmp_path,
    )
    assert scored.record is not None and not scored.already_there
    assert_same_results(scored.record, own.record)
    # In order they are the same inputs.
    again = evaluate_embeddings(own.images, own.texts, **own.ids, protocol="synthetic-tiny", runs=tmp_path)
    assert again.already_there and again.record is not None and again.record.job == scored.record.job
    assert again.metrics == scored.metrics and again.intervals == scored.intervals


def test_a_matrix_a_scorer_and_vectors_are_ranked_alike(
    own_runs: dict[str, OwnRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = own_runs["cca"]
    rng = np.random.default_rng(1)
    images, texts = rng.permutation(len(own.images)), rng.permutation(len(own.texts))
    values = (
        torch.nn.functional.normalize(torch.from_numpy(own.images)),
        torch.nn.functional.normalize(torch.from_numpy(own.texts)),
    )
    np.save(tmp_path / "s.npy", (values[0] @ values[1].T).numpy()[images][:, texts])
    ids = {
        "image_ids": [own.image_ids[row] for row in images],
        "caption_ids": [own.caption_ids[row] for row in texts],
    }
    # What may be larger than memory is mapped.
    monkeypatch.setattr(galleries, "load_npy", lambda path: pytest.fail(f"{path} was read whole"))
    by_matrix = evaluate_embeddings(
        scores=tmp_path / "s.npy", **ids, protocol="synthetic-tiny", runs=tmp_path
    )

    def cosine(left: Encoding, right: Encoding) -> Tensor:
        return torch.nn.functional.normalize(left.values) @ torch.nn.functional.normalize(right.values).T

    by_scorer = evaluate_embeddings(
        Encoding(torch.from_numpy(own.images)),
        Encoding(torch.from_numpy(own.texts)),
        scorer=cosine,
        **own.ids,
        protocol="synthetic-tiny",
        name="by-scorer",
        runs=tmp_path,
    )
    assert by_scorer.record is not None and by_matrix.record is not None
    assert_same_results(by_scorer.record, own.record)
    assert by_matrix.metrics["synthetic-tiny"] == pytest.approx(own.record.metrics)
    np.testing.assert_array_equal(Ranks.load(by_matrix.record.ranks).t2i, Ranks.load(own.record.ranks).t2i)
    again = evaluate_embeddings(
        own.images,
        own.texts,
        scorer=cosine,
        **own.ids,
        protocol="synthetic-tiny",
        name="by-scorer",
        runs=tmp_path,
    )
    assert again.already_there


def test_without_ids_the_row_is_unverified(own_runs: dict[str, OwnRun], tmp_path: Path) -> None:
    own = own_runs["cca"]
    scored = evaluate_embeddings(own.images, own.texts, protocol="synthetic-tiny", runs=tmp_path)
    (protocol,) = scored.protocols
    assert (protocol.label, protocol.resembles) == ("synthetic-test@1", "synthetic-tiny")
    assert any("split unverified" in remark for remark in scored.remarks)
    ranked = {key: value for key, value in own.record.metrics.items() if key in own.record.intervals}
    assert scored.metrics["synthetic-test"].items() >= ranked.items()
    assert not any("BLEU" in key for key in scored.metrics["synthetic-test"])
    # Nor where the captions' images are only taken for granted.
    half = evaluate_embeddings(own.images, own.texts, image_ids=own.image_ids, protocol="synthetic-tiny")
    assert half.protocols[0].label == "synthetic-test@1"
    stated = evaluate_embeddings(
        own.images,
        own.texts[::-1].copy(),
        image_ids=own.image_ids,
        caption_image=[name.partition("#")[0] for name in reversed(own.caption_ids)],
        protocol="synthetic-tiny",
    )
    assert stated.protocols[0].label == "synthetic-tiny@1"
    # An image's captions come in another order, in which means are rounded otherwise.
    found = stated.metrics["synthetic-tiny"]
    assert {key: found[key] for key in ranked} == pytest.approx(ranked, rel=1e-12)


def tiny() -> tuple[dict[str, Any], NDArray[np.int64], NDArray[np.int64]]:
    """A model that errs nowhere on synthetic-tiny, with ids; and an order of images, captions with them."""
    items = items_of(Synthetic("tiny").read(Path("data")), "test")
    assert items.owner is not None
    rng = np.random.default_rng(0)
    images = rng.normal(size=(len(items.image_ids), 32)).astype(np.float32)
    rows = rng.permutation(len(images))
    each = len(items.caption_ids) // len(images)
    words = {
        "images": images,
        "texts": images[items.owner],
        "image_ids": np.array(items.image_ids),
        "caption_ids": np.array(items.caption_ids),
    }
    return words, rows, (rows[:, None] * each + np.arange(each)).ravel()


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("caption_ids", "give their ids too (--caption-ids)"),
        ("image_ids", "give their ids too (--image-ids)"),
    ],
)
def test_ids_of_one_side_do_not_make_the_other_sides_order(missing: str, sentence: str) -> None:
    words, rows, columns = tiny()
    permuted = {
        name: values[columns if name in ("texts", "caption_ids") else rows] for name, values in words.items()
    }
    whole = evaluate_embeddings(**permuted, protocol="synthetic-tiny")
    assert whole.metrics["synthetic-tiny"]["rsum"] == pytest.approx(600)
    del permuted[missing], words[missing]
    with pytest.raises(BadInput) as refused:
        evaluate_embeddings(**permuted, protocol="synthetic-tiny")
    assert sentence in str(refused.value)
    in_order = evaluate_embeddings(**words, protocol="synthetic-tiny")
    assert in_order.metrics["synthetic-test"]["rsum"] == pytest.approx(600)


def test_captions_that_name_images_are_not_taken_in_blocks_that_contradict_them() -> None:
    images = vectors()[0]
    texts = np.concatenate([images] * EACH)
    captions = [f"img{row}#{k}" for k in range(EACH) for row in range(N)]
    with pytest.raises(
        BadInput, match=r"by its place, caption 'img1#0' describes image 0, but .*--image-ids"
    ):
        evaluate_embeddings(images, texts, caption_ids=captions, dataset="mine")
    with pytest.raises(BadInput, match=r"by caption_image, caption 'img1#0' describes image 0"):
        owner = np.arange(N).repeat(EACH)
        evaluate_embeddings(images, texts, caption_ids=captions, caption_image=owner, dataset="mine")
    words = {"caption_ids": captions, "dataset": "mine"}
    stated = evaluate_embeddings(images, texts, **words, caption_image=np.tile(np.arange(N), EACH))
    named = evaluate_embeddings(images, texts, **words, image_ids=[f"img{row}" for row in range(N)])
    assert stated.metrics["mine-test"]["rsum"] == named.metrics["mine-test"]["rsum"] == pytest.approx(600)
    in_blocks = [f"img{row}#{k}" for row in range(N) for k in range(EACH)]
    blocks = evaluate_embeddings(images, images.repeat(EACH, 0), caption_ids=in_blocks, dataset="mine")
    assert blocks.metrics["mine-test"]["rsum"] == pytest.approx(600)


def test_it_is_called_evaluate_too() -> None:
    assert crossmodal_bench.evaluate is evaluate_embeddings


def test_it_can_be_sent_in_and_says_why_it_cannot_be_run_again(tmp_path: Path) -> None:
    ids = {"image_ids": [f"img{row}" for row in range(N)], "dataset": "mine", "runs": tmp_path / "runs"}
    record = evaluate_embeddings(*vectors(), **ids).record
    assert record is not None and record.environment["precision"] == "float32"
    (submitted,) = submit([record], tmp_path / "results")
    copy = read_record(submitted.directory)
    assert check_record(copy) == [] and copy.metrics == record.metrics
    assert sorted(path.name for path in submitted.directory.iterdir()) == ["ranks.npz", "record.json"]
    with pytest.raises(BadInput, match=r"is a model from elsewhere, which cannot be rerun here; pass its"):
        reproduce([copy], Repetition(tmp_path / "again", tmp_path))
    made_from = {**record.content["made_from"], "settings": {}}
    old = {name: value for name, value in record.content.items() if name != "schema"}
    old |= {"made_from": made_from, "source_fingerprint": Fingerprint(**made_from).digest}
    stale = read_record(write_record(record.directory, old))
    with pytest.raises(BadInput, match=r"is stale: .*given; evaluate its vectors again"):
        submit([stale], tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda ids: ids["image_ids"].__setitem__(3, "scene9"), "1 of 48 images are not in the test split"),
        (lambda ids: ids["caption_ids"].__setitem__(3, "x#0"), "1 of 144 captions are not in the test split"),
        (lambda ids: ids["image_ids"].__setitem__(3, ids["image_ids"][7]), "occurs twice (items 3 and 7)"),
        (
            lambda ids: ids["image_ids"].__setitem__(3, f"images/{ids['image_ids'][7]}.png"),
            "are not in the test split",
        ),
        (lambda ids: ids["image_ids"].pop(), "has shape (47,) for 48 images"),
        (lambda ids: ids["caption_ids"].__setitem__(3, " "), "caption_ids: id 3 is ' ', which is not a name"),
        (
            lambda ids: ids.update(caption_image=[0] * 144),
            "has another image than in synthetic",
        ),
    ],
)
def test_wrong_ids_are_refused_and_never_guessed(
    own_runs: dict[str, OwnRun], change: Callable[[dict[str, Any]], None], sentence: str, tmp_path: Path
) -> None:
    own = own_runs["cca"]
    ids: dict[str, Any] = {name: list(values) for name, values in own.ids.items()}
    change(ids)
    with pytest.raises(BadInput) as refused:
        evaluate_embeddings(own.images, own.texts, **ids, protocol="synthetic-tiny", runs=tmp_path)
    assert sentence in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_missing_items_are_counted(own_runs: dict[str, OwnRun]) -> None:
    own = own_runs["cca"]
    with pytest.raises(BadInput, match=r"1 of 48 test images of synthetic are missing \('scene000208'\)"):
        evaluate_embeddings(
            own.images[1:],
            own.texts[3:],
            image_ids=own.image_ids[1:],
            caption_ids=own.caption_ids[3:],
            protocol="synthetic-tiny",
        )


def vectors(rng: np.random.Generator | None = None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """N images and their captions, which lie near them."""
    rng = rng or np.random.default_rng(3)
    images = rng.normal(size=(N, WIDTH)).astype(np.float32)
    texts = images.repeat(EACH, 0) + rng.normal(size=(N * EACH, WIDTH)).astype(np.float32)
    return images, texts


def test_random_vectors_reach_chance_and_a_collapsed_model_exactly() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(1000, 16)).astype(np.float16)
    texts = rng.normal(size=(5000, 16)).astype(np.float16)
    drawn = evaluate_embeddings(images, texts, protocol="flickr30k-1k")
    metrics = drawn.metrics["flickr30k-test"]
    assert metrics["i2t/R@1"] < 0.7 and metrics["t2i/R@1"] < 0.4
    assert metrics["t2i/MeanR"] == pytest.approx(500.5, rel=0.05)
    assert metrics["t2i/R@10"] == pytest.approx(1.0, abs=0.5)
    collapsed = evaluate_embeddings(np.ones((1000, 2)), np.ones((5000, 2)), protocol="flickr30k-1k")
    metrics = collapsed.metrics["flickr30k-test"]
    assert metrics["i2t/R@1"] == pytest.approx(0.1) and metrics["t2i/R@10"] == pytest.approx(1.0)


def test_the_similarities_are_what_they_are_called() -> None:
    images, texts = vectors()
    matrices = {
        "cosine": images @ texts.T / np.linalg.norm(images, axis=1)[:, None] / np.linalg.norm(texts, axis=1),
        "dot": images @ texts.T,
        "euclidean": -np.linalg.norm(images[:, None] - texts[None], axis=2),
    }
    seen = set()
    for similarity, scores in matrices.items():
        by_vectors = evaluate_embeddings(images, texts, similarity=similarity, dataset="mine")
        by_scores = evaluate_embeddings(scores=scores, dataset="mine")
        assert by_vectors.metrics == by_scores.metrics
        assert list(by_vectors.metrics) == ["mine-test"]
        seen.add(tuple(by_vectors.metrics["mine-test"].values()))
    assert len(seen) == 3
    with pytest.raises(BadInput, match="did you mean 'cosine'"):
        evaluate_embeddings(images, texts, similarity="cosin", dataset="mine")


def test_pairs_say_what_is_right_and_name_their_protocol(tmp_path: Path) -> None:
    images, texts = vectors()
    scores = images @ texts.T
    own = np.stack([np.arange(N * EACH) // EACH, np.arange(N * EACH)], 1)
    plain = evaluate_embeddings(scores=scores, dataset="mine")
    same = evaluate_embeddings(scores=scores, dataset="mine", positives=own)
    (name,) = same.metrics
    assert name.startswith("mine-test-pairs-") and any("does not apply" in each for each in same.remarks)
    recalls = {
        key: value for key, value in same.metrics[name].items() if "@R" not in key and "Prec" not in key
    }
    assert recalls == plain.metrics["mine-test"]
    # Any set: a caption of two images, an image and two captions of none.
    own = own[own[:, 1] >= 4]
    pairs = np.concatenate([own, [[0, 9], [1, 9], [1, 2]]])
    # Caption 3 and some others are right for nothing.
    wider = evaluate_embeddings(scores=scores, dataset="mine", positives=pairs)
    (other,) = wider.metrics
    assert other != name
    right = np.zeros((N, N * EACH), dtype=bool)
    right[tuple(pairs.T)] = True
    for side, table, positive in (("i2t", scores, right), ("t2i", scores.T, right.T)):
        asked = positive.any(1)
        best = np.where(positive, table, -np.inf).max(1)
        better = ((table > best[:, None]) & ~positive).sum(1)[asked]
        for k in (1, 5, 10):
            assert wider.metrics[other][f"{side}/R@{k}"] == pytest.approx(100 * (better < k).mean())
    # By ids, in a table, with the images in another order.
    order = np.random.default_rng(0).permutation(N)
    image_ids = [f"picture{row}" for row in order]
    caption_ids = [f"sentence{row}" for row in range(N * EACH)]
    lines = ["image,caption", *(f"picture{image},sentence{text}" for image, text in pairs)]
    (tmp_path / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    by_ids = evaluate_embeddings(
        scores=scores[order],
        image_ids=image_ids,
        caption_ids=caption_ids,
        dataset="mine",
        positives=tmp_path / "pairs.csv",
    )
    (named,) = by_ids.metrics
    assert by_ids.metrics[named] == wider.metrics[other]


def test_pairs_need_no_images_of_captions() -> None:
    images, texts = vectors()
    pairs = [[0, 0], [0, 1], [3, 6]]
    scored = evaluate_embeddings(images, texts[:-1], dataset="mine", positives=pairs)
    assert "2 images" not in str(scored.remarks) and "10 images and 20 captions" in str(scored.remarks)
    with pytest.raises(BadInput, match="23 captions cannot be divided evenly among 12 images"):
        evaluate_embeddings(images, texts[:-1], dataset="mine")
    with pytest.raises(BadInput, match="entry 2 is '12', which is not a given image"):
        evaluate_embeddings(images, texts, dataset="mine", positives=[[0, 0], [1, 1], [12, 2]])


def test_pairs_under_a_verified_split_name_it(own_runs: dict[str, OwnRun]) -> None:
    own = own_runs["cca"]
    scored = evaluate_embeddings(
        own.images, own.texts, **own.ids, positives=[[0, 0], [1, 2]], protocol="synthetic-tiny"
    )
    assert [each.name.rpartition("-")[0] for each in scored.protocols] == ["synthetic-tiny-pairs"]


def test_labels_make_precision_by_label(tmp_path: Path) -> None:
    images, texts = vectors()
    labels = np.arange(N) % 3
    (tmp_path / "labels.txt").write_text("\n".join("abc"[label] for label in labels) + "\n")
    scored = evaluate_embeddings(
        images, texts, similarity="dot", labels=tmp_path / "labels.txt", dataset="mine"
    )
    expected = evaluate(
        own_protocol("mine", real_labels=True),
        Encoding(torch.from_numpy(images)),
        Encoding(torch.from_numpy(texts)),
        lambda left, right: left.values @ right.values.T,
        np.arange(N * EACH) // EACH,
        labels,
    )
    assert scored.metrics["mine-test"] == expected.metrics and "mAP" in expected.metrics
    multi_hot = np.eye(3, dtype=np.int64)[labels]
    again = evaluate_embeddings(images, texts, similarity="dot", labels=multi_hot, dataset="mine")
    assert again.metrics == scored.metrics
    with pytest.raises(BadInput, match="has 11 entries for 12 images"):
        evaluate_embeddings(images, texts, labels=labels[1:], dataset="mine")


def test_identities_widen_the_positives() -> None:
    rng = np.random.default_rng(0)
    counts = get_protocol("cuhk-pedes")
    assert counts.images == 3074
    persons = np.arange(3074) % 1000
    centres = rng.normal(size=(1000, 8)).astype(np.float32)
    owner = np.concatenate([np.arange(3074), np.arange(3074), np.arange(8)])
    words: dict[str, Any] = {"caption_image": owner, "protocol": "cuhk-pedes"}
    scored = evaluate_embeddings(centres[persons], centres[persons[owner]], identities=persons, **words)
    assert scored.protocols[0].resembles == "cuhk-pedes"
    assert scored.metrics["cuhk_pedes-test"]["t2i/R@1"] == 100.0
    with pytest.raises(BadInput, match="'cuhk-pedes' defines positives by identity; give --identities"):
        evaluate_embeddings(centres[persons], centres[persons[owner]], **words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({}, "--protocol is missing"),
        ({"protocol": "flickr30k-1kk"}, "did you mean 'flickr30k-1k'"),
        (
            {"protocol": "flickr30k-1k"},
            "not the split of flickr30k-1k, which has 1,000 images and 5,000 captions",
        ),
        ({"protocol": "flickr30k-1k", "dataset": "coco"}, "belongs to the data set flickr30k, not coco"),
        ({"dataset": "a/b"}, "cannot be used as a results folder name"),
        ({"dataset": "mine", "name": "scan"}, "--name 'scan' is a method of the bench"),
        ({"dataset": "mine", "name": "../x"}, "--name '../x' cannot be used"),
        ({"dataset": "mine", "seed": -1}, "--seed is -1"),
        ({"dataset": "mine", "scores": np.ones((2, 2))}, "give one or the other"),
        ({"dataset": "mine", "texts": None}, "--texts is missing"),
        ({"dataset": "flickr8k", "labels": [0] * N}, "--labels has no effect"),
        ({"dataset": "mine", "identities": [0] * N}, "--identities has no effect"),
        ({"dataset": "flickr30k", "data_root": "nowhere"}, "nowhere is missing"),
        ({"dataset": "mine", "data_root": "nowhere"}, "data set 'mine' is not in nowhere"),
        ({"protocol": "wikipedia-2173-map"}, "defines positives by label; give --labels"),
        (
            {"dataset": "mine", "caption_image": ["x"] * N * EACH},
            "entry 0 is 'x', which is not a given image",
        ),
        ({"dataset": "mine", "caption_image": [0] * N * EACH}, "image '1' has no caption"),
        (
            {
                "dataset": "mine",
                "image_ids": [str(N - 1 - row) for row in range(N)],
                "caption_image": [0, 1] * N,
            },
            "is ambiguous: its entries could be rows or ids",
        ),
    ],
)
def test_unusable_words_are_one_sentence(words: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    images, texts = vectors()
    with pytest.raises(BadInput) as refused:
        evaluate_embeddings(**{"images": images, "texts": texts, "runs": tmp_path / "runs", **words})
    assert sentence in str(refused.value)
    assert not list(tmp_path.iterdir())


def _write(path: Path, array: Any) -> None:
    np.save(path, array)


def _with_row(row: int, value: float) -> NDArray[np.float32]:
    images = vectors()[0]
    images[row] = value
    return images


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: _write(path, np.ones((N, 5, 4), np.float32)), "has shape (12, 5, 4); give (N, D)"),
        (lambda path: _write(path, np.ones(N, np.float32)), "has shape (12,); give (N, D)"),
        (lambda path: _write(path, np.ones((N, WIDTH), np.int64)), "is int64; give float32"),
        (lambda path: _write(path, np.ones((N, WIDTH), np.complex64)), "is complex64; give float32"),
        (lambda path: _write(path, np.ones((0, WIDTH), np.float32)), "has shape (0, 6); give (N, D)"),
        (lambda path: _write(path, np.ones((N, 7), np.float32)), "of width 7, but"),
        (lambda path: _write(path, _with_row(5, np.nan)), "a.npy: row 5 has a non-finite value"),
        (lambda path: _write(path, _with_row(4, np.inf)), "a.npy: row 4 has a non-finite value"),
        (lambda path: _write(path, _with_row(3, 0)), "a.npy: row 3 is all zeros"),
        (lambda path: _write(path, _with_row(2, 1e30)), "a.npy: row 2 is of length inf"),
        (lambda path: np.save(path, np.array([{}] * N), allow_pickle=True), "is a pickle or an object array"),
        (lambda path: path.write_bytes(pickle.dumps([1.0])), "is a pickle or an object array"),
        (lambda path: path.write_bytes(b""), "is truncated or not a .npy file"),
        (lambda path: path.write_text("0.1 0.2\n"), "is truncated or not a .npy file"),
        (lambda path: path.mkdir(), "cannot be read (it is not a regular file)"),
        (lambda path: os.mkfifo(path), "cannot be read (it is not a regular file)"),
        (lambda path: None, "No such file"),
    ],
)
@pytest.mark.timeout(60)
def test_hostile_files_are_one_sentence(
    make: Callable[[Path], Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", vectors()[1])
    words = ["--images", str(tmp_path / "a.npy"), "--texts", str(tmp_path / "b.npy"), "--dataset", "mine"]
    assert main(["evaluate", *words, "--runs", str(tmp_path / "runs")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("crossmodal-bench: ") and message.count("\n") == 1
    assert sentence in message and "a.npy" in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "option", ["--image-ids", "--caption-ids", "--caption-image", "--positives", "--labels"]
)
@pytest.mark.parametrize(
    "make",
    [
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("a\n\nb\n"),
        lambda path: None,
    ],
)
@pytest.mark.timeout(60)
def test_hostile_lists_are_one_sentence(
    option: str, make: Callable[[Path], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, texts = vectors()
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "b.npy", texts)
    make(tmp_path / "list.txt")
    words = ["--images", str(tmp_path / "a.npy"), "--texts", str(tmp_path / "b.npy"), "--dataset", "mine"]
    assert main(["evaluate", *words, option, str(tmp_path / "list.txt")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "list.txt" in message


def test_scores_that_are_not_finite_name_their_pair() -> None:
    scores = np.zeros((N, N * EACH))
    scores[2, 5] = np.nan
    with pytest.raises(BadInput, match=r"the score of \(row 2, column 5\)"):
        evaluate_embeddings(scores=scores, dataset="mine")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4"])
def test_every_kind_of_number_and_layout_of_it(kind: Any, tmp_path: Path) -> None:
    images, texts = (np.round(side, 2).astype(np.float16) for side in vectors())
    expected = evaluate_embeddings(images.astype(np.float32), texts.astype(np.float32), dataset="mine")
    np.save(tmp_path / "a.npy", np.asfortranarray(images.astype(kind)))
    scored = evaluate_embeddings(str(tmp_path / "a.npy"), texts.astype(kind)[::-1][::-1], dataset="mine")
    assert scored.metrics == expected.metrics
    assert evaluate_embeddings(torch.from_numpy(images), torch.from_numpy(texts), dataset="mine").metrics == (
        expected.metrics
    )


def test_seeds_of_one_name_are_one_row_and_other_inputs_are_refused(tmp_path: Path) -> None:
    words: dict[str, Any] = {"dataset": "mine", "name": "model", "runs": tmp_path}
    for seed in (0, 1):
        evaluate_embeddings(*vectors(np.random.default_rng(seed)), seed=seed, **words)
    with pytest.raises(BadInput, match="already has this name and seed, from other inputs; give another"):
        evaluate_embeddings(*vectors(np.random.default_rng(2)), seed=1, **words)
    records = [read_record(path) for path in tmp_path.glob("*/*/*/record.json")]
    (row,) = leaderboard(records)
    assert (row.name, row.seeds, row.preset) == ("model", (0, 1), "given")
    assert row.published.value is None
    text = "\n".join(notes(tables([row])[0]))
    assert "preset given: a model from elsewhere" in text and "cosine of given vectors, 6 wide" in text


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(BadInput, match="choose another RUNS folder"):
        evaluate_embeddings(*vectors(), dataset="mine", runs=tmp_path / "runs")


def test_status_and_tables_show_it_beside_the_benchs_methods(
    own_runs: dict[str, OwnRun], capsys: pytest.CaptureFixture[str]
) -> None:
    own = own_runs["cca"]
    runs = own.record.directory.parents[2]
    words = {"protocol": "synthetic-tiny", "name": "beside", "runs": runs}
    evaluate_embeddings(own.images, own.texts, **own.ids, **words)
    short = ["--set", "trainer.max_epochs=2", "--set", "data.batch_size=16"]
    assert (
        main(["status", "--dataset", "synthetic-tiny", "--methods", "cca", "--runs", str(runs), *short]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert any("beside" in line and line.endswith("given") for line in lines)
    records = [read_record(path) for path in runs.glob("*/*/*/record.json")]
    (table,) = tables(leaderboard(records))
    assert {row.name.split()[0] for row in table.rows} == {"cca", "acmr", "beside"}


def test_the_command_has_an_option_for_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    text = capsys.readouterr().out
    for name in inspect.signature(evaluate_embeddings).parameters:
        # A scorer is a program.
        assert name == "scorer" or f"--{name.replace('_', '-')} " in text
    assert "split unverified" in " ".join(text.split())


@pytest.mark.timeout(300)
def test_folds_apply_where_the_order_is_verified() -> None:
    with gzip.open(COCO, "rt") as stream:
        ids = stream.read().split()
    rng = np.random.default_rng(0)
    images = rng.normal(size=(5000, 4)).astype(np.float32)
    texts = images.repeat(5, 0) + 0.05 * rng.normal(size=(25000, 4)).astype(np.float32)
    captions = [f"val2014/COCO_val2014_{int(name):012d}.jpg#{k}" for name in ids for k in range(5)]
    scored = evaluate_embeddings(
        images, texts, image_ids=ids, caption_ids=captions, protocol="coco-1k-5fold", data_root=None
    )
    assert [each.label for each in scored.protocols] == ["coco-5k@1", "coco-1k-5fold@1"]
    assert scored.metrics["coco-1k-5fold"]["i2t/R@1"] > scored.metrics["coco-5k"]["i2t/R@1"] > 1
    # Without the data set's files nothing says in which order the images should stand.
    order = rng.permutation(5000)
    identified = identify(
        (5000, 25000),
        "coco",
        None,
        image_ids=read_ids([ids[row] for row in order], "image_ids"),
        caption_ids=read_ids(captions, "caption_ids"),
        caption_image=None,
    )
    protocols = resolve_protocols("coco", identified.split_items)
    assert [each.label for each in protocols] == ["coco-5k@1", "coco-test-5fold@1"]


def test_fewer_captions_are_taken_where_they_are_a_published_split(
    own_runs: dict[str, OwnRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = own_runs["cca"]
    rows = [row for row, name in enumerate(own.caption_ids) if not name.endswith("#2")]
    fewer = {"image_ids": own.image_ids, "caption_ids": [own.caption_ids[row] for row in rows]}
    with pytest.raises(BadInput, match=r"48 of 144 test captions of synthetic are missing"):
        evaluate_embeddings(own.images, own.texts[rows], **fewer, protocol="synthetic-tiny")
    # As COCO's 25,000 of 25,010: both numbers are the protocol's.
    tiny = PROTOCOLS["synthetic-tiny"]
    split = tiny.split.model_copy(update={"texts": "", "captions_per_image": 2})
    monkeypatch.setitem(
        PROTOCOLS, "synthetic-tiny", dataclasses.replace(tiny, captions=(144, 96), split=split)
    )
    scored = evaluate_embeddings(own.images, own.texts[rows], **fewer, protocol="synthetic-tiny")
    assert scored.query_results["synthetic-tiny"].sizes == (48, 96)
    assert scored.protocols[0].label == "synthetic-tiny@1" and "CIDEr" in scored.metrics["synthetic-tiny"]


@pytest.mark.timeout(60)
def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = fenced("own_model.md", "python")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "own_model.md", "exec"), {})
    record = only_record(tmp_path / "runs")
    assert (record.job.method, record.job.protocol) == ("my-model", "synthetic-tiny")
    (words,) = re.findall(
        r"^crossmodal-bench (evaluate (?:.*\\\n)*.*)$", fenced("own_model.md", "bash")[0], re.M
    )
    assert main(words.replace("\\\n", " ").split()) == 0


@pytest.mark.parametrize("pictures", [True, False])
def test_a_data_set_of_ones_own_is_found_by_its_folder(pictures: bool, tmp_path: Path) -> None:
    fakes.write_karpathy(tmp_path, "mine", images=pictures)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(5, WIDTH))
    texts = images.repeat(2, 0) + rng.normal(size=(10, WIDTH))
    # The test images are numbers 16 to 20 of the JSON.
    order = rng.permutation(10)
    words: dict[str, Any] = {
        "image_ids": [f"{16 + row:04d}" for row in range(5)],
        "caption_ids": [f"images/{16 + row // 2:04d}.jpg#{row % 2}" for row in order],
        "data_root": tmp_path,
    }
    found = evaluate_embeddings(images, texts[order], dataset="mine", **words)
    alone = evaluate_embeddings(images, texts, dataset="elsewhere")
    ranked = alone.metrics["elsewhere-test"]
    assert {key: found.metrics["mine-test"][key] for key in ranked} == ranked
    assert "CIDEr" in found.metrics["mine-test"]
    words["caption_ids"][0] = "0000.jpg#0"
    with pytest.raises(
        BadInput, match=r"1 of 10 captions are not in the test split of mine \('0000.jpg#0'\)"
    ):
        evaluate_embeddings(images, texts[order], dataset="mine", **words)


def test_splits_of_wikipedia_are_told_apart_by_their_sizes(tmp_path: Path) -> None:
    fakes.write_wikipedia(tmp_path)
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(11, 4)), rng.normal(size=(11, 4))
    scored = evaluate_embeddings(images, texts, dataset="wikipedia", data_root=tmp_path)
    assert [each.label for each in scored.protocols] == ["wikipedia-2173-map-test@1"]
    assert "mAP" in scored.metrics["wikipedia-2173-map-test"]
    with pytest.raises(BadInput, match="--labels is already in the data set's files; leave it out"):
        evaluate_embeddings(images, texts, dataset="wikipedia", data_root=tmp_path, labels=[0] * 11)


def test_classes_are_means_of_vectors_and_not_of_scores(tmp_path: Path) -> None:
    fakes.write_cub(tmp_path)
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(6, 4)), rng.normal(size=(12, 4))
    scored = evaluate_embeddings(images, texts, dataset="cub", data_root=tmp_path)
    assert "t2i/AP@50" in scored.metrics["cub-test"]
    with pytest.raises(BadInput, match="class's mean vector; give --images and --texts instead"):
        evaluate_embeddings(scores=images @ texts.T, dataset="cub", data_root=tmp_path)
