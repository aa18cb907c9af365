"""InfoNCE and SigLIP's loss as methods: what reaches the loss, the rates, the temperature, the settings."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny import check_equal, configuration, fitted
from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec, ImageBatch, PairBatch, TextBatch
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.losses import infonce_loss, siglip_loss
from crossmodal_bench.methods import (
    AdamWSettings,
    CosineSettings,
    InfoNCE,
    SigLIP,
    TemperatureSettings,
)
from crossmodal_bench.networks import FeatureEncoder, Freezable, LanguageModelEncoder, WordEncoder
from crossmodal_bench.similarity import cosine_similarity
from crossmodal_bench.training.callbacks import History
from crossmodal_bench.training.lightning_cli import instantiate

B, V, D = 6, 9, 4
SPEC = DataSpec(20, 40, feature_dim=V, vocabulary_size=30, n_identities=5, weights_root=".")
IDENTITIES = torch.tensor([0, 1, 2, 0, 3, 1])
SMALL = {
    "model.init_args.image_encoder.init_args.hidden": [8],
    "model.init_args.text_encoder.init_args.embedding": 6,
    "model.init_args.text_encoder.init_args.hidden": 6,
    "model.init_args.dim": 8,
    "data.batch_size": 16,
    "trainer.max_epochs": 2,
}
METHODS = (InfoNCE, SigLIP)


def batch() -> PairBatch:
    generator = torch.Generator().manual_seed(1)
    index = torch.arange(B)
    images = ImageBatch(index, features=torch.randn(B, V, generator=generator), identities=IDENTITIES)
    words = torch.randint(4, 30, (B, 5), generator=generator)
    return PairBatch(images, TextBatch(index, index, words=words, lengths=torch.full((B,), 5)))


def model(method: type[Any], **settings: Any) -> Any:
    """With its networks; ``logged`` are the terms of the latest batch."""
    torch.manual_seed(0)
    made: Any = method(FeatureEncoder(), WordEncoder(6, "gru", 5), **{"dim": D, **settings})
    made.prepare(SPEC)
    made.logged = {}
    made.log_means = lambda values, n: made.logged.update({k: float(v) for k, v in values.items()})
    return made


def loss_of(made: Any) -> Tensor:
    pairs = batch()
    found: Tensor = made.loss(made.encode_images(pairs.images), made.encode_texts(pairs.texts), pairs)
    return found


def settings(method: str, **changes: Any) -> dict[str, Any]:
    return configuration(method, **{**SMALL, **changes})


def test_the_loss_is_the_objective_of_the_batchs_cosines() -> None:
    pairs = batch()
    for method in METHODS:
        made = model(method)
        cosines = cosine_similarity(made.image_encoder(pairs.images), made.text_encoder(pairs.texts))
        if method is InfoNCE:
            expected = infonce_loss(cosines, made.log_scale, IDENTITIES)
            assert made.logged == {}
        else:
            expected = siglip_loss(cosines, made.log_scale, made.bias, IDENTITIES)
        found = loss_of(made)
        torch.testing.assert_close(found, expected)
        assert made.logged["train/loss_contrastive"] == pytest.approx(float(expected))
        assert made.logged["train/scale"] == pytest.approx(1 / 0.07 if method is InfoNCE else 10.0)


@pytest.mark.parametrize("method", METHODS)
def test_everything_has_a_gradient_the_temperature_too(method: type[Any]) -> None:
    made = model(method)
    loss_of(made).backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert float(made.log_scale.grad) != 0
    if method is SigLIP:
        assert float(made.bias) == -10 and float(made.bias.grad) < 0, "there are too few positives"


@pytest.mark.parametrize("method", METHODS)
def test_captions_of_one_image_are_spared(method: type[Any]) -> None:
    made, pairs = model(method), batch()
    images, texts = made.encode_images(pairs.images), made.encode_texts(pairs.texts)
    distinct = replace(pairs, images=replace(pairs.images, identities=torch.arange(B)))
    assert float(made.loss(images, texts, pairs)) < float(made.loss(images, texts, distinct))


class NotingSGD(torch.optim.SGD):
    """Notes the gradients of its first step."""

    gradients: list[Tensor] | None = None

    def step(self, closure: Any = None) -> Any:
        if self.gradients is None:
            parameters = (parameter for group in self.param_groups for parameter in group["params"])
            self.gradients = [parameter.grad.clone() for parameter in parameters]
        return super().step(closure)


@pytest.mark.parametrize("method", ["infonce", "siglip"])
def test_micro_batches_have_the_gradient_of_the_whole_batch(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch statistics aside."""

    def build(settings: AdamWSettings, module: nn.Module) -> torch.optim.Optimizer:
        return NotingSGD([{"params": list(module.parameters()), "initial_lr": 0.1}], lr=0.1)

    monkeypatch.setattr(AdamWSettings, "build", build)
    small = {"model.init_args.image_encoder.init_args.standardise": False, "trainer.max_epochs": 1}
    gradients = []
    for size in (None, 5):
        changes = {**small, "model.init_args.micro_batch_size": size}
        torch.manual_seed(0)
        cli = fitted(settings(method, **changes), [], limit_train_batches=1, limit_val_batches=0)
        (optimiser,) = cli.trainer.optimizers
        assert isinstance(optimiser, NotingSGD) and optimiser.gradients is not None
        gradients.append(optimiser.gradients)
        names = [name for name, _ in cli.model.named_parameters()]
    for name, parts, whole in zip(names, *gradients, strict=True):
        assert float(whole.abs().max()) > 0, name
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-6, msg=name)


