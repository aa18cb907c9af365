"""Hosts on their own: what they minimise, with which rates, and what their options change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import configuration, fitted

from crossmodal_bench.core.batch import PairBatch
from crossmodal_bench.losses import triplet_ranking_loss
from crossmodal_bench.methods import Matching, RankingSettings
from crossmodal_bench.methods.hosts import SCAN
from crossmodal_bench.training.callbacks import History

SMALL = {
    "model.init_args.host.init_args.dim": 8,
    "model.init_args.host.init_args.embedding": 6,
    "data.batch_size": 16,
    "trainer.max_epochs": 1,
}
HOSTS = ["vse", "scan", "scan_i2t", "bfan", "bfan_prob", "vsrn"]


def settings(method: str, **changes: Any) -> dict[str, Any]:
    return configuration(method, **{**SMALL, **changes})


def first_pairs(cli: Any) -> PairBatch:
    return next(iter(cli.datamodule.train_dataloader()))


@pytest.mark.parametrize("method", HOSTS)
def test_a_host_minimises_ranking_and_its_own_loss(method: str) -> None:
    cli = fitted(settings(method, **{"model.init_args.ranking.hardest": True}), [])
    model, batch = cli.model, first_pairs(cli)
    model.log_means = lambda values, n: None
    images, texts = model.host.images(batch.images), model.host.texts(batch.texts)
    torch.manual_seed(0)
    found = model.loss(images, texts, batch)
    expected = triplet_ranking_loss(model.host.score(images.scored, texts.scored), 0.2)
    if method == "vsrn":
        torch.manual_seed(0)
        own = model.host.auxiliary_loss(images, batch.texts)
        assert float(own.detach()) > 1
        expected = expected + own
    torch.testing.assert_close(found, expected)
    assert images.fragments.values.shape[-1] == texts.fragments.values.shape[-1] == model.host.fragment_dim


def test_scan_order_and_vse_order_score_differently() -> None:
    order = fitted(settings("vse", **{"model.init_args.host.init_args.measure": "order"}), [])
    images, texts = (next(iter(one)) for one in order.datamodule.eval_dataloaders("test"))
    with torch.no_grad():
        v, t = order.model.encode_images(images), order.model.encode_texts(texts)
        scores = order.model.score(v, t)
    assert (v.values >= 0).all() and (t.values >= 0).all()
    assert (scores <= 0).all() and scores.std() > 0


def test_all_negatives_count_before_the_hardest_do() -> None:
    ranking = {"hardest": True, "hardest_from_epoch": 5}
    changes = {f"model.init_args.ranking.{name}": value for name, value in ranking.items()}
    cli = fitted(settings("scan", **changes), [])
    model, batch = cli.model, first_pairs(cli)
    model.log_means = lambda values, n: None
    images, texts = model.host.images(batch.images), model.host.texts(batch.texts)
    scores = model.host.score(images.scored, texts.scored)
    torch.testing.assert_close(model.loss(images, texts, batch), triplet_ranking_loss(scores, 0.2, False))
    model.ranking_settings = replace(model.ranking_settings, hardest_from_epoch=0)
    torch.testing.assert_close(model.loss(images, texts, batch), triplet_ranking_loss(scores, 0.2, True))


def test_captions_of_one_image_can_be_spared() -> None:
    cli = fitted(settings("scan", **{"model.init_args.ranking.mask_same_image_negatives": True}), [])
    model, batch = cli.model, first_pairs(cli)
    model.log_means = lambda values, n: None
    assert len(batch.texts.image.unique()) < len(batch), "an image twice in the batch"
    images, texts = model.host.images(batch.images), model.host.texts(batch.texts)
    scores = model.host.score(images.scored, texts.scored)
    spared = triplet_ranking_loss(scores, 0.2, False, batch.texts.image)
    torch.testing.assert_close(model.loss(images, texts, batch), spared)
    assert spared < triplet_ranking_loss(scores, 0.2, False)


def test_rates_fall_by_epochs_and_gradients_are_clipped() -> None:
    changes = {
        "trainer.max_epochs": 3,
        "model.init_args.schedule.every_epochs": 2,
        "model.init_args.optimizer.learning_rate": 0.01,
        "model.init_args.optimizer.gradient_clip": 1e-6,
    }
    cli = fitted(settings("scan", **changes), [])
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.001)
    # Adam's second moments hold what it was given: steps of at most the clipped norm.
    moments = [state["exp_avg_sq"].sum() for state in cli.trainer.optimizers[0].state.values()]
    assert 0 < float(sum(moments)) < 1e-11


def test_both_losses_are_logged_per_pair() -> None:
    history = History()
    fitted(settings("vsrn"), [history])
    assert {"train/loss_ranking", "train/loss_caption"} <= set(history.epochs[0])


def test_hosts_given_as_objects_stay_out_of_the_hyperparameters() -> None:
    made = Matching(SCAN(dim=4), ranking=RankingSettings(margin=0.3))
    assert "host" not in made.hparams and made.hparams["ranking"]["margin"] == 0.3
    assert made.requires == {"regions", "words"}


@pytest.mark.parametrize("method", ["vse", "scan", "bfan", "vsrn"])
def test_bf16_trains_and_ranks_in_single_precision(method: str) -> None:
    cli = fitted(settings(method, **{"trainer.precision": "bf16-mixed"}), [])
    images, texts = (next(iter(one)) for one in cli.datamodule.eval_dataloaders("test"))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        v, t = cli.model.encode_images(images), cli.model.encode_texts(texts)
        assert v.values.dtype == t.values.dtype == torch.float32
        half = cli.model.score(v, t)
    assert half.dtype == torch.float32 and half.isfinite().all()
    if method in ("vse", "vsrn"):
        assert torch.equal(half, cli.model.score(v, t)), "vectors are compared in single precision"
