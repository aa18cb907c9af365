"""GXN: what it ranks by, what each step moves, what is drawn and written, and where its stages begin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import QUIET, built, configuration, fitted
from torch import Tensor

from crossmodal_bench.callbacks import History, RandomState
from crossmodal_bench.data.batch import PairBatch
from crossmodal_bench.data.loader import BatchRows
from crossmodal_bench.data.views import PairDataset
from crossmodal_bench.errors import Diverged
from crossmodal_bench.losses import triplet_ranking_loss
from crossmodal_bench.methods import GXN, CaptionPath, PicturePath, imagining
from crossmodal_bench.networks import FeatureEncoder
from crossmodal_bench.training import instantiate

SMALL: dict[str, Any] = {
    "model.init_args.dim": 12,
    "model.init_args.hidden": 10,
    "model.init_args.embedding": 6,
    "model.init_args.image_encoder.init_args.hidden": [],
    "data.batch_size": 8,
}
PICTURES: dict[str, Any] = {
    f"model.init_args.pictures.init_args.{name}": value
    for name, value in (
        ("noise_dim", 4),
        ("condition_dim", 5),
        ("generator_channels", 2),
        ("critic_channels", 2),
    )
}
CAPTIONS: dict[str, Any] = {
    "model.init_args.captions.init_args.hidden": 8,
    "model.init_args.captions.init_args.embedding": 6,
    "model.init_args.captions.init_args.max_words": 6,
}
OF_METHOD = {
    "gru": {},
    "gxn_finetune": {},
    "gxn_i2t_xe": CAPTIONS,
    "gxn_i2t_mix": {**CAPTIONS, "model.init_args.captions.init_args.reinforce_from": 1},
    "gxn_t2i": PICTURES,
    "gxn": {**CAPTIONS, **PICTURES},
}
PATHS = {"captions": "captions.", "generator": "pictures.generator.", "critic": "pictures.critic."}


def small(method: str, **more: Any) -> dict[str, Any]:
    return {**SMALL, **OF_METHOD[method], **more}


def batch_of(data: Any, rows: range = range(8)) -> PairBatch:
    dataset = PairDataset(data.views, "train", "image", 0)
    return dataset[BatchRows(0, torch.tensor(list(rows)).numpy())]


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("method", OF_METHOD)
def test_scores_are_eq_2_and_3_pair_by_pair(method: str) -> None:
    model, data = built(method, **small(method, **{"model.init_args.balance": 0.3}))
    batch = batch_of(data)
    images, texts = model.encode_images(batch.images), model.encode_texts(batch.texts)
    assert images.values.shape == texts.values.shape == (8, 1 if method == "gru" else 2, 12)
    assert (images.values >= 0).all()
    torch.testing.assert_close(images.values.norm(dim=2), torch.ones(images.values.shape[:2]))
    scores = model.score(images, texts)
    for i in range(8):
        for j in range(8):
            each = -(images.values[i] - texts.values[j]).clamp(min=0).square().sum(1)
            expected = each[0] if method == "gru" else 0.3 * each[0] + 0.7 * each[1]
            torch.testing.assert_close(scores[i, j], expected)


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_at_the_ends_of_lambda_one_of_the_vectors_decides(balance: float) -> None:
    model, data = built("gxn_finetune", **small("gxn_finetune", **{"model.init_args.balance": balance}))
    batch = batch_of(data)
    images, texts = model.encode_images(batch.images), model.encode_texts(batch.texts)
    part = 0 if balance else 1
    each = (images.values[:, None, part] - texts.values[None, :, part]).clamp(min=0).square().sum(2)
    torch.testing.assert_close(model.score(images, texts), -each)


class Steps:
    """Records which parameters each step moved, by a wrapper around the method's own `_step`."""

    def __init__(self, model: Any) -> None:
        self.model, self.moved, self.losses = model, [], []
        self.original: Callable[..., None] = model._step
        model._step = self

    def __call__(self, loss: Tensor, optimisers: list[Any]) -> None:
        before = {name: one.detach().clone() for name, one in self.model.named_parameters()}
        self.original(loss, optimisers)
        self.losses.append(float(loss.detach()))
        self.moved.append(
            {name for name, one in self.model.named_parameters() if not torch.equal(one, before[name])}
        )
        assert all(one.grad is None for group in optimisers for one in group.param_groups[0]["params"])


