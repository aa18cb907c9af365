"""GXN: what it ranks by, what each step moves, what is drawn and written, and where its stages begin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny import QUIET, built, configuration, fitted
from torch import Tensor

from crossmodal_bench.core.batch import DataSpec, PairBatch, TextBatch
from crossmodal_bench.core.errors import BadInput, Diverged
from crossmodal_bench.data.loader import BatchRows
from crossmodal_bench.data.views import PairDataset
from crossmodal_bench.losses import triplet_ranking_loss
from crossmodal_bench.methods import GXN, CaptionPath, OrderRankingSettings, PicturePath
from crossmodal_bench.methods.gxn import generation
from crossmodal_bench.networks import ConvNetEncoder, FeatureEncoder
from crossmodal_bench.training.callbacks import History, RandomState, RetrievalEvaluation
from crossmodal_bench.training.lightning_cli import instantiate

SMALL: dict[str, Any] = {
    "model.init_args.dim": 12,
    "model.init_args.text_encoders.hidden": 10,
    "model.init_args.text_encoders.embedding": 6,
    "model.init_args.image_encoder.init_args.hidden": [],
    "data.batch_size": 8,
}
PICTURES: dict[str, Any] = {
    f"model.init_args.pictures.init_args.{name}": value
    for name, value in (
        ("noise_dim", 4),
        ("condition_dim", 5),
        ("generator_channels", 2),
        ("discriminator_channels", 2),
    )
}
CAPTIONS: dict[str, Any] = {
    "model.init_args.captions.init_args.hidden": 8,
    "model.init_args.captions.init_args.embedding": 6,
    "model.init_args.captions.init_args.max_words": 6,
    "model.init_args.captions.init_args.samples": 1,
}
OF_METHOD = {
    "gru": {},
    "gxn_finetune": {},
    "gxn_i2t_xe": CAPTIONS,
    "gxn_i2t_mix": {**CAPTIONS, "model.init_args.captions.init_args.reinforce_from": 1},
    "gxn_t2i": PICTURES,
    "gxn": {**CAPTIONS, **PICTURES},
}
PATHS = {
    "captions": "captions.",
    "generator": "pictures.generator.",
    "discriminator": "pictures.discriminator.",
}


def small(method: str, **more: Any) -> dict[str, Any]:
    return {**SMALL, **OF_METHOD[method], **more}


def batch_of(data: Any, rows: range = range(8)) -> PairBatch:
    dataset = PairDataset(data.views, "train", "image", 0)
    return dataset[BatchRows(0, torch.tensor(list(rows)).numpy())]


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("method", OF_METHOD)
def test_scores_are_eq_2_and_3_pair_by_pair(method: str) -> None:
    model, data = built(method, **small(method, **{"model.init_args.ranking.balance": 0.3}))
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
    model, data = built(
        "gxn_finetune", **small("gxn_finetune", **{"model.init_args.ranking.balance": balance})
    )
    batch = batch_of(data)
    images, texts = model.encode_images(batch.images), model.encode_texts(batch.texts)
    part = 0 if balance else 1
    each = (images.values[:, None, part] - texts.values[None, :, part]).clamp(min=0).square().sum(2)
    torch.testing.assert_close(model.score(images, texts), -each)


class Steps:
    """Records which parameters each step moved, by a wrapper around the method's own `_step`."""

    def __init__(self, model: Any) -> None:
        self.model, self.moved = model, list[set[str]]()
        self.original: Callable[..., None] = model._step
        model._step = self

    def __call__(self, main: Any, of_pictures: Any = None) -> None:
        before = {name: one.detach().clone() for name, one in self.model.named_parameters()}
        self.original(main, of_pictures)
        self.moved.append(
            {name for name, one in self.model.named_parameters() if not torch.equal(one, before[name])}
        )
        stepped = [one for one in (main, of_pictures) if one is not None]
        assert all(one.grad is None for group in stepped for one in group.param_groups[0]["params"])


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
    discriminator = {name for name in everything if name.startswith("pictures.discriminator.")}
    captions = {name for name in everything if name.startswith("captions.")}
    expected = {
        "gxn_t2i": [discriminator, everything - discriminator],
        "gxn": [everything - pictures, discriminator, everything - discriminator - captions],
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
    model.trainer = SimpleNamespace(datamodule=data, max_epochs=10)
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
    batch, path = batch_of(data, range(3, 11)), model.captions
    own = batch.texts.words[:, 1:]
    rewarded = path._reward
    assert torch.equal(path._images, torch.from_numpy(data.corpus.image_rows("train")))
    scores, others = rewarded(own, batch.texts.image), rewarded(own, batch.texts.image.roll(1))
    assert (scores > others).all() and scores.min() > 1


def test_rows_of_the_corpus_are_found_among_the_training_images() -> None:
    """Training images lie between those of other splits, as in MS-COCO."""
    path = CaptionPath(8, 6, reinforce_from=0, max_words=3)
    path.build(DataSpec(3, 3, vocabulary_size=10), 12)
    path.learn_from(torch.tensor([3, 7, 9]), [[[4, 3]], [[5, 3]], [[6, 3]]])
    seen: list[Tensor] = []

    def reward(ids: Tensor, images: Tensor) -> Tensor:
        seen.append(images)
        return torch.ones(len(images))

    path._reward = reward  # type: ignore[assignment]
    path._reinforced(torch.rand(4, 12), torch.tensor([9, 3, 7, 9]))
    assert [one.tolist() for one in seen] == [[2, 0, 1, 2]] * 2


def test_samples_ahead_of_greedy_become_likelier(
    writer: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = writer
    batch, path = batch_of(data), model.captions
    vectors = model._grounded(model.encode_images(batch.images)).detach().requires_grad_()
    drawn = torch.tensor([[4, 5, 3]] * 8)
    monkeypatch.setattr(path.decoder, "sample", lambda *_: drawn)
    monkeypatch.setattr(path, "_reward", lambda ids, images: 2.0 * (ids is drawn) * torch.ones(len(images)))
    loss, reward = path._reinforced(vectors, batch.texts.image)
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
    logits = path.discriminator.logits
    path.discriminator.logits = lambda features, given: seen.append(given) or logits(features, given)
    path.discriminator_loss(batch.images.pictures, batch.images.pictures, condition, batch.images.index)
    real, wrong, fake = seen
    assert torch.equal(real, condition) and torch.equal(fake, condition)
    assert torch.equal(wrong, condition[1:])
    seen.clear()
    # All of one image: no caption of the batch is wrong.
    path.discriminator_loss(batch.images.pictures, batch.images.pictures, condition, torch.zeros(8))
    assert len(seen[1]) == 0


def test_the_generators_loss_reaches_the_captions_and_not_the_discriminator() -> None:
    model, data = built("gxn_t2i", **small("gxn_t2i"))
    batch = batch_of(data)
    texts = model.encode_texts(batch.texts)
    loss, _ = model.pictures.generator_loss(*model.pictures.draw(model._grounded(texts)))
    loss.backward()
    reached = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
    assert not any(name.startswith("pictures.discriminator.") for name in reached)
    assert {"words.weight", "grounded.projection.weight"} <= reached
    assert not any(name.startswith(("abstract.", "image_encoder.")) for name in reached)
    model.zero_grad()
    drawn, mean, _ = model.pictures.draw(model._grounded(model.encode_texts(batch.texts)))
    model.pictures.discriminator_loss(batch.images.pictures, drawn, mean, batch.images.index).backward()
    reached = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
    assert reached and all(name.startswith("pictures.discriminator.") for name in reached)


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
        monkeypatch.setattr(generation, "WRITTEN_AT_A_TIME", 3)
        written = model.captions.write(vectors, beam)
        assert written.shape == (8, 6) and torch.equal(written[:, : ids.shape[1]], ids)
        assert not written[:, ids.shape[1] :].any()
    drawn = model.draw(texts)
    assert drawn.shape == (8, 3, 64, 64) and drawn.abs().max() <= 1
    plain, _ = built("gxn_finetune", **small("gxn_finetune"))
    assert plain.write(images) == [] and plain.draw(texts) is None


def test_a_loss_that_is_no_number_stops_the_training_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration("gxn_t2i", **small("gxn_t2i", **{"trainer.max_epochs": 1}))
    original = PicturePath.discriminator_loss
    monkeypatch.setattr(
        PicturePath, "discriminator_loss", lambda *given, **named: original(*given, **named) * torch.nan
    )
    kept: list[Any] = []
    monkeypatch.setattr(GXN, "on_fit_start", lambda self: kept.append(self))
    with pytest.raises(Diverged, match=r"train/loss_discriminator is nan in epoch 1: training has diverged"):
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


class SaveAt(pl.Callback):
    """A checkpoint at the end of an epoch, or behind the first batch of the next."""

    def __init__(self, path: Path, batches: int) -> None:
        self.path, self.batches = path, batches

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.batches and (trainer.current_epoch, trainer.fit_loop.batch_idx) == (2, 0):
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.batches and trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("batches", [0, 1])
@pytest.mark.parametrize("method", ["gxn_i2t_mix", pytest.param("gxn", marks=pytest.mark.slow)])
def test_a_stopped_training_ends_where_an_undisturbed_one_does(
    method: str, batches: int, tmp_path: Path
) -> None:
    """Between two epochs, and behind the first batch of one; the rate falls in every epoch."""
    config = configuration(
        method, **small(method, **{"trainer.max_epochs": 3, "model.init_args.schedule.every_epochs": 1})
    )
    saving = SaveAt(tmp_path / "half.ckpt", batches)
    whole = fitted(config, [RandomState(), saving], limit_val_batches=0).model
    saved = torch.load(saving.path, weights_only=True)
    assert any(not torch.equal(saved["state_dict"][name], value) for name, value in state(whole).items())
    resumed = fitted(config, [RandomState()], saving.path, limit_val_batches=0).model
    for name, value in state(whole).items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_validation_says_how_good_the_captions_are(tmp_path: Path) -> None:
    history = History()
    config = configuration("gxn_i2t_xe", **small("gxn_i2t_xe", **{"trainer.max_epochs": 1}))
    fitted(config, [history, RetrievalEvaluation()])
    assert history.epochs[0]["val/cider"] >= 0


def test_settings_that_contradict_each_other() -> None:
    encoder = FeatureEncoder()
    with pytest.raises(ValueError, match="grounded is false"):
        GXN(encoder, grounded=False, pictures=PicturePath())
    with pytest.raises(ValueError, match=r"ranking\.balance is 2"):
        OrderRankingSettings(balance=2)
    with pytest.raises(ValueError, match=r"captions\.sampling is 1\.5"):
        CaptionPath(sampling=1.5)
    with pytest.raises(ValueError, match=r"captions\.samples is 0"):
        CaptionPath(samples=0)
    with pytest.raises(ValueError, match=r"captions\.max_words is 0"):
        CaptionPath(max_words=0)
    with pytest.raises(ValueError, match=r"captions\.reinforce_from is -1"):
        CaptionPath(reinforce_from=-1)
    with pytest.raises(ValueError, match="until_plateau; GXN supports never or always"):
        GXN(ConvNetEncoder(freeze="until_plateau"))


def test_a_reward_that_comes_too_late_is_said() -> None:
    config = configuration("gxn_i2t_mix", **small("gxn_i2t_mix", **{"trainer.max_epochs": 1}))
    with pytest.warns(UserWarning, match="reinforce_from is 1, after the last epoch"):
        fitted(config, [], limit_val_batches=0)


def test_parents_that_have_nothing_to_give_or_the_same() -> None:
    whole, _ = built("gxn", **small("gxn"))
    t2i, _ = built("gxn_t2i", **small("gxn_t2i"))
    with pytest.raises(BadInput, match="scan has no weights that GXN can start from"):
        whole.inherit({"scan": {"host.words.weight": torch.zeros(1)}})
    with pytest.raises(BadInput, match="one and two both provide words; remove one parent"):
        whole.inherit({"one": t2i.state_dict(), "two": t2i.state_dict()})


@pytest.mark.slow
def test_paths_of_the_papers_size_take_a_step() -> None:
    """Every size is the paper's but the image network's and the vocabulary's, which are for a run by hand."""
    captions, pictures = CaptionPath(reinforce_from=0), PicturePath()
    captions.build(DataSpec(2, 2, vocabulary_size=50), 1024)
    pictures.build(1024)
    captions.learn_from(torch.tensor([0, 1]), [[[4, 5, 3]], [[6, 3]]])
    assert captions.decoder.recurrent.hidden_size == 1024
    vectors = torch.rand(2, 1024, requires_grad=True)
    index, words = torch.tensor([0, 1]), torch.tensor([[2, 4, 5, 3], [2, 6, 3, 0]])
    loss, logged = captions.loss(vectors, TextBatch(index, index, words, torch.tensor([4, 3])), 1, 2)
    assert set(logged) == {"train/loss_caption", "train/loss_reinforcement", "train/reward"}
    drawn, mean, log_variance = pictures.draw(vectors)
    assert drawn.shape == (2, 3, 64, 64) and mean.shape == log_variance.shape == (2, 128)
    pictures.discriminator_loss(torch.rand(2, 3, 64, 64), drawn, mean, index).backward()
    generator, discriminator = pictures.optimisers()
    discriminator.step()
    (loss + pictures.generator_loss(drawn, mean, log_variance)[0]).backward()
    generator.step()
    assert all(one.isfinite().all() for one in (*captions.parameters(), *pictures.parameters()))
    assert vectors.grad is not None and vectors.grad.any()
