"""ADDR as a whole: whose turn it is, what each loss is, and that nothing is lost on the way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny import QUIET, configuration, fitted
from torch import Tensor

from crossmodal_bench.core.batch import GroupBatch, PairBatch
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.losses import (
    domain_regularisation,
    domain_risks,
    hardest_negatives,
    triplet_ranking_loss,
)
from crossmodal_bench.methods import ADDR, DecaySettings, PairDiscriminatorSettings
from crossmodal_bench.methods.addr.discriminators import DiscriminatorBank
from crossmodal_bench.methods.hosts import SCAN
from crossmodal_bench.training.callbacks import History, RandomState, RetrievalEvaluation
from crossmodal_bench.training.lightning_cli import instantiate

SMALL = {
    "model.init_args.host.init_args.dim": 8,
    "model.init_args.host.init_args.embedding": 6,
    "data.batch_size": 8,
    "trainer.max_epochs": 2,
}
IMAGES, CAPTIONS = 20, 100


def settings(method: str = "addr_scan", **changes: Any) -> dict[str, Any]:
    return configuration(method, **{**SMALL, **changes})


class Watch(pl.Callback):
    """What each step changed: 'discriminators' (rows), 'host' (parameters and buffers)."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, list[int], bool]] = []
        self._before: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def state(module: Any) -> tuple[Tensor, Tensor]:
        host = torch.cat([one.detach().flatten().double() for one in module.host.state_dict().values()])
        return module.discriminators.parameters.clone(), host

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._before = self.state(pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._before is not None
        rows, host = self.state(pl_module)
        changed = torch.nonzero((rows != self._before[0]).any(1)).flatten().tolist()
        self.steps.append((type(batch).__name__, changed, not torch.equal(host, self._before[1])))


@pytest.mark.parametrize(
    "method", ["addr_scan", pytest.param("multiple_bfan", marks=pytest.mark.slow), "addr_vsrn"]
)
def test_phases_train_the_discriminators_of_the_batch_or_the_host_and_nothing_else(method: str) -> None:
    watch = Watch()
    cli = fitted(settings(method), [watch])
    groups = [step for step in watch.steps if step[0] == "GroupBatch"]
    pairs = [step for step in watch.steps if step[0] == "PairBatch"]
    assert [step[0] for step in watch.steps[:3]] == ["GroupBatch"] * 3, "20 images, 8 at a time"
    assert len(groups) == 2 * 3 and len(pairs) == 2 * 13
    assert not any(moved for _, _, moved in groups) and all(moved for _, _, moved in pairs)
    assert not any(rows for _, rows, _ in pairs)
    for epoch in (groups[:3], groups[3:]):
        assert sorted(row for _, rows, _ in epoch for row in rows) == list(range(IMAGES)), (
            "each once an epoch"
        )
    assert (cli.model.discriminators.steps == 2).all()
    assert int(cli.model.iterations) == len(pairs)
    assert cli.model.host.training


def test_one_discriminator_for_all_pairs() -> None:
    watch = Watch()
    cli = fitted(settings("united_scan"), [watch])
    assert cli.model.discriminators.rows == 1 and int(cli.model.discriminators.steps) == 2 * 3
    assert [rows for kind, rows, _ in watch.steps if kind == "GroupBatch"] == [[0]] * 6
    with pytest.raises(ValueError, match=r"gamma is 0\.4, but a shared discriminator has no others"):
        ADDR(SCAN(), discriminator=PairDiscriminatorSettings(shared=True), gamma=0.4)


def batches(cli: Any) -> tuple[GroupBatch, PairBatch]:
    """The first of each phase, from a model whose discriminators have learnt something."""
    loader = list(cli.datamodule.train_dataloader())
    return (
        next(one for one in loader if isinstance(one, GroupBatch)),
        next(one for one in loader if isinstance(one, PairBatch)),
    )


def trained(**changes: Any) -> Any:
    cli = fitted(settings(**{"model.init_args.discriminator.learning_rate": 0.5, **changes}), [])
    cli.model.log_means = lambda values, n: cli.model.__dict__.setdefault("logged", {}).update(values)
    return cli


def risks(model: Any, batch: GroupBatch) -> Tensor:
    """(B, B) of every discriminator on every pair, image by image."""
    with torch.no_grad():
        images, texts = model.host.images(batch.images), model.host.texts(batch.texts)
        words = texts.fragments.values.split(texts.fragments.lengths.tolist())
        index = model._rows(batch)
        rows = model.discriminators.parameters[index]
        table, start = [], 0
        for one, count in zip(images.fragments.values, batch.counts.tolist(), strict=True):
            own = torch.cat(words[start : start + count])
            table.append(
                torch.cat(
                    [
                        domain_risks(
                            one[None], own, torch.tensor([len(own)]), w[None, None, :-1], w[None, None, -1]
                        )
                        for w in rows
                    ]
                ).flatten()
            )
            start += count
        return torch.stack(table)


@pytest.mark.parametrize("gamma", [pytest.param(0.0, marks=pytest.mark.slow), 0.7])
def test_discriminators_minimise_equation_10_with_the_hosts_own_hard_negatives(gamma: float) -> None:
    cli = trained(**{"model.init_args.gamma": gamma})
    model, (batch, _) = cli.model, batches(cli)
    table = risks(model, batch)
    with torch.no_grad():
        images = model.host.images(batch.images).scored
        chosen = model.host.texts(batch.texts).scored.take(batch.chosen)
        similarity = model.host.score(images, chosen).fill_diagonal_(-9)
    q, r = similarity.argmax(1), similarity.argmax(0)
    expected = table.diagonal().sum() + gamma * domain_regularisation(table, q, r, 0.05).sum()
    seen, words, found_q, found_r = model._seen(batch)
    assert torch.equal(found_q, q)
    assert torch.equal(found_r, r if gamma else torch.arange(len(r))), "r is looked for where it counts"
    rows = model.discriminators.gather(model._rows(batch))
    loss, logged = model.discriminators_loss(seen.fragments, words, rows, found_q, found_r)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logged["train/risk_own"], table.diagonal().mean())
    torch.testing.assert_close(logged["train/risk_other"], table[torch.arange(len(q)), q].mean())


