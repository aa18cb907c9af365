"""TIMAM as a whole: which loss reaches which part, the schedule of rates and of unfreezing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import QUIET, configuration
from torch import Tensor

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.core.batch import DataSpec, ImageBatch, PairBatch, TextBatch
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.data.datasets import Synthetic
from crossmodal_bench.data.language.wordpieces import build_tokenizer
from crossmodal_bench.jobs.experiments import expand, merge
from crossmodal_bench.jobs.record import read_record
from crossmodal_bench.losses import (
    cmpc_loss,
    cmpm_loss,
    modality_discriminator_loss,
    modality_fooling_loss,
    norm_softmax_loss,
)
from crossmodal_bench.methods import (
    TIMAM,
    ClassifierSettings,
    ModalityDiscriminatorSettings,
    OptimizerSettings,
    PlateauSettings,
)
from crossmodal_bench.networks import (
    ConvNetEncoder,
    FeatureEncoder,
    Freezable,
    LanguageModelEncoder,
    WordEncoder,
)
from crossmodal_bench.networks.checksums import parameter_checksum
from crossmodal_bench.training.callbacks import History, RetrievalEvaluation
from crossmodal_bench.training.lightning_cli import instantiate
from crossmodal_bench.training.worker import run_job

B, V, C = 6, 9, 5
SPEC = DataSpec(20, 40, feature_dim=V, vocabulary_size=30, n_identities=C, weights_root=".")
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


DISCRIMINATOR = ModalityDiscriminatorSettings(hidden=(3,))
TINY: dict[str, Any] = {"dim": 4, "discriminator": DISCRIMINATOR}


def batch() -> PairBatch:
    generator = torch.Generator().manual_seed(1)
    index, identities = torch.arange(B), torch.tensor([0, 1, 2, 0, 3, 1])
    images = ImageBatch(index, features=torch.randn(B, V, generator=generator), identities=identities)
    words = torch.randint(4, 30, (B, 5), generator=generator)
    return PairBatch(images, TextBatch(index, index, words=words, lengths=torch.full((B,), 5)))


def model(seed: int = 0, **settings: Any) -> Any:
    """With its networks and a stand-in for the trainer; ``logged`` are the terms of the latest batch."""
    torch.manual_seed(seed)
    made: Any = TIMAM(FeatureEncoder(), WordEncoder(6, "gru", 5), **{**TINY, **settings})
    made.prepare(SPEC)
    made._trainer = SimpleNamespace(current_epoch=0, max_epochs=10)
    made.logged = {}
    made.log_means = lambda values, n: made.logged.update({k: float(v) for k, v in values.items()})
    return made


def gradients(made: Any, loss: Tensor) -> dict[str, Tensor | None]:
    made.zero_grad()
    loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in made.named_parameters()}


def parts(made: Any) -> tuple[Tensor, Tensor]:
    data = batch()
    return made.image_encoder(data.images), made.text_encoder(data.texts)


def expected_encoders(made: Any, form: str, adversary: float) -> Tensor:
    """What the encoders and the class weights minimise, with the discriminator's parameters out of it."""
    images, texts = parts(made)
    identities = batch().images.identities
    assert identities is not None
    head = made.classifier
    total = cmpm_loss(images, texts, identities)
    total = total + norm_softmax_loss(images, head.weight, head.bias, identities)
    total = total + norm_softmax_loss(texts, head.weight, head.bias, identities)
    logits = made.discriminator(images), made.discriminator(texts)
    if form == "gradient_reversal":
        return total - adversary * modality_discriminator_loss(*logits, 0.1)
    return total + adversary * modality_fooling_loss(*logits, form)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["non_saturating", "minimax", "gradient_reversal"])
@pytest.mark.parametrize("adversary", [0.0, 0.7])
def test_one_backward_pass_gives_each_side_its_own_gradient(form: str, adversary: float) -> None:
    discriminator = replace(DISCRIMINATOR, adversarial_form=form)  # type: ignore[arg-type]
    made = model(discriminator=discriminator, adversary=adversary)
    found = gradients(made, made.joint_loss(batch()))
    encoders = gradients(made, expected_encoders(made, form, adversary))
    images, texts = parts(made)
    discriminator_loss = modality_discriminator_loss(
        made.discriminator(images.detach()), made.discriminator(texts.detach()), 0.1
    )
    discriminator = gradients(made, discriminator_loss)
    for name, gradient in found.items():
        wanted = discriminator[name] if name.startswith("discriminator") else encoders[name]
        assert gradient is not None and wanted is not None and wanted.abs().sum() > 0, name
        torch.testing.assert_close(gradient, wanted, msg=name)
    assert made.logged["train/loss_adversarial"] == pytest.approx(float(discriminator_loss.detach()))