# ---- rates ------------------------------------------------------------------------------------------------


def test_rates_rise_and_fall_along_half_a_cosine() -> None:
    schedule = CosineSettings(warmup=0.25)
    found = [schedule.multiplier(step, 8) for step in range(8)]
    falling = [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert found == pytest.approx([0.5, 1.0, *falling])
    assert min(found) > 0
    assert schedule.multiplier(11, 8) == found[-1], "beyond the end"
    assert CosineSettings().multiplier(0, 8) == 1
    assert CosineSettings(warmup=0.5).multiplier(0, 1) == 1, "a training of one step"
    assert CosineSettings(warmup=0.99).multiplier(10, 10) == 1, "a training that only rises is never at rest"


def test_the_rates_of_a_training_are_those_of_its_steps() -> None:
    config = settings(
        "infonce", **{"model.init_args.schedule.warmup": 0.25, "trainer.limit_train_batches": 2}
    )
    cli = fitted(config, [])
    model: Any = cli.model
    assert model.steps_done() == model.steps_in_all() == 4
    expected = 2e-3 * CosineSettings(0.25).multiplier(3, 4)
    rates = [group["lr"] for group in cli.trainer.optimizers[0].param_groups]
    assert rates == pytest.approx([expected] * len(rates)) and 0 < expected < 2e-3


def test_a_training_without_an_end_has_no_cosine() -> None:
    made = model(InfoNCE)
    made._trainer = SimpleNamespace(estimated_stepping_batches=math.inf)
    with pytest.raises(BadInput, match=r"trainer.max_epochs is -1.*give a number of epochs"):
        made.steps_in_all()


class WithPretrained(nn.Module):
    def __init__(self, freeze: Any = "never") -> None:
        super().__init__()
        self.network = Freezable(nn.Linear(3, 2), freeze)
        self.own = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.zeros(()))


