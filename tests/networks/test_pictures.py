"""Pictures and their discriminator: StackGAN's code (golden arrays), the paper's sizes, who learns what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from crossmodal_bench.losses.generation import (
    condition_kl,
    picture_discriminator_loss,
    picture_generator_loss,
    wrong_pairs,
)
from crossmodal_bench.networks.pictures import ConditionAugmentation, PictureDiscriminator, PictureGenerator

GOLDEN = Path(__file__).parents[1] / "golden" / "stackgan.npz"
Golden = dict[str, Tensor]
EXACT = {"rtol": 0, "atol": 1e-10}
NAMES = {
    "G/ca_net.fc.": "augmentation.layer.",
    "G/fc.": "generator.start.",
    **{f"G/upsample{i}.": f"generator.blocks.{i - 1}." for i in range(1, 5)},
    "G/img.0.": "generator.last.",
    "D/encode_img.0.": "discriminator.encoder.0.",
    **{
        f"D/encode_img.{3 * i + 2 + j}.": f"discriminator.encoder.{i + 2}.{j}."
        for i in range(3)
        for j in range(2)
    },
    "D/get_cond_logits.outlogits.3.": "discriminator.out.",
    "D/get_cond_logits.outlogits.": "discriminator.joint.",
}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def named(golden: Golden, prefix: str = "") -> Golden:
    """StackGAN's tensors under the names that ours have."""
    found = {}
    for name, value in golden.items():
        if name.startswith((f"{prefix}G/", f"{prefix}D/")):
            whole = name.removeprefix(prefix)
            theirs = next(one for one in NAMES if whole.startswith(one))
            found[whole.replace(theirs, NAMES[theirs])] = value
    return found