def test_what_each_weight_switches() -> None:
    only_matching = model(identification=0.0, adversary=0.0)
    found = gradients(only_matching, only_matching.joint_loss(batch()))
    assert not found["classifier.weight"].any()  # type: ignore[union-attr]
    only_identification = model(matching=0.0, adversary=0.0)
    identified = gradients(only_identification, only_identification.joint_loss(batch()))
    assert identified["classifier.weight"].any()  # type: ignore[union-attr]
    name = "image_encoder.projection.layers.0.weight"
    assert not torch.allclose(found[name], identified[name])  # type: ignore[arg-type]


def test_projected_classification_and_a_classifier_for_each_modality() -> None:
    identities = batch().images.identities
    assert identities is not None
    projected = model(classifier=ClassifierSettings(loss="cmpc"), adversary=0.0, matching=0.0)
    assert projected.classifier.bias is None
    loss = projected.joint_loss(batch())
    wanted = cmpc_loss(*parts(projected), projected.classifier.weight, identities)
    assert projected.logged["train/loss_identification"] == pytest.approx(float(wanted.detach()))
    loss.backward()
    separate = model(classifier=ClassifierSettings(shared=False))
    separate.joint_loss(batch()).backward()
    assert separate.text_classifier.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="CMPC has a single classifier"):
        ClassifierSettings(loss="cmpc", shared=False)


def test_identities_may_be_sampled() -> None:
    whole, sampled = model(), model(classifier=ClassifierSettings(sampled=1000))
    whole.joint_loss(batch())
    sampled.joint_loss(batch())
    name = "train/loss_identification"
    assert sampled.logged[name] == pytest.approx(whole.logged[name], rel=1e-5), "all of them were drawn"
    separate = model(classifier=ClassifierSettings(shared=False, sampled=1))
    separate.joint_loss(batch()).backward()
    assert separate.text_classifier.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="sampled is only for norm_softmax"):
        ClassifierSettings(loss="cmpc", sampled=4)
    with pytest.raises(ValueError, match="at least 1"):
        ClassifierSettings(sampled=0)


def test_noise_reaches_the_discriminator_alone_and_fades() -> None:
    quiet, noisy = model(), model(discriminator=replace(DISCRIMINATOR, noise=5.0))
    for made in (quiet, noisy):
        made.joint_loss(batch())
    assert noisy.logged["train/loss_adversarial"] != quiet.logged["train/loss_adversarial"]
    assert noisy.logged["train/loss_matching"] == quiet.logged["train/loss_matching"]
    noisy._trainer.current_epoch = 10
    noisy.joint_loss(batch())
    assert noisy.logged["train/loss_adversarial"] == quiet.logged["train/loss_adversarial"]


def test_the_papers_optimisers() -> None:
    made = model(
        optimizer=OptimizerSettings(image_learning_rate=0.5),
        discriminator=replace(DISCRIMINATOR, learning_rate=0.25),
    )
    (images, texts, discriminator), schedulers = made.configure_optimizers()
    assert [type(one).__name__ for one in (images, texts, discriminator)] == ["SGD", "Adam", "SGD"]
    assert [one.param_groups[0]["lr"] for one in (images, texts, discriminator)] == [0.5, 2e-4, 0.25]
    assert {one.param_groups[0]["weight_decay"] for one in (images, texts, discriminator)} == {4e-4}
    assert images.param_groups[0]["momentum"] == discriminator.param_groups[0]["momentum"] == 0.9
    steered = [
        id(p) for one in (images, texts, discriminator) for group in one.param_groups for p in group["params"]
    ]
    assert sorted(steered) == sorted(id(p) for p in made.parameters())
    for _ in range(20):
        for scheduler in schedulers:
            scheduler.step(1.0)
    rates = [one.param_groups[0]["lr"] for one in (images, texts, discriminator)]
    assert rates == pytest.approx([0.5e-2, 2e-6, 0.25e-2])


def test_validation_matching_loss_is_the_naive_one_over_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(70, 4, generator=generator), torch.randn(140, 4, generator=generator)
    owner, identities = torch.arange(140) % 70, torch.arange(70) // 2
    found = model().validation_losses(Encoding(images), Encoding(texts), owner, identities)
    order = torch.randperm(140, generator=torch.Generator().manual_seed(0))
    blocks = [order[:64], order[64:128], order[128:]]
    wanted = [cmpm_loss(images[owner[b]], texts[b], identities[owner[b]]) for b in blocks]
    assert float(found["loss_matching"]) == pytest.approx(float(sum(wanted)) / 3)
    alone = torch.zeros(1, 4)
    none = model().validation_losses(
        Encoding(alone), Encoding(alone), torch.zeros(1).long(), torch.zeros(1).long()
    )
    assert none == {}