@pytest.mark.parametrize("beta", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_encoders_minimise_equation_11(beta: float) -> None:
    cli = trained(**{"model.init_args.beta": beta, "model.init_args.ranking.hardest": True})
    model, (_, batch) = cli.model, batches(cli)
    images, texts = model.host.images(batch.images), model.host.texts(batch.texts)
    ranking = triplet_ranking_loss(model.host.score(images.scored, texts.scored))
    own = []
    words = texts.fragments.values.split(texts.fragments.lengths.tolist())
    for regions, said, row in zip(images.fragments.values, words, model._rows(batch), strict=True):
        weight, bias = model.discriminators.parameters[row, :-1], model.discriminators.parameters[row, -1]
        wrong = -torch.sigmoid(regions @ weight + bias).log().mean()
        own.append(wrong - (1 - torch.sigmoid(said @ weight + bias)).log().mean())
    expected = ranking - beta * torch.stack(own).sum()
    found = model.loss(images, texts, batch)
    torch.testing.assert_close(found, expected)
    parameters = list(model.host.parameters())
    ours, theirs = (torch.autograd.grad(one, parameters, retain_graph=True) for one in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_encoders_can_be_regularised_too() -> None:
    cli = trained(**{"model.init_args.regularise_encoders": True, "model.init_args.alpha": 1.0})
    model, (_, batch) = cli.model, batches(cli)
    images, texts = model.host.images(batch.images), model.host.texts(batch.texts)
    whole = model.loss(images, texts, batch)
    model.regularise_encoders = False
    alone = model.loss(images, texts, batch)
    q, r = hardest_negatives(model.host.score(images.scored, texts.scored), batch.texts.image)
    rows, words = model.discriminators.parameters[model._rows(batch)], texts.fragments.values
    spoken = words.split(texts.fragments.lengths.tolist())
    table = torch.stack(
        [
            domain_risks(v[None], w, torch.tensor([len(w)]), rows[None, :, :-1], rows[None, :, -1])[0]
            for v, w in zip(images.fragments.values, spoken, strict=True)
        ]
    )
    expected = 0.4 * domain_regularisation(table, q, r, 1.0).sum()
    torch.testing.assert_close(whole - alone, expected, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="regularise_encoders is true, but gamma is 0"):
        ADDR(SCAN(), gamma=0.0, regularise_encoders=True)


def test_a_pairs_words_are_those_of_all_its_captions() -> None:
    cli = trained()
    batch, _ = batches(cli)
    corpus = cli.datamodule.corpus
    assert batch.counts.tolist() == [5] * len(batch.images)
    owners = batch.images.index.repeat_interleave(batch.counts)
    assert torch.equal(batch.texts.image, owners)
    assert torch.equal(batch.texts.image[batch.chosen], batch.images.index), "one of its own"
    _, words, _, _ = cli.model._seen(batch)
    of_first = [len(corpus.captions[row].split()) for row in batch.texts.index[:5].tolist()]
    assert int(words.lengths[0]) >= sum(of_first)
    assert int(words.lengths.sum()) == len(words.values)


@pytest.mark.slow
def test_regions_and_words_come_to_be_told_apart_and_their_own_discriminator_does_it_best() -> None:
    history = History()
    changes = {
        "model.init_args.beta": 0.0,
        "model.init_args.ranking.hardest": False,
        "model.init_args.schedule.every_epochs": None,
        "model.init_args.discriminator.learning_rate": 0.5,
        "trainer.max_epochs": 8,
    }
    fitted(settings(**changes), [history])
    first, last = history.epochs[0], history.epochs[-1]
    assert last["train/risk_own"] < 0.5 * first["train/risk_own"]
    assert last["train/risk_own"] < last["train/risk_other"]
    assert history.samples == 8 * CAPTIONS, "what the discriminators see beforehand is no pair trained on"


def test_rates_decay_by_steps_and_by_epochs_down_to_the_least() -> None:
    by_step = DecaySettings(factor=0.2, every_steps=100, minimum_rate=1e-5)
    made = ADDR(SCAN(), schedule=by_step)
    seen = []
    for step in (0, 99, 100, 250, 500):
        made.iterations.fill_(step)
        seen.append(made.decayed(1e-3))
    assert seen == pytest.approx([1e-3, 1e-3, 2e-4, 4e-5, 1e-5])
    assert made.decayed(1e-6) == 1e-6, "a rate that begins lower is not raised"
    by_epoch = ADDR(SCAN(), schedule=DecaySettings(factor=0.1, every_epochs=2))
    assert by_epoch.decayed(1.0) == 1.0


@pytest.mark.parametrize(("method", "rows"), [("multiple_scan", IMAGES), ("united_scan", 1)])
def test_passes_are_so_many_steps_in_a_phase(method: str, rows: int) -> None:
    batches = -(-IMAGES // SMALL["data.batch_size"]) if rows == 1 else 1
    for passes in (1, 3):
        changes = {"model.init_args.discriminator.passes": passes, "trainer.max_epochs": 1}
        bank = fitted(settings(method, **changes), []).model.discriminators
        assert bank.steps.tolist() == [passes * batches] * rows


def test_passes_are_what_as_many_visits_of_the_same_batch_are() -> None:
    """Between two visits of one phase the encoders stay as they are, so that nothing else can differ."""
    cli = fitted(settings(**{"trainer.max_epochs": 1}), [])
    model, batch = cli.model, next(b for b in cli.datamodule.train_dataloader() if isinstance(b, GroupBatch))
    model.log_means = lambda *rest: None
    states = []
    for passes, visits in ((3, 1), (1, 3)):
        model.discriminator_settings = PairDiscriminatorSettings(learning_rate=0.1, passes=passes)
        model.discriminators = DiscriminatorBank(IMAGES, model.host.fragment_dim, name="")
        for _ in range(visits):
            model.train_discriminators(batch)
        states.append(model.discriminators.parameters.clone())
    assert torch.equal(*states)
    assert states[0].abs().sum() > 0


def test_discriminators_may_have_a_schedule_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = DiscriminatorBank.step

    def note(bank: DiscriminatorBank, index: Tensor, gradient: Tensor, learning_rate: float) -> None:
        rates.append(learning_rate)
        step(bank, index, gradient, learning_rate)

    monkeypatch.setattr(DiscriminatorBank, "step", note)
    encoders = {"factor": 0.1, "every_epochs": None, "every_steps": 1, "minimum_rate": 0.0}
    own = {"factor": 0.5, "every_epochs": 1, "every_steps": None, "minimum_rate": 0.0}
    changes = {
        "model.init_args.discriminator.learning_rate": 0.4,
        "model.init_args.schedule": encoders,
        "data.batch_size": IMAGES,
    }
    fitted(settings(**changes), [])
    assert rates[0] == 0.4 and rates[-1] < 0.04
    rates.clear()
    fitted(settings(**changes, **{"model.init_args.discriminator.schedule": own}), [])
    assert rates == [0.4, 0.2]


def test_no_pass_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"discriminator\.passes is 0; give a whole number, 1"):
        PairDiscriminatorSettings(passes=0)


class Stop(pl.Callback):
    """Save in mid-epoch and end there."""

    def __init__(self, path: Path, at: int) -> None:
        self.path, self.at, self.seen = path, at, 0

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen += 1
        if self.seen == self.at:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [18, pytest.param(24, marks=pytest.mark.slow)])
def test_resuming_in_either_phase_is_exact_in_the_discriminators_too(tmp_path: Path, at: int) -> None:
    """16 batches an epoch, the first 3 of them the discriminators'."""
    config = settings("addr_vsrn")
    whole = fitted(config, [RetrievalEvaluation(), RandomState()])
    path = tmp_path / "half.ckpt"
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fitted(config, [RetrievalEvaluation(), RandomState(), Stop(path, at)])
    again = fitted(config, [RetrievalEvaluation(), RandomState()], path)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    for name in ("parameters", "first", "second", "steps"):
        assert torch.equal(
            getattr(again.model.discriminators, name), getattr(whole.model.discriminators, name)
        ), name


def test_a_checkpoint_of_other_data_is_refused_before_training(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    fitted(settings(), []).trainer.save_checkpoint(path)
    other = settings(**{"data.dataset.init_args.seed": 1})
    with pytest.raises(BadInput, match="fingerprint"):
        fitted(other, [], path)


@pytest.mark.slow
def test_weights_alone_come_without_the_discriminators(tmp_path: Path) -> None:
    cli = fitted(settings(), [])
    for name, only in (("whole.ckpt", False), ("weights.ckpt", True)):
        cli.trainer.save_checkpoint(tmp_path / name, weights_only=only)
    whole, weights = (
        torch.load(tmp_path / name, weights_only=True) for name in ("whole.ckpt", "weights.ckpt")
    )
    assert "discriminators" not in weights
    assert torch.equal(whole["discriminators"]["parameters"], cli.model.discriminators.parameters)
    fresh = instantiate(settings(), [RetrievalEvaluation()], **QUIET)
    fresh.trainer.test(
        fresh.model,
        fresh.datamodule,
        ckpt_path=str(tmp_path / "weights.ckpt"),
        verbose=False,
        weights_only=True,
    )


def test_the_next_batchs_rows_are_fetched_beside_the_step_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[str] = []
    copied = DiscriminatorBank._copied

    def counted(self: Any, index: Tensor, device: torch.device) -> Tensor:
        copies.append(threading.current_thread().name)
        return copied(self, index, device)

    monkeypatch.setattr(DiscriminatorBank, "_copied", counted)
    fitted(settings(**{"trainer.max_epochs": 1}), [])
    assert len(copies) == 3 + 13, "once for each batch"
    # Not across the phases: what the last discriminator step changes may be what the first pairs need, and
    # what other processes' steps change is not there yet when the second ones could be fetched.
    assert copies.count("MainThread") == 3


@pytest.mark.slow
def test_no_pairs_rows_are_fetched_before_all_processes_discriminators_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    prefetch, settle, step = DiscriminatorBank.prefetch, ADDR._settle, DiscriminatorBank.step

    def prefetched(self: Any, *words: Any) -> None:
        seen.append("prefetch")
        prefetch(self, *words)

    def settled(self: Any) -> None:
        seen.append("settle")
        settle(self)

    def stepped(self: Any, *words: Any) -> None:
        seen.append("step")
        step(self, *words)

    monkeypatch.setattr(DiscriminatorBank, "prefetch", prefetched)
    monkeypatch.setattr(DiscriminatorBank, "step", stepped)
    monkeypatch.setattr(ADDR, "_settle", settled)
    fitted(settings(**{"trainer.max_epochs": 2}), [])
    epoch = ["prefetch", "step", "prefetch", "step", "step", "settle", *["prefetch"] * 11]
    assert seen == 2 * epoch