@pytest.mark.parametrize("method", OF_METHOD)
def test_each_step_moves_what_it_should_and_nothing_else(method: str) -> None:
    config = configuration(
        method, **small(method, **{"trainer.max_epochs": 1, "trainer.limit_train_batches": 1})
    )
    cli = instantiate(config, **QUIET, limit_val_batches=0)
    cli.model.prepare(cli.datamodule.build(cli.model.requires))
    steps = Steps(cli.model)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    everything = {name for name, _ in cli.model.named_parameters()}
    pictures = {name for name in everything if name.startswith("pictures.")}
    critic = {name for name in everything if name.startswith("pictures.critic.")}
    captions = {name for name in everything if name.startswith("captions.")}
    expected = {
        "gxn_t2i": [critic, everything - critic],
        "gxn": [everything - pictures, critic, everything - critic - captions],
    }.get(method, [everything])
    # A word that no caption of the batch has does not move; tables of words move as a whole or not at all.
    assert steps.moved == expected


def test_the_ranking_loss_is_the_mean_over_pairs_of_all_negatives() -> None:
    model, data = built("gxn_finetune", **small("gxn_finetune"))
    batch = batch_of(data)
    images, texts = model.encode_images(batch.images), model.encode_texts(batch.texts)
    expected = triplet_ranking_loss(model.score(images, texts), 0.05, hardest=False) / 8
    torch.testing.assert_close(model._ranking(images, texts), expected)


def test_gamma_grows_from_the_epoch_of_the_first_reward_to_the_last() -> None:
    path = CaptionPath(reinforce_from=5, gamma_first=0.05, gamma_last=0.95)
    assert [path.gamma(epoch, 15) for epoch in (0, 4)] == [0, 0]
    assert path.gamma(5, 15) == 0.05 and path.gamma(14, 15) == pytest.approx(0.95)
    assert all(path.gamma(epoch, 15) < path.gamma(epoch + 1, 15) for epoch in range(5, 14))
    assert CaptionPath().gamma(10, 15) == 0


@pytest.fixture(scope="module")
def writer() -> tuple[Any, Any]:
    """A model whose decoder has a reward, and its data."""
    model, data = built("gxn_i2t_mix", **small("gxn_i2t_mix"))
    model.trainer = instantiate(configuration("gxn_i2t_mix", **small("gxn_i2t_mix")), **QUIET).trainer
    model.trainer.datamodule = data
    model.on_fit_start()
    return model, data


def test_the_mixture_is_eq_7_with_greedy_as_baseline(writer: tuple[Any, Any]) -> None:
    model, data = writer
    batch, path = batch_of(data), model.captions
    vectors = model._grounded(model.encode_images(batch.images))
    torch.manual_seed(4)
    entropy, logged = path.loss(vectors, batch.texts, 0, 10)
    assert set(logged) == {"train/loss_caption"} and torch.equal(entropy, logged["train/loss_caption"])
    torch.manual_seed(4)
    loss, logged = path.loss(vectors, batch.texts, 1, 10)
    gamma = path.gamma(1, 10)
    expected = (1 - gamma) * logged["train/loss_caption"] + gamma * logged["train/loss_reinforcement"]
    torch.testing.assert_close(loss, expected)


def test_a_caption_is_rewarded_by_its_own_images_references(writer: tuple[Any, Any]) -> None:
    model, data = writer
    batch = batch_of(data, range(3, 11))
    reward = model.captions._reward
    own = batch.texts.words[:, 1:]
    places = torch.searchsorted(model.captions._images, batch.texts.image)
    scores, others = reward(own, places), reward(own, places.roll(1))
    assert (scores > others).all() and scores.min() > 1
    seen: list[Tensor] = []
    model.captions._reward = lambda ids, images: seen.append(images) or torch.ones(len(images))
    model.captions._reinforced(torch.rand(8, 12), batch.texts.image)
    model.captions._reward = reward
    assert torch.equal(seen[0], places) and torch.equal(seen[1], places)