# ---- training ---------------------------------------------------------------------------------------------

LANGUAGE_MODEL = {
    "model.init_args.text_encoder": {
        "class_path": "crossmodal_bench.networks.LanguageModelEncoder",
        "init_args": {"config": SIZES, "hidden": 8},
    },
    "model.init_args.dim": 8,
    "model.init_args.image_encoder.init_args.hidden": [],
    "trainer.max_epochs": 4,
    "data.batch_size": 16,
}


def settings(**overrides: Any) -> dict[str, Any]:
    config = configuration("timam", "synthetic-20")
    return merge(config, expand({**LANGUAGE_MODEL, **overrides}))


class Watch(History):
    """Notes at each epoch's start whether the language model is frozen, and whether it moved in the last."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen: list[bool] = []
        self.moved: list[bool] = []
        self.before: Tensor | None = None

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        network = pl_module.text_encoder.language_model
        self.frozen.append(bool(network.frozen))
        self.before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        network = pl_module.text_encoder.language_model
        assert self.before is not None
        after = torch.cat([p.detach().flatten() for p in network.parameters()])
        self.moved.append(not torch.equal(after, self.before))


def trained(config: dict[str, Any]) -> tuple[Any, Watch]:
    watch = Watch()
    cli = instantiate(config, [RetrievalEvaluation(), watch], **QUIET)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return cli, watch


def test_the_language_model_is_unfrozen_at_the_latest_at_its_epoch() -> None:
    _, watch = trained(
        settings(
            **{"model.init_args.schedule.unfreeze_epoch": 2, "model.init_args.schedule.unfreeze_patience": 99}
        )
    )
    assert watch.frozen == [True, True, False, False]
    assert watch.moved == [False, False, True, True]
    assert all(math.isfinite(row["val/loss_matching"]) for row in watch.epochs)
    assert all(row["val/primary"] == row["val/rsum"] for row in watch.epochs)


def test_or_when_the_protocols_metric_stalls() -> None:
    # Nothing moves, so the second epoch is not better than the first.
    still = {f"model.init_args.optimizer.{name}": 1e-30 for name in ("learning_rate", "image_learning_rate")}
    _, watch = trained(settings(**still, **{"model.init_args.schedule.unfreeze_patience": 1}))
    assert watch.frozen == [True, True, False, False]


def test_unfrozen_networks_have_a_rate_of_their_own() -> None:
    cli, _ = trained(settings(**{"model.init_args.optimizer.pretrained_rate": 0.1, "trainer.max_epochs": 1}))
    first, second = cli.trainer.optimizers[1].param_groups
    assert second["lr"] == pytest.approx(0.1 * first["lr"])
    assert len(second["params"]) == len(list(cli.model.text_encoder.language_model.parameters()))


def test_half_precision_encoders_have_single_precision_losses_and_vectors() -> None:
    half = {
        "trainer.precision": "bf16-mixed",
        "trainer.max_epochs": 1,
        "model.init_args.optimizer.gradient_clip": 0.5,
    }
    cli, watch = trained(settings(**half))
    assert math.isfinite(watch.epochs[0]["train/loss_matching"])
    assert {p.dtype for p in cli.model.parameters()} == {torch.float32}
    texts = next(iter(cli.datamodule.eval_dataloaders("test")[1]))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert cli.model.encode_texts(texts).values.dtype == torch.float32


def steered(metrics: list[dict[str, float]], **changes: Any) -> list[float]:
    """The rate of the image encoder behind each of the epochs with such metrics."""
    made = model(schedule=PlateauSettings(patience=1), **changes)
    optimisers, schedulers = made.configure_optimizers()
    made.lr_schedulers = lambda: schedulers
    rates = []
    for values in metrics:
        made._trainer.callback_metrics = {key: torch.tensor(value) for key, value in values.items()}
        made.on_train_epoch_end()
        rates.append(optimisers[0].param_groups[0]["lr"])
    return rates


RISING = [
    {
        "train/loss_matching": 9.0,
        "train/loss_identification": 9.0,
        "val/loss_matching": 9.0 + k,
        "val/primary": 10.0 + k,
    }
    for k in range(4)
]


def test_the_validation_matching_loss_steers_the_rates_of_what_trains_it() -> None:
    assert steered(RISING) == pytest.approx([2e-4, 2e-4, 2e-5, 2e-5])
    # L_M may rise while identification alone gets better and better.
    assert steered(RISING, matching=0.0) == pytest.approx([2e-4] * 4)
    # A metric that stays is a plateau, whatever its sign as a loss.
    staying = [{**values, "val/primary": 10.0} for values in RISING]
    assert steered(staying, matching=0.0) == pytest.approx([2e-4, 2e-4, 2e-5, 2e-5])
    alone = [{"train/loss_matching": 9.0, "train/loss_identification": 9.0 + k} for k in range(3)]
    assert steered(alone) == pytest.approx([2e-4, 2e-4, 2e-5])
    assert steered(alone, matching=0.0) == pytest.approx([2e-4, 2e-4, 2e-5])


def test_a_network_that_is_unfrozen_gets_the_whole_patience() -> None:
    still = [RISING[0]] * 2
    for network, expected in ((None, [0, 1]), (Freezable(torch.nn.Linear(2, 2), "until_plateau"), [0, 0])):
        made = model(schedule=PlateauSettings(patience=5, unfreeze_patience=1))
        made.text_encoder.extra = network
        _, schedulers = made.configure_optimizers()
        made.lr_schedulers = lambda schedulers=schedulers: schedulers
        waited = []
        for metrics in still:
            made._trainer.callback_metrics = {key: torch.tensor(value) for key, value in metrics.items()}
            made.on_train_epoch_end()
            waited.append(schedulers[0].num_bad_epochs)
        assert waited == expected
        assert network is None or not network.frozen


def test_pixels_to_rank_with_random_weights() -> None:
    image_encoder = {
        "class_path": "crossmodal_bench.networks.ConvNetEncoder",
        "init_args": {"network": "resnet18"},
    }
    pixels = {
        "model.init_args.image_encoder": image_encoder,
        "data.images.weights": "none",
        "data.images.size": 32,
        "data.images.augmentation": "crop_flip",
        "trainer.max_epochs": 1,
        "trainer.limit_train_batches": 2,
    }
    config = merge(configuration("timam", "synthetic-20"), {"model": {"init_args": {"dim": 8}}})
    cli = instantiate(merge(config, expand(pixels)), [RetrievalEvaluation()], **QUIET)
    before = None
    cli.model.prepare(cli.datamodule.build(cli.model.requires))
    before = cli.model.image_encoder.backbone.network.conv1.weight.detach().clone()
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert cli.model.requires == {"pixels", "words", "identities"}
    assert cli.model.backbone is not None and cli.model.backbone.network == "resnet18"
    assert not torch.equal(cli.model.image_encoder.backbone.network.conv1.weight, before)


def test_encoders_given_as_objects_stay_out_of_the_hyperparameters(tmp_path: Path) -> None:
    made = model()
    assert set(made.hparams) & {"image_encoder", "text_encoder"} == set()
    assert made.hparams["dim"] == 4 and made.hparams["discriminator"]["hidden"] == (3,)


@pytest.mark.parametrize(
    ("encoders", "strategy"),
    [
        ((FeatureEncoder(), WordEncoder()), "ddp"),
        ((FeatureEncoder(), LanguageModelEncoder(freeze="always")), "ddp"),
        ((FeatureEncoder(), LanguageModelEncoder()), "ddp_find_unused_parameters_true"),
        ((ConvNetEncoder(freeze="until_plateau"), WordEncoder()), "ddp_find_unused_parameters_true"),
    ],
)
def test_the_strategy_that_a_frozen_stage_needs(encoders: Any, strategy: str) -> None:
    assert TIMAM(*encoders).ddp_strategy == strategy


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_record_has_the_checksum_of_a_language_model_as_it_was_loaded(
    pretrained: bool, tmp_path: Path
) -> None:
    from transformers import BertConfig, BertModel

    folder = tmp_path / "tiny-bert"
    captions = Synthetic(20).read(tmp_path).captions
    assert captions is not None
    tokenizer = build_tokenizer(None, captions, size=200)
    torch.manual_seed(5)
    sizes = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 64}
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    encoder = {
        "class_path": "crossmodal_bench.networks.LanguageModelEncoder",
        "init_args": {"pretrained": pretrained, "freeze": "never", "cell": "none", "pooling": "mean"},
    }
    options = BenchOptions(
        dataset="synthetic-20",
        data_root=tmp_path,
        runs=tmp_path / "runs",
        methods="timam",
        seeds=1,
        overrides={
            "model.init_args.text_encoder": encoder,
            "data.text.tokenizer": str(folder),
            "trainer.max_epochs": 1,
        },
    )
    (planned,) = make_plan(options, gpu=False)
    planned.directory.mkdir(parents=True)
    run_job(planned, "cpu")
    (encoders,) = read_record(planned.directory).encoders
    # Read by transformers alone, and untouched by the training, which moves the model's own copy.
    loaded = BertModel.from_pretrained(folder, add_pooling_layer=False)
    assert encoders.text is not None and encoders.text.encoder == "bert" and encoders.text.fine_tuned
    assert encoders.text.weights == (str(folder) if pretrained else "none")
    assert encoders.text.weights_sha256 == (parameter_checksum(loaded) if pretrained else None)