def test_gains_and_biases_do_not_decay_and_pretrained_networks_have_a_rate_of_their_own() -> None:
    module = WithPretrained()
    made = AdamWSettings(
        1e-3, pretrained_learning_rate=1e-5, beta1=0.8, beta2=0.95, epsilon=1e-6, weight_decay=0.2
    ).build(module)
    assert isinstance(made, torch.optim.AdamW)
    found = {
        (group["lr"], group["weight_decay"]): {id(parameter) for parameter in group["params"]}
        for group in made.param_groups
    }
    network = module.network.network
    assert found == {
        (1e-3, 0.2): {id(module.own.weight)},
        (1e-3, 0.0): {id(module.own.bias), id(module.scale)},
        (1e-5, 0.2): {id(network.weight)},
        (1e-5, 0.0): {id(network.bias)},
    }
    for group in made.param_groups:
        assert (group["betas"], group["eps"], group["initial_lr"]) == ((0.8, 0.95), 1e-6, group["lr"])


def test_a_rate_for_pretrained_networks_needs_one_that_is_trained() -> None:
    for module in (nn.Linear(2, 2), WithPretrained("always")):
        with pytest.raises(BadInput, match=r"pretrained_learning_rate is 1e-05, but no pre-trained network"):
            AdamWSettings(pretrained_learning_rate=1e-5).build(module)
    frozen = AdamWSettings().build(WithPretrained("always"))
    assert sum(len(group["params"]) for group in frozen.param_groups) == 3


def test_gradients_are_clipped() -> None:
    config = settings("siglip", **{"model.init_args.optimizer.gradient_clip": 1e-6})
    cli = fitted(config, [], limit_train_batches=2, limit_val_batches=0)
    moments = [state["exp_avg_sq"].sum() for state in cli.trainer.optimizers[0].state.values()]
    assert 0 < float(sum(moments)) < 1e-11


# ---- temperature ------------------------------------------------------------------------------------------


class Pushes(pl.Callback):
    """Puts the factor on the cosines beyond its bound before each step."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            pl_module.log_scale.fill_(math.log(50))


@pytest.mark.parametrize(("largest", "expected"), [(20.0, 20.0), (None, 50.0)])
def test_the_scale_is_set_back_behind_a_step(largest: float | None, expected: float) -> None:
    changes = {"model.init_args.temperature.largest_scale": largest, "trainer.max_epochs": 1}
    history = History()
    cli = fitted(settings("infonce", **changes), [history, Pushes()], limit_train_batches=1)
    model: Any = cli.model
    assert float(model.log_scale.detach().exp()) == pytest.approx(expected, rel=0.01)
    assert (float(model.log_scale.detach().exp()) <= 20 + 1e-4) == (largest is not None)
    assert {"train/loss_contrastive", "train/scale"} <= set(history.epochs[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TemperatureSettings(initial_scale=0.0), "initial_scale is 0; give a positive number"),
        (
            lambda: TemperatureSettings(20.0, largest_scale=10.0),
            "largest_scale is 10, below initial_scale 20",
        ),
        (lambda: TemperatureSettings(largest_scale=math.nan), "largest_scale is nan, below"),
        (lambda: AdamWSettings(-1), "optimizer.learning_rate is -1; give a positive number"),
        (lambda: AdamWSettings(pretrained_learning_rate=0), "pretrained_learning_rate is 0; give a positive"),
        (
            lambda: AdamWSettings(beta1=-0.1),
            "optimizer.beta1 is -0.1; give a number of at least 0 and below 1",
        ),
        (lambda: AdamWSettings(beta2=1), "optimizer.beta2 is 1; give a number of at least 0 and below 1"),
        (lambda: AdamWSettings(epsilon=math.nan), "optimizer.epsilon is nan; give a positive number"),
        (lambda: AdamWSettings(weight_decay=-1), "optimizer.weight_decay is -1; give 0 or a positive number"),
        (lambda: AdamWSettings(gradient_clip=0), "optimizer.gradient_clip is 0; give a positive number"),
        (lambda: CosineSettings(warmup=1.0), "schedule.warmup is 1; give a fraction"),
        (lambda: CosineSettings(warmup=-0.1), "schedule.warmup is -0.1; give a fraction"),
        (lambda: model(InfoNCE, micro_batch_size=0), "micro_batch_size is 0; give a whole number, 1"),
        (
            lambda: InfoNCE(FeatureEncoder(), LanguageModelEncoder()),
            "text_encoder.freeze is 'until_plateau', but this method never unfreezes",
        ),
    ],
)
def test_settings_without_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---- what a configuration can say -------------------------------------------------------------------------


def test_a_setting_that_cannot_be_used_is_one_sentence() -> None:
    config = settings("infonce", **{"model.init_args.schedule.warmup": 2})
    with pytest.raises(BadInput, match=r"schedule.warmup is 2; give a fraction of all steps"):
        instantiate(config)
    with pytest.raises(BadInput, match=r"key 'model\.init_args\.initial_bias' is unknown"):
        instantiate(settings("infonce", **{"model.init_args.initial_bias": -1.0}))


def encoder_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    """An encoder's settings but for its dropout, which is chosen on validation for each method."""
    encoder = config["model"]["init_args"][name]
    arguments = {
        key: value for key, value in encoder.get("init_args", {}).items() if not key.endswith("dropout")
    }
    return {**encoder, "init_args": arguments}


