"""Whole galleries, each item once, on one process and on two; also the script that starts the two."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import instantiate_module
from tiny import QUIET, SMALL_ACMR, configuration, fitted

import crossmodal_bench
from crossmodal_bench.core.batch import ImageBatch
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.data.corpus import Labels
from crossmodal_bench.data.datasets import Synthetic
from crossmodal_bench.evaluation import Protocol, evaluate, get_protocol
from crossmodal_bench.methods import ACMR
from crossmodal_bench.training.callbacks import RetrievalEvaluation
from crossmodal_bench.training.lightning_cli import instantiate

CONFIG = configuration(
    **{
        **SMALL_ACMR,
        "model.init_args.projectors.standardise": True,
        "trainer.max_epochs": 1,
        "data.eval_batch_size": 3,
    }
)


class Count(pl.Callback):
    """How often each item was encoded."""

    def __init__(self) -> None:
        self.images: list[int] = []
        self.captions: list[int] = []

    def on_test_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *rest: Any) -> None:
        (self.images if isinstance(batch, ImageBatch) else self.captions).extend(batch.index.tolist())


@pytest.fixture(scope="module")
def tested() -> tuple[Any, RetrievalEvaluation, Count]:
    retrieval, count = RetrievalEvaluation(), Count()
    cli = fitted(CONFIG, [retrieval, count])
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    return cli, retrieval, count


def by_hand(cli: Any, protocol: Protocol, split: str) -> dict[str, float]:
    """The same without trainer, loaders and banks."""
    corpus, views = cli.datamodule.corpus, cli.datamodule.views
    images, captions = corpus.image_rows(split), corpus.caption_rows(split)
    cli.model.eval()
    with torch.no_grad():
        encoded = cli.model.encode_images(views.images(images)), cli.model.encode_texts(views.texts(captions))
    owner = np.array([list(images).index(row) for row in corpus.caption_image[captions]])
    identities = None if corpus.identities is None else corpus.identities[images]
    return evaluate(
        protocol, *encoded, cli.model.score, owner, corpus.labels.values[images], identities
    ).metrics


def test_each_item_is_encoded_once(tested: tuple[Any, RetrievalEvaluation, Count]) -> None:
    cli, _, count = tested
    corpus = cli.datamodule.corpus
    assert count.images == corpus.image_rows("test").tolist()
    assert count.captions == corpus.caption_rows("test").tolist()


def test_metrics_are_those_of_the_whole_gallery(tested: tuple[Any, RetrievalEvaluation, Count]) -> None:
    cli, retrieval, _ = tested
    ((name, found),) = retrieval.results.items()
    assert name == "synthetic-test"
    expected = by_hand(cli, found.protocol, "test")
    assert found.metrics == pytest.approx(expected)
    logged = {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
    assert logged == pytest.approx({f"test/{key}": value for key, value in expected.items()})
    assert retrieval.encodings is not None
    assert [len(encoding) for encoding in retrieval.encodings] == [4, 20]
    assert retrieval.seconds > 0


def test_validation_may_have_another_size_than_the_protocol() -> None:
    retrieval = RetrievalEvaluation([get_protocol("synthetic-tiny"), get_protocol("flickr8k-1k")])
    cli = fitted(CONFIG, [retrieval])
    found = {
        key: float(value) for key, value in cli.trainer.callback_metrics.items() if key.startswith("val/")
    }
    open_protocol = Protocol(
        name="x",
        dataset="x",
        positives="caption",
        families=("ranks", "label_precision"),
        primary="rsum",
    )
    expected = by_hand(cli, open_protocol, "val")
    expected["primary"] = expected["rsum"]
    assert found == pytest.approx({f"val/{key}": value for key, value in expected.items()})
    # On test, a protocol's counts are a promise.
    with pytest.raises(ValueError, match="'synthetic-tiny' needs 48 images, got 4"):
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)


def test_test_can_run_on_validation() -> None:
    retrieval, count = RetrievalEvaluation([get_protocol("synthetic-tiny")], test_split="val"), Count()
    cli = fitted(CONFIG, [retrieval, count])
    validation = {
        key[4:]: float(value) for key, value in cli.trainer.callback_metrics.items() if key[:4] == "val/"
    }
    assert validation.pop("primary") == validation["rsum"]
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    assert count.images == cli.datamodule.corpus.image_rows("val").tolist()
    assert retrieval.results["synthetic-tiny"].metrics == pytest.approx(validation)


@pytest.mark.parametrize("dataset", ["cuhk_pedes", "cub"])
def test_persons_and_species_are_evaluated_on_validation_and_test(
    dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Synthetic.read

    def with_identities(self: Synthetic, root: Path) -> Any:
        corpus = read(self, root)
        # Two identities a split, for which the numbers of the splits are as good as any.
        splits = np.unique(corpus.split, return_inverse=True)[1]
        identities = 2 * splits + np.arange(len(splits)) % 2
        return replace(corpus, name=dataset, identities=identities, labels=Labels(identities))

    monkeypatch.setattr(Synthetic, "read", with_identities)
    retrieval = RetrievalEvaluation()
    cli = fitted(CONFIG, [retrieval])
    assert retrieval.protocols is not None
    (protocol,) = retrieval.protocols
    assert protocol.name == f"{dataset}-test"
    anywhere = replace(protocol, images=None, captions=None)
    logged = {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
    for key, value in by_hand(cli, anywhere, "val").items():
        assert logged[f"val/{key}"] == pytest.approx(value), key
    primary = {"cuhk_pedes": "t2i/R@1", "cub": "t2i/AP@50"}[dataset]
    assert logged["val/primary"] == logged[f"val/{primary}"]
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    found = retrieval.results[protocol.name]
    assert found.metrics == pytest.approx(by_hand(cli, protocol, "test"))
    assert (found.classes is None) == (dataset == "cuhk_pedes")


def test_a_sanity_check_evaluates_nothing() -> None:
    class Sanity(pl.Callback):
        encoded = 0
        metrics: dict[str, Any] | None = None

        def on_validation_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
            Sanity.encoded += trainer.sanity_checking

        def on_sanity_check_end(self, trainer: pl.Trainer, *rest: Any) -> None:
            Sanity.metrics = dict(trainer.callback_metrics)

    retrieval = RetrievalEvaluation()
    cli = fitted(CONFIG, [retrieval, Sanity()], num_sanity_val_steps=1)
    assert Sanity.encoded == 2
    assert Sanity.metrics == {}
    assert "val/rsum" in cli.trainer.callback_metrics


@pytest.mark.parametrize("limit", [1, 0.5])
def test_a_part_of_a_gallery_is_refused(limit: float) -> None:
    class Limit(pl.Callback):
        # Set behind the parser: to it 1 may be 1.0, all batches, because `typing` keeps the first of
        # int | float and float | int that anything has asked for.
        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            trainer.limit_val_batches = limit

    with pytest.raises(ValueError, match=r"the gallery is incomplete: .* is the first missing"):
        fitted(CONFIG, [RetrievalEvaluation(), Limit()])


def test_training_goes_on_without_a_validation_split(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Synthetic.read

    def without(self: Synthetic, root: Path) -> Any:
        corpus = read(self, root)
        return replace(corpus, split=np.where(corpus.split == "val", "train", corpus.split))

    monkeypatch.setattr(Synthetic, "read", without)
    cli = fitted(CONFIG, [RetrievalEvaluation()])
    assert {key.split("/")[0] for key in cli.trainer.callback_metrics} == {"train"}


# ---- two processes: sizes that do not divide --------------------------------------------------------

WORLD_SIZE = 2
DISTRIBUTED = configuration(
    dataset="synthetic-27",  # 5 images and 25 captions to test on, 135 training pairs
    **{
        **SMALL_ACMR,
        "model.init_args.projectors.standardise": True,
        "trainer.max_epochs": 2,
        "data.eval_batch_size": 2,
        "data.batch_size": 16,
    },
)


# DDP refuses a module in which nothing is trained; what is solved has to run there all the same.
SOLVED = configuration("cca", "synthetic-27", **{"data.eval_batch_size": 2})


class Replica(pl.Callback):
    """This process's weights after training, before anything is broadcast again, and its share of pairs."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self.seen: list[int] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *rest: Any) -> None:
        self.seen += batch.texts.index.tolist()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.weights = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def work(rank: int, port: int, out: str) -> None:
    """One process of plain DDP: train, save, test; what it saw and found goes to files."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(WORLD_SIZE),
        "NODE_RANK": str(rank),
        "LOCAL_RANK": "0",
    }
    torch.set_num_threads(1)
    retrieval, replica = RetrievalEvaluation(), Replica()
    trainer = {**QUIET, "num_nodes": WORLD_SIZE, "strategy": "ddp"}
    cli = instantiate(DISTRIBUTED, [retrieval, replica], **trainer)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    cli.trainer.save_checkpoint(f"{out}.ckpt")
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    validated = {k: float(v) for k, v in cli.trainer.callback_metrics.items()}
    (evaluation,) = retrieval.results.values()
    torch.save({"weights": replica.weights, "seen": replica.seen}, f"{out}{rank}.pt")
    closed = instantiate(SOLVED, [RetrievalEvaluation()], **trainer)
    closed.trainer.fit(closed.model, datamodule=closed.datamodule)
    found = {
        "metrics": evaluation.metrics,
        "logged": validated,
        "world": cli.trainer.world_size,
        "solved": {k: float(v) for k, v in closed.trainer.callback_metrics.items()},
    }
    Path(f"{out}{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def launch(out: str) -> int:
    """Run ``work`` on every rank; 0 if all succeed. Forked, so that the imports are paid for once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(rank, port, out)) for rank in range(WORLD_SIZE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    hung = [process for process in processes if process.is_alive()]
    for process in hung:
        process.kill()
    return len(hung) + sum(process.exitcode != 0 for process in processes)


@pytest.mark.slow
def test_two_processes_train_alike_and_evaluate_as_one(tmp_path: Path) -> None:
    out = tmp_path / "rank"
    paths = [str(Path(crossmodal_bench.__file__).parents[1]), str(Path(__file__).parents[2])]
    finished = subprocess.run(
        [sys.executable, __file__, str(out)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    kept = [torch.load(f"{out}{rank}.pt", weights_only=True) for rank in range(WORLD_SIZE)]
    told = [json.loads(Path(f"{out}{rank}.json").read_text(encoding="utf-8")) for rank in range(WORLD_SIZE)]
    assert [one["world"] for one in told] == [WORLD_SIZE] * WORLD_SIZE
    # Replicas: equal weights from different halves, which together are the training set.
    untrained = instantiate(DISTRIBUTED, **QUIET)
    untrained.model.prepare(untrained.datamodule.build(untrained.model.requires))
    for name, parameter in untrained.model.named_parameters():
        assert torch.equal(kept[0]["weights"][name], kept[1]["weights"][name]), name
        assert not torch.equal(kept[0]["weights"][name], parameter), name
    corpus = untrained.datamodule.corpus
    train = set(corpus.caption_rows("train").tolist())
    assert set(kept[0]["seen"]) | set(kept[1]["seen"]) == train
    first = [set(one["seen"][: len(one["seen"]) // 2]) for one in kept]
    assert len(first[0] & first[1]) <= 1, "only padding repeats"
    # Evaluation: every process the same, and the same as one process with the same weights.
    retrieval = RetrievalEvaluation()
    alone = instantiate(DISTRIBUTED, [retrieval], **QUIET)
    alone.trainer.test(
        alone.model, datamodule=alone.datamodule, ckpt_path=f"{out}.ckpt", verbose=False, weights_only=True
    )
    assert len(corpus.image_rows("test")) % WORLD_SIZE and len(corpus.caption_rows("test")) % WORLD_SIZE
    (expected,) = retrieval.results.values()
    solved = fitted(SOLVED, [RetrievalEvaluation()]).trainer.callback_metrics
    for one in told:
        assert one["metrics"] == pytest.approx(expected.metrics, rel=1e-6)
        assert one["logged"] == told[0]["logged"]
        assert one["solved"] == pytest.approx({name: float(value) for name, value in solved.items()})


def test_ragged_encodings_are_evaluated_too() -> None:
    """Methods with word vectors hand over packed rows."""

    class Ragged(ACMR):
        def encode_texts(self, batch: Any) -> Encoding:
            values = super().encode_texts(batch).values
            lengths = batch.index % 3 + 1
            return Encoding(values.repeat_interleave(lengths, 0), lengths)

        def score(self, images: Encoding, texts: Encoding) -> torch.Tensor:
            assert texts.lengths is not None
            first = texts.lengths.cumsum(0) - texts.lengths
            return super().score(images, Encoding(texts.values[first]))

    plain = instantiate(CONFIG, [whole := RetrievalEvaluation()], **QUIET)
    ragged = instantiate(CONFIG, [packed := RetrievalEvaluation()], **QUIET)
    torch.manual_seed(3)
    plain.trainer.test(plain.model, datamodule=plain.datamodule, verbose=False)
    arguments = {k: v for k, v in ragged.model.hparams.items() if not k.startswith("_")}
    model = instantiate_module(Ragged, arguments)
    torch.manual_seed(3)
    ragged.trainer.test(model, datamodule=ragged.datamodule, verbose=False)
    assert packed.encodings is not None and packed.encodings[1].lengths is not None
    assert packed.results["synthetic-test"].metrics == pytest.approx(whole.results["synthetic-test"].metrics)


if __name__ == "__main__":
    sys.exit(launch(*sys.argv[1:]))
