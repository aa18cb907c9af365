"""ACMR as a whole: sizes, what each weight of the objective switches, and where gradients go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import check_equal, configuration, fitted
from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec, ImageBatch, PairBatch, TextBatch
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.losses import (
    acmr_demo_triplet_loss,
    acmr_triplet_loss,
    frobenius_penalty,
    label_prediction_loss,
    modality_classification_loss,
)
from crossmodal_bench.methods import (
    ACMR,
    AdamSettings,
    ModalityClassifierSettings,
    ProjectorSettings,
    TripletSettings,
)
from crossmodal_bench.networks import FeatureEncoder, LanguageModelEncoder, WordEncoder

B, V, T, C = 6, 9, 7, 4
SPEC = DataSpec(20, 40, n_labels=C, feature_dim=V, bow_dim=T)
TINY: dict[str, Any] = {
    "projectors": ProjectorSettings(image_hidden=(5,), text_hidden=(5,), dim=3),
    "discriminator": ModalityClassifierSettings(hidden=(6,)),
}
TERMS = ("loss_embedding", "loss_invariance", "loss_labels", "loss_adversarial", "discriminator_accuracy")
DEVIATIONS = ("deviation_images", "deviation_texts")


def batch(multi_hot: bool = False) -> PairBatch:
    generator = torch.Generator().manual_seed(1)
    index = torch.arange(B)
    labels = torch.tensor([0, 1, 2, 0, 3, 1])
    if multi_hot:
        labels = torch.tensor(
            [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0]]
        ).float()
    images = ImageBatch(index, features=torch.randn(B, V, generator=generator), labels=labels)
    return PairBatch(
        images, TextBatch(index, index, bow=torch.rand(B, T, generator=generator), labels=labels)
    )


def model(epoch: int = 0, spec: DataSpec = SPEC, seed: int = 0, **settings: Any) -> Any:
    """With its networks and a stand-in for the trainer; ``logged`` are the terms of the latest batch."""
    torch.manual_seed(seed)
    made: Any = ACMR(**{**TINY, **settings})
    made.prepare(spec)
    made._trainer = SimpleNamespace(current_epoch=epoch, max_epochs=10)
    made.logged = {}
    made.log_means = lambda values, n: made.logged.update({k: float(v) for k, v in values.items()})
    return made


def gradients(made: Any, data: PairBatch) -> dict[str, Tensor]:
    made.zero_grad()
    made.joint_loss(data).backward()
    return {name: p.grad.clone() for name, p in made.named_parameters()}


def sizes(network: Any) -> list[tuple[int, int]]:
    return [
        (layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, nn.Linear)
    ]


def test_default_sizes_are_the_papers() -> None:
    made = ACMR()
    made.prepare(DataSpec(1, 1, n_labels=10, feature_dim=4096, bow_dim=3000))
    assert sizes(made.image_projector) == [(4096, 2000), (2000, 200)]
    assert sizes(made.text_projector) == [(3000, 500), (500, 200)]
    assert sizes(made.label_classifier) == [(200, 10)]
    assert sizes(made.modality_classifier) == [(200, 50), (50, 2)]
    assert (made.encoder_steps, made.discriminator_steps) == (5, 1)
    assert (made.alpha, made.beta, made.regularisation, made.adversary) == (10.0, 100.0, 1.0, 1.0)
    assert made.triplet_settings == TripletSettings(margin=1.0, margin_unit="distance", negative_weight=None)


def test_optimisers_have_the_rates_that_were_asked_for() -> None:
    encoders, discriminator = model(
        optimizer=AdamSettings(learning_rate=0.3, beta1=0.7)
    ).configure_optimizers()
    assert all(
        one.defaults["lr"] == 0.3 and one.defaults["betas"] == (0.7, 0.999)
        for one in (encoders, discriminator)
    )
    of_its_own = ModalityClassifierSettings(learning_rate=0.0)
    encoders, discriminator = model(
        optimizer=AdamSettings(learning_rate=0.3), discriminator=of_its_own
    ).configure_optimizers()
    assert (encoders.defaults["lr"], discriminator.defaults["lr"]) == (0.3, 0.0)


@pytest.mark.parametrize("multi_hot", [False, True])
@pytest.mark.parametrize("label_loss", ["softmax", "sigmoid"])
def test_the_objective_is_the_sum_that_it_says(multi_hot: bool, label_loss: str) -> None:
    weights = {"alpha": 0.7, "beta": 0.3, "regularisation": 0.2}
    made = model(triplet=TripletSettings(margin=2.0, negative_weight=0.4), label_loss=label_loss, **weights)
    data = batch(multi_hot)
    labels = data.images.labels
    assert labels is not None
    images, texts = made.encode_images(data.images).values, made.encode_texts(data.texts).values
    invariance = acmr_triplet_loss(images, texts, labels, 2.0, 0.4)
    labelling = label_prediction_loss(
        made.label_classifier(images),
        made.label_classifier(texts),
        labels,
        label_loss,  # type: ignore[arg-type]
    )
    matrices = [p for name, p in made.named_parameters() if "projector" in name and p.ndim == 2]
    assert len(matrices) == 4
    adversarial = modality_classification_loss(
        made.modality_classifier(images), made.modality_classifier(texts)
    )
    embedding = 0.7 * invariance + 0.3 * labelling + 0.2 * frobenius_penalty(matrices)
    torch.testing.assert_close(made.joint_loss(data), embedding + adversarial)
    expected = dict(zip(TERMS[:4], (embedding, invariance, labelling, adversarial), strict=True))
    for name, value in expected.items():
        assert made.logged[f"train/{name}"] == pytest.approx(value.item(), rel=1e-5)
    assert set(made.logged) == {f"train/{name}" for name in (*TERMS, *DEVIATIONS)}


@pytest.mark.parametrize(
    ("switch", "term"), [("alpha", "loss_invariance"), ("beta", "loss_labels"), ("regularisation", None)]
)
def test_a_weight_of_zero_removes_its_term_and_no_other(switch: str, term: str | None) -> None:
    weights = {"alpha": 0.7, "beta": 0.3, "regularisation": 0.2}
    made, without = model(**weights), model(**{**weights, switch: 0.0})
    whole, rest = made.joint_loss(batch()), without.joint_loss(batch())
    norms = frobenius_penalty([*made.image_projector.weights(), *made.text_projector.weights()]).item()
    removed = norms if term is None else made.logged[f"train/{term}"]
    assert removed > 0
    assert whole.item() - rest.item() == pytest.approx(weights[switch] * removed, rel=1e-3)
    classifier = gradients(without, batch())["label_classifier.weight"]
    assert bool(classifier.abs().max() == 0) == (switch == "beta")


def test_the_adversary_reaches_the_projectors_reversed() -> None:
    data = batch()
    quiet = {"alpha": 0.0, "beta": 0.0, "regularisation": 0.0}
    made = model(adversary=0.7, **quiet)
    images, texts = made.encode_images(data.images).values, made.encode_texts(data.texts).values
    loss = modality_classification_loss(made.modality_classifier(images), made.modality_classifier(texts))
    by_hand = dict(
        zip(
            [name for name, _ in made.named_parameters()],
            torch.autograd.grad(loss, list(made.parameters()), allow_unused=True),
            strict=True,
        )
    )
    for name, found in gradients(made, data).items():
        part = name.split(".")[0]
        if part == "label_classifier":
            assert found.abs().max() == 0
            continue
        expected = by_hand[name]
        assert expected is not None and expected.abs().max() > 1e-6, name
        # The classifier descends, the projectors ascend.
        torch.testing.assert_close(found, expected if part == "modality_classifier" else -0.7 * expected)


@pytest.mark.parametrize("adversary", [0.0, 1.0])
def test_another_modality_classifier_changes_the_projectors_only_through_the_adversary(
    adversary: float,
) -> None:
    made = model(adversary=adversary)
    before = gradients(made, batch())
    with torch.no_grad():
        for parameter in made.modality_classifier.parameters():
            parameter.mul_(3)
    after = gradients(made, batch())
    for name in before:
        if "projector" in name:
            assert torch.equal(before[name], after[name]) == (adversary == 0), name
        if "modality_classifier" in name:
            assert before[name].abs().max() > 0
            assert not torch.equal(before[name], after[name])


def test_the_ramp_starts_at_zero_and_ends_near_one() -> None:
    def projector_gradient(epoch: int, schedule: str) -> Tensor:
        discriminator = ModalityClassifierSettings(hidden=(6,), reversal_schedule=schedule)  # type: ignore[arg-type]
        made = model(epoch, discriminator=discriminator, alpha=0.0, beta=0.0, regularisation=0.0)
        return gradients(made, batch())["image_projector.layers.0.weight"]

    full = projector_gradient(0, "constant")
    torch.testing.assert_close(projector_gradient(7, "constant"), full)
    assert projector_gradient(0, "ramp").abs().max() == 0
    # The golden arrays' factor at a tenth of the training.
    torch.testing.assert_close(projector_gradient(1, "ramp"), 0.46211716 * full)
    torch.testing.assert_close(projector_gradient(9, "ramp"), full, rtol=1e-3, atol=1e-6)


def test_demo_form_takes_the_most_similar_item_of_another_class() -> None:
    triplet = TripletSettings(form="demo", margin=1e3, positive_weight=2.0)
    made = model(triplet=triplet, alpha=1.0, beta=0.0, regularisation=0.0)
    data = batch()
    labels, features, bow = data.images.labels, data.images.features, data.texts.bow
    assert labels is not None and features is not None and bow is not None
    images, texts = made.encode_images(data.images).values, made.encode_texts(data.texts).values

    def nearest(inputs: Tensor) -> list[int]:
        found = []
        for i in range(B):
            others = [j for j in range(B) if labels[j] != labels[i]]
            found.append(
                max(others, key=lambda j: float(torch.cosine_similarity(inputs[i], inputs[j], dim=0)))
            )
        return found

    assert nearest(features) != nearest(bow)
    expected = acmr_demo_triplet_loss(
        images, texts, images[nearest(bow)], texts[nearest(features)], margin=1e3, positive_weight=2.0
    )
    made.joint_loss(data)
    assert made.logged["train/loss_invariance"] == pytest.approx(expected.item(), rel=1e-5)


def test_each_forms_weight_is_its_own_and_has_its_papers_or_codes_value() -> None:
    data = batch()
    for form, given in (("paper", {"negative_weight": 0.05}), ("demo", {"positive_weight": 5.0})):
        logged = []
        for weight in ({}, given):
            made = model(triplet=TripletSettings(form=form, margin=9.0, **weight))  # type: ignore[arg-type]
            made.joint_loss(data)
            logged.append(made.logged["train/loss_invariance"])
        assert logged[0] == logged[1] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"form": "demo", "negative_weight": 0.05},
            "negative_weight is 0.05, but triplet.form 'demo' does not",
        ),
        (
            {"form": "demo", "margin_unit": "initial_distance"},
            "margin_unit is 'initial_distance', but triplet",
        ),
        ({"positive_weight": 5.0}, "positive_weight is 5, but triplet.form 'paper' does not use it"),
    ],
)
def test_a_weight_of_the_other_form_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        TripletSettings(**settings)


def test_a_margin_may_count_in_the_first_batchs_mean_distance() -> None:
    settings = {"margin": 0.5, "negative_weight": 3.0}
    made = model(triplet=TripletSettings(margin_unit="initial_distance", **settings), alpha=1.0)  # type: ignore[arg-type]
    data = batch()
    images, texts = made.encode_images(data.images).values, made.encode_texts(data.texts).values
    unit = torch.cdist(images, texts).mean().item()
    made.joint_loss(data)
    assert made.initial_distance.item() == pytest.approx(unit, rel=1e-5)
    assert data.images.labels is not None
    expected = acmr_triplet_loss(images, texts, data.images.labels, 0.5 * unit, 3.0)
    assert made.logged["train/loss_invariance"] == pytest.approx(expected.item(), rel=1e-5)
    # Later batches, a checkpoint too, count in the same unit.
    with torch.no_grad():
        made.image_projector.weights()[0].mul_(3)
    made.joint_loss(data)
    assert made.initial_distance.item() == pytest.approx(unit, rel=1e-5)
    assert made.state_dict()["initial_distance"] == made.initial_distance


def test_the_squared_regulariser_is_the_sum_of_squares() -> None:
    made = model(alpha=0.0, beta=0.0, regularisation=0.5, regularisation_form="squared")
    matrices = [*made.image_projector.weights(), *made.text_projector.weights()]
    made.joint_loss(batch())
    expected = 0.5 * sum(float(matrix.square().sum()) for matrix in matrices)
    assert made.logged["train/loss_embedding"] == pytest.approx(expected, rel=1e-5)


def test_deviations_tell_a_collapse() -> None:
    made = model()
    data = batch()
    made.joint_loss(data)
    images = made.encode_images(data.images).values
    deviation = images.std(0, correction=0).mean().item()
    assert made.logged["train/deviation_images"] == pytest.approx(deviation, rel=1e-5)
    with torch.no_grad():
        for matrix in made.text_projector.weights():
            matrix.zero_()
    made.joint_loss(data)
    assert made.logged["train/deviation_texts"] == 0 < made.logged["train/deviation_images"]


def test_dropout_and_batch_statistics_are_of_training_only() -> None:
    made = model(projectors=replace(TINY["projectors"], dropout=0.5, standardise=True))
    data = batch()
    assert not torch.equal(made.encode_images(data.images).values, made.encode_images(data.images).values)
    assert not torch.equal(made.encode_texts(data.texts).values, made.encode_texts(data.texts).values)
    made.eval()
    assert torch.equal(made.encode_images(data.images).values, made.encode_images(data.images).values)
    head = replace(data.texts, bow=data.texts.bow[:2], index=torch.arange(2), image=torch.arange(2))
    torch.testing.assert_close(made.encode_texts(head).values, made.encode_texts(data.texts).values[:2])


def test_it_ranks_by_distance() -> None:
    made = model().eval()
    data = batch()
    images, texts = made.encode_images(data.images), made.encode_texts(data.texts)
    expected = -torch.cdist(images.values, texts.values)
    torch.testing.assert_close(made.score(images, texts), expected, rtol=1e-4, atol=1e-4)


def test_a_batch_without_a_view_names_it() -> None:
    data = batch()
    for part, view in (("images", "features"), ("images", "labels"), ("texts", "bow")):
        broken = replace(data, **{part: replace(getattr(data, part), **{view: None})})
        with pytest.raises(RuntimeError, match=f"no view '{view}'"):
            model().joint_loss(broken)


# ---- encoders in the projectors' places --------------------------------------------------------------------

WORDS = replace(SPEC, bow_dim=0, vocabulary_size=30)


def with_words() -> PairBatch:
    data = batch()
    words = torch.randint(4, 30, (B, 5), generator=torch.Generator().manual_seed(2))
    return replace(data, texts=replace(data.texts, bow=None, words=words, lengths=torch.full((B,), 5)))


def encoders() -> dict[str, Any]:
    return {"image_encoder": FeatureEncoder(hidden=[5]), "text_encoder": WordEncoder(6, "gru", 5)}


def test_encoders_stand_in_the_projectors_places() -> None:
    made, data = model(spec=WORDS, **encoders()), with_words()
    assert made.requires == {"features", "words", "labels"}
    assert not hasattr(made, "image_projector") and not hasattr(made, "text_projector")
    images, texts = made.encode_images(data.images).values, made.encode_texts(data.texts).values
    torch.testing.assert_close(images, made.image_encoder(data.images).tanh())
    torch.testing.assert_close(texts, made.text_encoder(data.texts).tanh())
    assert images.shape == texts.shape == (B, 3)
    assert made.text_source == made.text_encoder.source and made.backbone is None


def test_encoders_move_and_a_frozen_network_does_not() -> None:
    made = model(spec=WORDS, **encoders())
    moved, (of_encoders, _) = gradients(made, with_words()), made.configure_optimizers()
    steered = {id(parameter) for parameter in of_encoders.param_groups[0]["params"]}
    for name, parameter in made.named_parameters():
        assert moved[name].any(), name
        assert (id(parameter) in steered) == (not name.startswith("modality_classifier")), name


def test_the_penalty_counts_an_encoders_matrices_without_word_vectors() -> None:
    made, data = model(spec=WORDS, regularisation=1.0, alpha=0.0, beta=0.0, **encoders()), with_words()
    counted = [
        parameter
        for name, parameter in made.named_parameters()
        if name.startswith(("image_encoder", "text_encoder"))
        and parameter.ndim == 2
        and ".words." not in name
    ]
    # Two layers; a GRU in both directions, with two matrices each, and a layer.
    assert len(counted) == 2 + 4 + 1
    made.joint_loss(data)
    assert made.logged["train/loss_embedding"] == pytest.approx(float(frobenius_penalty(counted)))


def test_one_side_may_stay_a_projector() -> None:
    made = model(spec=replace(SPEC, vocabulary_size=30), text_encoder=WordEncoder(6, "none", pooling="mean"))
    assert made.requires == {"features", "words", "labels"}
    assert made.encode_images(batch().images).values.shape == (B, 3)
    assert made.encode_texts(with_words().texts).values.shape == (B, 3)


def test_the_demos_triplets_need_projectors() -> None:
    demo = TripletSettings(form="demo")
    with pytest.raises(BadInput, match=r"triplet.form is 'demo', which mines negatives by"):
        ACMR(triplet=demo, image_encoder=FeatureEncoder())


def test_an_encoder_that_waits_to_be_unfrozen_would_wait_for_ever() -> None:
    with pytest.raises(ValueError, match=r"text_encoder.freeze is 'until_plateau', but this method"):
        ACMR(text_encoder=LanguageModelEncoder())


def test_encoders_of_a_configuration_train_and_load(tmp_path: Path) -> None:
    config = configuration(
        "acmr",
        **{
            "model.init_args.image_encoder": {
                "class_path": "crossmodal_bench.networks.FeatureEncoder",
                "init_args": {"hidden": [8]},
            },
            "model.init_args.text_encoder": {
                "class_path": "crossmodal_bench.networks.WordEncoder",
                "init_args": {"embedding": 6, "cell": "none", "pooling": "mean"},
            },
            "data.batch_size": 16,
            "trainer.max_epochs": 1,
        },
    )
    cli = fitted(config, [], limit_train_batches=2, limit_val_batches=0)
    path = tmp_path / "trained.ckpt"
    cli.trainer.save_checkpoint(path)
    loaded = ACMR.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    check_equal(dict(loaded.state_dict()), dict(cli.model.state_dict()))
    assert loaded.requires == {"features", "words", "labels"}
