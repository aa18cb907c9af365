"""ACMR's losses against the authors' code (golden arrays), naive loops, and finite differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal_bench.losses import (
    acmr_demo_triplet_loss,
    acmr_triplet_loss,
    frobenius_penalty,
    label_prediction_loss,
    modality_classification_loss,
)
from crossmodal_bench.losses.acmr import same_label
from crossmodal_bench.networks import reverse_gradient

GOLDEN = Path(__file__).parents[1] / "golden" / "acmr_losses.npz"
SINGLE = torch.tensor([0, 1, 0, 2, 1, 1, 0])
MULTI = torch.tensor(
    [[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 1]], dtype=torch.float32
)


@pytest.fixture(scope="module")
def golden() -> Iterator[Callable[[str], Tensor]]:
    with np.load(GOLDEN) as arrays:
        held = {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
    yield held.__getitem__


def check_gradients(
    loss: Tensor, inputs: tuple[Tensor, Tensor], golden: Callable[[str], Tensor], name: str
) -> None:
    for found, letter in zip(torch.autograd.grad(loss, inputs), "vw", strict=True):
        expected = golden(f"grad_emb_{letter}/{name}")
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def embeddings(golden: Callable[[str], Tensor]) -> tuple[Tensor, Tensor]:
    return golden("out/emb_v").clone().requires_grad_(), golden("out/emb_w").clone().requires_grad_()


def test_demo_form_is_the_authors_codes(golden: Callable[[str], Tensor]) -> None:
    v, w = embeddings(golden)
    negatives = (golden("emb_v_neg"), golden("emb_w_neg"))
    loss = acmr_demo_triplet_loss(v, w, *negatives, float(golden("margin")), float(golden("alpha")))
    torch.testing.assert_close(loss, golden("out/triplet_loss"), rtol=1e-5, atol=0)
    torch.testing.assert_close(acmr_demo_triplet_loss(v, w, *negatives, margin=0.1), loss)


def test_demo_gradients_are_the_authors_codes(golden: Callable[[str], Tensor]) -> None:
    v, w = embeddings(golden)
    loss = acmr_demo_triplet_loss(v, w, golden("emb_v_neg"), golden("emb_w_neg"), 0.1, 5.0)
    # The code projects positives apart from anchors: its gradient lacks what an item is given as a positive.
    as_positive = 5.0 * (v - w).detach()
    gradients = torch.autograd.grad(loss, (v, w))
    for found, letter, sign in zip(gradients, "vw", (1, -1), strict=True):
        expected = golden(f"grad_emb_{letter}/triplet_loss") + sign * as_positive
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("labels_as", ["classes", "one hot"])
def test_label_loss_is_the_authors_codes(golden: Callable[[str], Tensor], labels_as: str) -> None:
    v, w = embeddings(golden)
    logits = [x @ golden("w/lc_fc_0/weights:0") + golden("w/lc_fc_0/biases:0") for x in (v, w)]
    one_hot = golden("one_hot")
    loss = label_prediction_loss(*logits, one_hot.argmax(1) if labels_as == "classes" else one_hot.float())
    torch.testing.assert_close(loss, golden("out/label_loss"), rtol=1e-5, atol=0)
    check_gradients(loss, (v, w), golden, "label_loss")


def test_modality_loss_behind_the_reversal_is_the_authors_codes(golden: Callable[[str], Tensor]) -> None:
    v, w = embeddings(golden)
    logits = []
    for x in (v, w):
        x = reverse_gradient(x, float(golden("grl_lambda")))
        for layer in range(3):
            x = x @ golden(f"w/dc_fc_{layer}/weights:0") + golden(f"w/dc_fc_{layer}/biases:0")
        logits.append(x)
    torch.testing.assert_close(logits[0], golden("out/emb_v_class"), rtol=1e-4, atol=1e-5)
    loss = modality_classification_loss(*logits)
    torch.testing.assert_close(loss, golden("out/domain_class_loss"), rtol=1e-5, atol=0)
    check_gradients(loss, (v, w), golden, "domain_class_loss")


def points(n: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(2, n, 3, generator=generator, dtype=torch.float64)
    return images.requires_grad_(), texts.requires_grad_()


def shares(labels: Tensor, i: int, j: int) -> bool:
    if i == j:
        return True
    if labels.ndim == 1:
        return bool(labels[i] == labels[j])
    return any(a == 1 and b == 1 for a, b in zip(labels[i].tolist(), labels[j].tolist(), strict=True))


def naive_paper_form(images: Tensor, texts: Tensor, labels: Tensor, margin: float, weight: float) -> float:
    """Eq. 3-6 by loops: an anchor, its positives, its negatives."""
    a, b = images.detach().numpy(), texts.detach().numpy()
    total = 0.0
    for anchors, others in ((a, b), (b, a)):
        for i, anchor in enumerate(anchors):
            positives, negatives = [], []
            for j, other in enumerate(others):
                distance = float(np.sqrt(((anchor - other) ** 2).sum()))
                if shares(labels, i, j):
                    positives.append(distance)
                else:
                    negatives.append(max(0.0, margin - distance))
            term = sum(positives) / len(positives)
            if negatives:
                term += weight * sum(negatives) / len(negatives)
            total += term / len(anchors)
    return total


@pytest.mark.parametrize("labels", [SINGLE, MULTI, torch.zeros(7, 3)], ids=["single", "multi", "no labels"])
@pytest.mark.parametrize("margin", [0.5, 3.0])
def test_paper_form_is_the_loop(labels: Tensor, margin: float) -> None:
    images, texts = points()
    loss = acmr_triplet_loss(images, texts, labels, margin, 0.3)
    assert loss.item() == pytest.approx(naive_paper_form(images, texts, labels, margin, 0.3), rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda v, t: acmr_triplet_loss(v, t, labels, margin, 0.3), (images, texts)
    )


def test_paper_form_without_negatives_pulls_only() -> None:
    images, texts = points()
    labels = torch.zeros(7, dtype=torch.int64)
    expected = 2 * torch.cdist(images, texts).mean()
    for weight in (0.0, 5.0):
        torch.testing.assert_close(acmr_triplet_loss(images, texts, labels, 9.0, weight), expected)


def test_a_pair_without_labels_is_its_own_positive_and_everyones_negative() -> None:
    assert same_label(MULTI)[2].tolist() == [False, False, True, False, False, False, False]
    assert same_label(MULTI)[0].tolist() == [True, True, False, True, False, False, True]
    assert same_label(SINGLE)[0].tolist() == [True, False, True, False, False, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_points_have_finite_gradients(dtype: torch.dtype) -> None:
    images = torch.ones(4, 3, dtype=dtype, requires_grad=True)
    texts = torch.ones(4, 3, dtype=dtype, requires_grad=True)
    loss = acmr_triplet_loss(images, texts, torch.tensor([0, 0, 1, 1]), 1.0, 0.5)
    assert loss.item() == pytest.approx(2 * 0.5 * 1.0)
    for gradient in torch.autograd.grad(loss, (images, texts)):
        assert gradient.isfinite().all()


def test_demo_form_by_hand_and_by_finite_differences() -> None:
    images, texts = points(4, seed=1)
    other = torch.tensor([2, 3, 0, 1])

    def loss(v: Tensor, t: Tensor) -> Tensor:
        return acmr_demo_triplet_loss(v, t, v[other], t[other], 50.0, 2.0)

    v, t = images.detach().numpy(), texts.detach().numpy()
    by_hand = 0.0
    for anchors, positives in ((v, t), (t, v)):
        pull = sum(((anchors[i] - positives[i]) ** 2).sum() / 2 for i in range(4))
        push = sum(((anchors[i] - positives[other[i]]) ** 2).sum() / 2 for i in range(4))
        by_hand += max(0.0, 50.0 + 2.0 * pull - push)
    assert by_hand > 0
    assert loss(images, texts).item() == pytest.approx(by_hand, rel=1e-12)
    assert torch.autograd.gradcheck(loss, (images, texts))


def test_demo_negatives_are_not_interchangeable() -> None:
    images, texts = points(4, seed=2)
    far = torch.full((4, 3), 100.0, dtype=torch.float64)
    # A negative far away satisfies the hinge of the direction that it belongs to.
    only_texts_anchored = acmr_demo_triplet_loss(images, texts, images, far, 1.0, 2.0)
    expected = (1.0 + 2.0 * (images - texts).square().sum() / 2 - (texts - images).square().sum() / 2).relu()
    torch.testing.assert_close(only_texts_anchored, expected)
    shifted = acmr_demo_triplet_loss(images, texts, images + 0.1, far, 1.0, 2.0)
    assert shifted.item() != pytest.approx(only_texts_anchored.item())


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
@pytest.mark.parametrize("labels", [SINGLE, MULTI], ids=["single", "multi"])
def test_label_loss_is_the_loop(form: str, labels: Tensor) -> None:
    images, texts = points(seed=3)
    expected = 0.0
    for logits in (images.detach(), texts.detach()):
        for row, label in zip(logits, labels, strict=True):
            target = F.one_hot(label, 3) if labels.ndim == 1 else label
            p = row.softmax(0) if form == "softmax" else row.sigmoid()
            for c in range(3):
                expected -= float(target[c] * p[c].log()) / len(logits)
                if form == "sigmoid":
                    expected -= float((1 - target[c]) * (1 - p[c]).log()) / len(logits)
    loss = label_prediction_loss(images, texts, labels, form)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    assert torch.autograd.gradcheck(
        lambda v, t: label_prediction_loss(v, t, labels, form),  # type: ignore[arg-type]
        (images, texts),
    )


def test_modality_loss_knows_which_is_the_image() -> None:
    images = torch.tensor([[0.0, 2.0], [1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    texts = torch.tensor([[3.0, 0.0]], dtype=torch.float64, requires_grad=True)
    right = [2 / (1 + np.exp(-2.0)), 1.0]
    expected = -(np.log(right[0] / 2) + np.log(right[1] / 2)) / 2 - np.log(1 / (1 + np.exp(-3.0)))
    assert modality_classification_loss(images, texts).item() == pytest.approx(expected)
    assert modality_classification_loss(texts, images).item() > 2
    assert torch.autograd.gradcheck(modality_classification_loss, (images, texts))


def test_frobenius_penalty_sums_norms_that_are_not_squared() -> None:
    a = torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64, requires_grad=True)
    b = torch.full((1, 4), 0.5, dtype=torch.float64, requires_grad=True)
    assert frobenius_penalty([a, b]).item() == pytest.approx(5.0 + 1.0)
    assert torch.autograd.gradcheck(lambda x, y: frobenius_penalty([x, y]), (a, b))
    assert frobenius_penalty([a, b], squared=True).item() == pytest.approx(25.0 + 1.0)
    assert torch.autograd.gradcheck(lambda x, y: frobenius_penalty([x, y], squared=True), (a, b))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": torch.zeros(4, 2)}, r"images \(4, 3\), texts \(4, 2\)"),
        ({"texts": torch.zeros(3, 3)}, "must agree"),
        ({"labels": torch.zeros(3)}, r"labels \(3,\) must agree"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, object], message: str) -> None:
    arguments = {
        "images": torch.zeros(4, 3),
        "texts": torch.zeros(4, 3),
        "labels": torch.zeros(4),
        "margin": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        acmr_triplet_loss(**{**arguments, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("position", range(4))
def test_the_demos_form_wants_four_tensors_of_one_shape(position: int) -> None:
    tensors = [torch.zeros(4, 3) for _ in range(4)]
    tensors[position] = torch.zeros(4, 2)
    with pytest.raises(
        ValueError, match=r"negative images \(4, \d\) and negative texts \(4, \d\) must agree"
    ):
        acmr_demo_triplet_loss(*tensors, margin=1.0)