@pytest.fixture(scope="module")
def golden() -> Iterator[Golden]:
    with np.load(GOLDEN) as arrays:
        yield {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


class Game(nn.Module):
    """The three networks, and one step's losses in StackGAN's order."""

    def __init__(self, text: int, condition: int, noise: int, generator: int, discriminator: int) -> None:
        super().__init__()
        self.augmentation = ConditionAugmentation(text, condition)
        self.generator = PictureGenerator(condition, noise, generator)
        self.discriminator = PictureDiscriminator(condition, discriminator)

    def imagine(self, texts: Tensor, noise: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_variance = self.augmentation(texts)
        condition = self.augmentation.sample(mu, log_variance, epsilon)
        return self.generator(condition, noise), mu, log_variance

    def discriminator_logits(self, real: Tensor, fake: Tensor, mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of real, fake and wrong pairs."""
        condition = mu.detach()
        features, fakes = self.discriminator.features(real), self.discriminator.features(fake.detach())
        pictures, texts = wrong_pairs(torch.arange(len(real)))
        right = self.discriminator.logits(features, condition)
        wrong = self.discriminator.logits(features[pictures], condition[texts])
        return right, self.discriminator.logits(fakes, condition), wrong


def small(dtype: torch.dtype = torch.float32) -> tuple[Game, dict[str, Tensor], Tensor]:
    torch.manual_seed(0)
    inputs = {"texts": torch.randn(4, 16), "noise": torch.randn(4, 5), "epsilon": torch.randn(4, 8)}
    inputs = {name: value.to(dtype).requires_grad_() for name, value in inputs.items()}
    return Game(16, 8, 5, 4, 2).to(dtype), inputs, (2 * torch.rand(4, 3, 64, 64) - 1).to(dtype)


def test_a_step_is_that_of_stackgans_code(golden: Golden) -> None:
    game = Game(32, 8, 5, 12, 6).double()
    state = named(golden)
    assert state.keys() == game.state_dict().keys()
    fresh = game.state_dict()
    game.load_state_dict({k: fresh[k] if k.endswith(STATISTICS) else v.clone() for k, v in state.items()})

    fake, mu, log_variance = game.imagine(golden["text"], golden["noise"], golden["eps"])
    torch.testing.assert_close(fake[:, :, ::3, ::3], golden["fake_thirds"], **EXACT)
    torch.testing.assert_close(mu, golden["mu"], **EXACT)
    torch.testing.assert_close(log_variance, golden["logvar"], **EXACT)

    real, fakes, wrong = game.discriminator_logits(golden["real"], fake, mu)
    loss = picture_discriminator_loss(real, fakes, wrong)
    torch.testing.assert_close(loss, golden["errD"], **EXACT)
    right = picture_discriminator_loss(real, fakes, wrong, 0.0, 0.0)
    torch.testing.assert_close(right, golden["errD_real"], **EXACT)
    torch.testing.assert_close(
        picture_discriminator_loss(real, fakes, wrong, 1.0, 0.0) - right, golden["errD_fake"], **EXACT
    )
    torch.testing.assert_close(
        picture_discriminator_loss(real, fakes, wrong, 0.0, 1.0) - right, golden["errD_wrong"], **EXACT
    )
    loss.backward()
    check_gradients(game, named(golden, "grad"), "discriminator")

    game.zero_grad()
    fooling = picture_generator_loss(game.discriminator(fake, mu.detach()))
    kl = condition_kl(mu, log_variance)
    torch.testing.assert_close(fooling, golden["errG"], **EXACT)
    torch.testing.assert_close(kl, golden["kl_mean"], **EXACT)
    total = fooling + 2.0 * kl
    torch.testing.assert_close(total, golden["total"], **EXACT)
    total.backward()
    check_gradients(game, named(golden, "grad"), "augmentation")

    # Of one pass of the generator, three of the discriminator's encoder and four of what reads its features.
    after = game.state_dict()
    for name in (name for name in state if name.endswith(STATISTICS)):
        torch.testing.assert_close(after[name], state[name], **EXACT)
    assert after["discriminator.encoder.2.1.num_batches_tracked"] == 3
    assert after["discriminator.joint.1.num_batches_tracked"] == 4


def check_gradients(game: Game, expected: Golden, network: str) -> None:
    names = {name for name in expected if name.startswith(network)}
    assert names if network == "augmentation" else len(names) == 15
    parameters = dict(game.named_parameters())
    for name in names:
        assert expected[name].abs().max() > 1e-4
        torch.testing.assert_close(parameters[name].grad, expected[name], **EXACT)


def test_real_and_fake_pictures_have_batch_statistics_of_their_own() -> None:
    game, inputs, real = small()
    fake, _, _ = game.imagine(**inputs)
    together = game.discriminator.features(torch.cat([real, fake]))
    assert not torch.allclose(together[:4], game.discriminator.features(real), atol=1e-3)


def test_the_papers_sizes() -> None:
    augmentation, generator, discriminator = (
        ConditionAugmentation(1024),
        PictureGenerator(),
        PictureDiscriminator(),
    )
    assert [tuple(block[1].weight.shape[:2]) for block in generator.blocks] == [
        (768, 1536),
        (384, 768),
        (192, 384),
        (96, 192),
    ]
    with torch.no_grad():
        mu, log_variance = augmentation(torch.randn(2, 1024))
        pictures = generator(augmentation.sample(mu, log_variance, torch.randn(2, 128)), torch.randn(2, 100))
        features = discriminator.features(pictures)
        logits = discriminator.logits(features, mu)
    assert mu.shape == log_variance.shape == (2, 128)
    assert pictures.shape == (2, 3, 64, 64) and pictures.abs().max() <= 1
    assert features.shape == (2, 768, 4, 4) and logits.shape == (2,)


def test_first_weights_are_stackgans() -> None:
    torch.manual_seed(0)
    game = Game(256, 64, 50, 32, 32)
    norms = [one for one in game.modules() if isinstance(one, (nn.BatchNorm1d, nn.BatchNorm2d))]
    scales = torch.cat([one.weight.detach() for one in norms])
    assert len(norms) == 5 + 4
    assert scales.mean() == pytest.approx(1, abs=0.002) and scales.std() == pytest.approx(0.02, rel=0.05)
    assert not any(one.bias.any() for one in norms) and not game.augmentation.layer.bias.any()
    layers = [one for one in game.modules() if isinstance(one, (nn.Linear, nn.Conv2d))]
    assert len(layers) == 1 + 6 + 6
    for weight in (one.weight.detach() for one in layers):
        assert weight.std() == pytest.approx(0.02, rel=0.1)
        assert weight.mean() == pytest.approx(0, abs=5 * 0.02 / weight.numel() ** 0.5)


def test_the_condition_is_drawn_around_mu() -> None:
    mu, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 2.0]])
    found = ConditionAugmentation.sample(mu, log_variance, torch.tensor([[3.0, -1.0]]))
    torch.testing.assert_close(found, torch.tensor([[4.0, -2.0 - torch.e]]))
    many = ConditionAugmentation.sample(mu, log_variance, torch.randn(20000, 2))
    torch.testing.assert_close(many.std(0), (log_variance[0] / 2).exp(), rtol=0.05, atol=0)


def test_neither_mu_nor_the_log_variance_is_negative() -> None:
    torch.manual_seed(0)
    for part in ConditionAugmentation(16, 8)(torch.randn(32, 16)):
        assert part.min() == 0 and part.max() > 0


def test_the_generators_loss_teaches_texts_and_generator() -> None:
    game, inputs, _ = small()
    fake, mu, _ = game.imagine(**inputs)
    logits = game.discriminator(fake, mu.detach())
    picture_generator_loss(logits).backward()
    assert inputs["texts"].grad is not None and inputs["texts"].grad.abs().max() > 0
    for network in (game.augmentation, game.generator):
        for parameter in network.parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0


def test_the_discriminators_loss_teaches_the_discriminator_alone() -> None:
    game, inputs, real = small()
    fake, mu, _ = game.imagine(**inputs)
    picture_discriminator_loss(*game.discriminator_logits(real, fake, mu)).backward()
    assert all(one.grad is not None and one.grad.abs().max() > 0 for one in game.discriminator.parameters())
    rest = [*game.augmentation.parameters(), *game.generator.parameters(), inputs["texts"]]
    assert all(one.grad is None for one in rest)


def test_the_noise_and_the_condition_each_change_the_picture_and_the_condition_the_logit() -> None:
    game, inputs, real = small()
    game.eval()
    mu, _ = game.augmentation(inputs["texts"])
    plain, noise = game.generator(mu, inputs["noise"]), inputs["noise"]
    assert not torch.equal(game.generator(mu, noise.flip(0)), plain)
    assert not torch.equal(game.generator(mu.flip(0), noise), plain)
    assert not torch.equal(game.discriminator(real, mu.flip(0)), game.discriminator(real, mu))
    torch.testing.assert_close(
        game.discriminator(real.flip(0), mu.flip(0)).flip(0), game.discriminator(real, mu)
    )


def test_no_pairs_have_no_logits_and_leave_the_statistics() -> None:
    game, _, real = small()
    features = game.discriminator.features(real)
    before = {name: value.clone() for name, value in game.state_dict().items()}
    none = game.discriminator.logits(features[:0], torch.zeros(0, 8))
    assert none.shape == (0,) and none.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in game.state_dict().items())


def test_a_step_in_half_precision_is_finite_and_near() -> None:
    game, inputs, real = small()
    found: dict[bool, list[Tensor]] = {}
    for half in (False, True):
        game.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            fake, mu, log_variance = game.imagine(**inputs)
            discriminator = picture_discriminator_loss(*game.discriminator_logits(real, fake, mu))
            logits = game.discriminator(fake, mu.detach())
            total = picture_generator_loss(logits) + 2.0 * condition_kl(mu, log_variance)
        assert all(
            one.dtype == torch.float32 for one in (fake, mu, log_variance, discriminator, logits, total)
        )
        (discriminator + total).backward()
        assert all(one.grad is not None and one.grad.isfinite().all() for one in game.parameters())
        found[half] = [mu, discriminator, total]
    assert torch.equal(found[True][0], found[False][0])
    torch.testing.assert_close(found[True], found[False], rtol=0.05, atol=0)


def test_with_shared_batch_statistics_the_discriminator_can_be_held_fixed_and_takes_part_without_pairs() -> (
    None
):
    game, _, real = small()
    condition = torch.rand(len(real), 8)
    alone = game.discriminator.eval()(real, condition)
    # On several GPUs; in training mode these exist for GPUs only.
    discriminator: Any = nn.SyncBatchNorm.convert_sync_batchnorm(game.discriminator).eval()
    fixed = {name: one.detach() for name, one in discriminator.named_parameters()}
    pictures = real.clone().requires_grad_()
    judged = functional_call(discriminator, fixed, (pictures, condition))
    assert torch.equal(judged, alone)
    judged.sum().backward()
    assert pictures.grad is not None and all(one.grad is None for one in discriminator.parameters())
    seen: list[Any] = []
    discriminator.joint[1].register_forward_hook(lambda *call: seen.append(call))
    assert discriminator.logits(discriminator.features(real)[:0], condition[:0]).shape == (0,)
    assert seen, "the others wait for its part of their statistics"


def test_bad_arguments_are_refused() -> None:
    for channels in (0, 3):
        with pytest.raises(ValueError, match=f"channels is {channels}; it must be even and at least 2"):
            PictureGenerator(channels=channels)
    with pytest.raises(ValueError, match="channels is 0; it must be at least 1"):
        PictureDiscriminator(channels=0)
    game, _, real = small()
    for condition, noise in (((4, 7), (4, 5)), ((4, 8), (4, 6)), ((4, 8), (3, 5)), ((8,), (8, 5))):
        with pytest.raises(ValueError, match=r"must be \(B, 8\) and \(B, 5\)"):
            game.generator(torch.zeros(condition), torch.zeros(noise))
    for shape in ((4, 3, 32, 32), (4, 1, 64, 64), (3, 64, 64)):
        with pytest.raises(ValueError, match=r"must be \(B, 3, 64, 64\)"):
            game.discriminator.features(torch.zeros(shape))
    features = game.discriminator.features(real)
    for width in ((3, 8), (4, 9), (4,)):
        with pytest.raises(ValueError, match=r"must be \(B, 16, 4, 4\) and \(B, 8\)"):
            game.discriminator.logits(features, torch.zeros(width))
    with pytest.raises(ValueError, match=r"features \(4, 16, 2, 4\)"):
        game.discriminator.logits(features[:, :, :2], torch.zeros(4, 8))