@pytest.mark.parametrize("preset", ["smoke", "small", "paper"])
def test_siglips_row_is_infonces_but_for_the_objective(preset: str) -> None:
    both = [configuration(method, "flickr30k", preset) for method in ("infonce", "siglip")]
    first, second = (config["model"]["init_args"] for config in both)
    for name in ("image_encoder", "text_encoder"):
        assert encoder_of(both[0], name) == encoder_of(both[1], name)
    assert both[0]["data"] == both[1]["data"] and both[0]["trainer"] == both[1]["trainer"]
    own = {"temperature", "initial_bias", "image_encoder", "text_encoder"}
    if preset == "paper":
        own |= {"optimizer", "schedule"}
    for name in second.keys() - own:
        assert first[name] == second[name], name


@pytest.mark.parametrize("method", ["infonce", "siglip"])
def test_small_has_timams_encoders(method: str) -> None:
    own, timams = (configuration(name, "flickr30k", "small") for name in (method, "timam"))
    for name in ("image_encoder", "text_encoder"):
        assert encoder_of(own, name) == encoder_of(timams, name)
    for name in ("dim", "standardise"):
        assert own["model"]["init_args"][name] == timams["model"]["init_args"][name]
    assert own["data"] == timams["data"]
    assert own["trainer"]["max_epochs"] <= timams["trainer"]["max_epochs"]


def test_encoders_given_as_objects_stay_out_of_the_hyperparameters() -> None:
    made = SigLIP(FeatureEncoder(), WordEncoder(6), initial_bias=-3.0, optimizer=AdamWSettings(1e-2))
    assert {"image_encoder", "text_encoder"}.isdisjoint(made.hparams)
    assert made.hparams["initial_bias"] == -3.0 and made.hparams["optimizer"]["learning_rate"] == 1e-2
    assert made.requires == {"features", "words", "identities"}


def test_a_checkpoint_has_temperature_and_bias(tmp_path: Path) -> None:
    cli = fitted(settings("siglip"), [], limit_train_batches=2)
    path = tmp_path / "trained.ckpt"
    cli.trainer.save_checkpoint(path)
    loaded = SigLIP.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    check_equal(dict(loaded.state_dict()), dict(cli.model.state_dict()))
    assert float(loaded.log_scale) != pytest.approx(math.log(10), abs=1e-6)
    assert float(loaded.bias) != -10 and loaded.steps_done() == 4


def test_half_precision_ranks_and_learns_in_single() -> None:
    cli = fitted(settings("infonce", **{"trainer.precision": "bf16-mixed"}), [], limit_train_batches=2)
    made: Any = cli.model
    images, texts = (next(iter(loader)) for loader in cli.datamodule.eval_dataloaders("test"))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        encoded: list[Encoding] = [made.encode_images(images), made.encode_texts(texts)]
        half = made.score(*encoded)
    assert [side.values.dtype for side in encoded] == [torch.float32] * 2
    assert half.dtype == torch.float32 and torch.equal(half, made.score(*encoded))