def test_samples_ahead_of_greedy_become_likelier(writer: tuple[Any, Any]) -> None:
    model, data = writer
    batch, path = batch_of(data), model.captions
    vectors = model._grounded(model.encode_images(batch.images)).detach().requires_grad_()
    drawn = torch.tensor([[4, 5, 3]] * 8)
    path.decoder.sample = lambda *_: drawn  # type: ignore[method-assign]
    original, path._reward = path._reward, lambda ids, images: 2.0 * (ids is drawn) * torch.ones(len(images))
    try:
        loss, reward = path._reinforced(vectors, batch.texts.image)
    finally:
        path._reward = original
        del path.decoder.sample
    assert float(reward) == 2
    likelihoods = path.decoder.log_likelihoods(vectors, drawn, drawn > 0)
    torch.testing.assert_close(loss, -2 * likelihoods.mean())


@pytest.mark.parametrize("reward", ["cider", "bleu"])
def test_several_samples_and_both_rewards(reward: str) -> None:
    path = CaptionPath(8, 6, reinforce_from=0, reward=reward, samples=3, max_words=4)  # type: ignore[arg-type]
    model, data = built("gxn_i2t_mix", **small("gxn_i2t_mix"))
    path.build(model.data_spec, 12)
    path.learn_from(torch.tensor([0, 1]), [[[4, 5, 3], [6, 3]], [[7, 3]]])
    vectors = torch.rand(2, 12, requires_grad=True)
    loss, _ = path.loss(vectors, batch_of(data, range(2)).texts, 0, 4)
    loss.backward()
    assert vectors.grad is not None and vectors.grad.isfinite().all()


def test_a_wrong_caption_is_another_images() -> None:
    model, data = built("gxn_t2i", **small("gxn_t2i"))
    path, batch = model.pictures, batch_of(data)
    condition = torch.eye(8)[:, :5]
    seen: list[Tensor] = []
    logits = path.critic.logits
    path.critic.logits = lambda features, given: seen.append(given) or logits(features, given)
    path.critic_loss(batch.images.pictures, batch.images.pictures, condition, batch.images.index)
    real, wrong, fake = seen
    assert torch.equal(real, condition) and torch.equal(fake, condition)
    assert torch.equal(wrong, condition[1:])
    seen.clear()
    # All of one image: no caption of the batch is wrong.
    path.critic_loss(batch.images.pictures, batch.images.pictures, condition, torch.zeros(8))
    assert len(seen[1]) == 0


def test_the_generators_loss_reaches_the_captions_and_not_the_critic() -> None:
    model, data = built("gxn_t2i", **small("gxn_t2i"))
    batch = batch_of(data)
    texts = model.encode_texts(batch.texts)
    loss, _ = model.pictures.generator_loss(*model.pictures.draw(model._grounded(texts)))
    loss.backward()
    reached = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
    assert not any(name.startswith("pictures.critic.") for name in reached)
    assert {"words.weight", "grounded.projection.weight"} <= reached
    assert not any(name.startswith(("abstract.", "image_encoder.")) for name in reached)
    model.zero_grad()
    drawn, mean, _ = model.pictures.draw(model._grounded(model.encode_texts(batch.texts)))
    model.pictures.critic_loss(batch.images.pictures, drawn, mean, batch.images.index).backward()
    reached = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
    assert reached and all(name.startswith("pictures.critic.") for name in reached)


def test_captions_and_pictures_of_a_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = built("gxn", **small("gxn"))
    model.eval()
    model.trainer = SimpleNamespace(datamodule=data)
    batch = batch_of(data)
    images, texts = model.encode_images(batch.images), model.encode_texts(batch.texts)
    vectors, decode = model._grounded(images), data.views.vocabulary.decode
    for beam, ids in (
        (1, model.captions.decoder.greedy(vectors, 6)),
        (3, model.captions.decoder.beam(vectors, 6, 3)),
    ):
        assert model.write(images, beam) == [decode(line) for line in ids.tolist()]
        monkeypatch.setattr(imagining, "WRITTEN_AT_A_TIME", 3)
        written = model.captions.write(vectors, beam)
        assert written.shape == (8, 6) and torch.equal(written[:, : ids.shape[1]], ids)
        assert not written[:, ids.shape[1] :].any()
    drawn = model.draw(texts)
    assert drawn.shape == (8, 3, 64, 64) and drawn.abs().max() <= 1
    plain, _ = built("gxn_finetune", **small("gxn_finetune"))
    assert plain.write(images) == [] and plain.draw(texts) is None


def test_a_loss_that_is_no_number_stops_the_training_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration("gxn_t2i", **small("gxn_t2i", **{"trainer.max_epochs": 1}))
    original = PicturePath.critic_loss
    monkeypatch.setattr(PicturePath, "critic_loss", lambda *given: original(*given) * torch.nan)
    kept: list[Any] = []
    monkeypatch.setattr(GXN, "on_fit_start", kept.append)
    with pytest.raises(Diverged, match=r"train/loss_critic is nan in epoch 1: training has diverged"):
        fitted(config, [], limit_val_batches=0)
    assert all(one.isfinite().all() for one in kept[0].parameters()), "no step was taken with it"


def test_stages_begin_with_what_they_are_given() -> None:
    """The image side of a model that writes, the text side of one that draws."""
    start, _ = built("gxn_finetune", **small("gxn_finetune", seed=1))
    mix, _ = built("gxn_i2t_mix", **small("gxn_i2t_mix", seed=2))
    t2i, _ = built("gxn_t2i", **small("gxn_t2i", seed=3))
    whole, _ = built("gxn", **small("gxn", seed=4))
    before = state(mix)
    mix.inherit({"gxn_finetune": start.state_dict()})
    for name, value in mix.state_dict().items():
        source = start.state_dict() if name.startswith("image_encoder.") else before
        assert torch.equal(value, source[name]), name
    whole.inherit({"gxn_i2t_mix": mix.state_dict(), "gxn_t2i": t2i.state_dict()})
    for name, value in whole.state_dict().items():
        source = mix if name.startswith(("image_encoder.", "captions.")) else t2i
        assert torch.equal(value, source.state_dict()[name]), name


@pytest.mark.parametrize("method", ["gxn_i2t_mix", "gxn"])
def test_a_stopped_training_ends_where_an_undisturbed_one_does(method: str, tmp_path: Path) -> None:
    config = configuration(method, **small(method, **{"trainer.max_epochs": 3}))
    callbacks = [RandomState()]
    whole = fitted(config, callbacks, limit_val_batches=0).model
    half = fitted(config, [RandomState()], limit_val_batches=0, max_epochs=2)
    half.trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = fitted(config, [RandomState()], tmp_path / "half.ckpt", limit_val_batches=0).model
    for name, value in state(whole).items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_validation_says_how_good_the_captions_are(tmp_path: Path) -> None:
    history = History()
    from crossmodal_bench.callbacks import RetrievalEvaluation

    config = configuration("gxn_i2t_xe", **small("gxn_i2t_xe", **{"trainer.max_epochs": 1}))
    fitted(config, [history, RetrievalEvaluation()])
    assert history.epochs[0]["val/cider"] >= 0


def test_settings_that_contradict_each_other() -> None:
    encoder = FeatureEncoder()
    with pytest.raises(ValueError, match="grounded is false"):
        GXN(encoder, grounded=False, pictures=PicturePath())
    with pytest.raises(ValueError, match="balance is 2"):
        GXN(encoder, balance=2)
    with pytest.raises(ValueError, match=r"captions\.sampling is 1\.5"):
        CaptionPath(sampling=1.5)
    with pytest.raises(ValueError, match=r"captions\.samples is 0"):
        CaptionPath(samples=0)


def test_the_papers_configuration_takes_a_step_of_each_path() -> None:
    """ResNet-152 and 27,012 words are for a run by hand; every other size is the paper's."""
    model = GXN(FeatureEncoder(), captions=CaptionPath(reinforce_from=0), pictures=PicturePath())
    from crossmodal_bench.data.batch import DataSpec

    model.prepare(DataSpec(10, 50, feature_dim=20, vocabulary_size=50))
    assert model.pictures is not None and model.captions is not None
    assert model.captions.decoder.recurrent.hidden_size == 1024
    images = model._measured([torch.rand(2, 1024), torch.rand(2, 1024)])
    drawn, mean, log_variance = model.pictures.draw(model._grounded(images))
    assert drawn.shape == (2, 3, 64, 64) and mean.shape == log_variance.shape == (2, 128)
