"""Region reasoning against the authors' code (golden arrays), naive loops, and what it must leave alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossmodal_bench.networks.reasoning import RegionReasoning, RelationBlock, normalise_over_regions

GOLDEN = Path(__file__).parents[1] / "golden" / "vsrn.npz"
VARIANTS = ("coco", "f30k")
# The golden arrays keep every sixth region.
KEPT = slice(None, None, 6)
Golden = dict[str, Tensor]


@pytest.fixture(scope="module")
def golden() -> Iterator[Golden]:
    with np.load(GOLDEN) as arrays:
        yield {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def ours(name: str) -> str:
    """Our name of one of the authors' parameters or buffers."""
    block, _, rest = name.removeprefix("Rs_GCN_").partition(".")
    if name.startswith("Rs_GCN_"):
        return f"graph.{int(block) - 1}.{rest.replace('W.0', 'w').replace('W.1', 'scale')}"
    return name.replace("img_rnn", "recurrent").replace("fc.", "embed.").replace("bn.", "scale.")


def authors(golden: Golden, variant: str, dtype: torch.dtype) -> RegionReasoning:
    """The authors' weights in our module, and their batch statistics *after* a training step on ``feats``."""
    module = RegionReasoning(40, 24, normalise_regions=variant == "coco", standardise=variant == "f30k")
    prefix = f"{variant}_precomp/sd/"
    weights = {
        ours(name.removeprefix(prefix)): value.squeeze(-1).clone()
        for name, value in golden.items()
        if name.startswith(prefix)
    }
    for block in range(len(module.graph)):
        # The batch norm takes this bias out again, so that ours has none; its running mean has it still.
        weights[f"graph.{block}.scale.running_mean"] -= weights.pop(f"graph.{block}.w.bias")
    for name, buffer in module.named_buffers():
        if name.endswith("num_batches_tracked"):
            weights[name] = buffer
    module.to(dtype).load_state_dict(weights)
    return module


def step_back(module: RegionReasoning, features: Tensor) -> None:
    """Undo the step's running means, new = 0.9 old + 0.1 batch: the statistics of the golden eval outputs."""
    norms = [one for one in module.modules() if isinstance(one, nn.BatchNorm1d)]
    after = [(one.running_mean.clone(), one.running_var.clone()) for one in norms]
    for one in norms:
        one.momentum = 1.0
    module.train()(features)
    for one, (mean, variance) in zip(norms, after, strict=True):
        one.momentum = 0.1
        one.running_mean.copy_((mean - 0.1 * one.running_mean) / 0.9)
        one.running_var.copy_((variance - 0.1 * one.running_var) / 0.9)


def near(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 0, "atol": 1e-10 if dtype == torch.float64 else 1e-5}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_is_the_authors_code(golden: Golden, variant: str, dtype: torch.dtype) -> None:
    module = authors(golden, variant, dtype).train()
    features = golden["feats"].to(dtype).requires_grad_()
    vectors, regions = module(features)
    assert vectors.dtype == regions.dtype == dtype
    (gradient,) = torch.autograd.grad(vectors.sum() + regions.square().sum(), features)
    found = {"features": vectors, "gcn": regions[:, KEPT], "grad_feats": gradient[:, KEPT]}
    for name, one in found.items():
        torch.testing.assert_close(one.double(), golden[f"{variant}_precomp/train/{name}"], **near(dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluation_and_running_means_are_the_authors_code(
    golden: Golden, variant: str, dtype: torch.dtype
) -> None:
    module = authors(golden, variant, dtype)
    step_back(module, golden["feats"].to(dtype))
    vectors, regions = module.eval()(golden["feats"].to(dtype))
    for name, one in {"features": vectors, "gcn": regions[:, KEPT]}.items():
        torch.testing.assert_close(one.double(), golden[f"{variant}_precomp/eval/{name}"], **near(dtype))


def test_the_normalisation_is_over_the_regions(golden: Golden) -> None:
    given = golden["l2norm3d_in"]
    torch.testing.assert_close(normalise_over_regions(given), golden["l2norm3d_out"], **near(torch.float64))
    given[:, :, 1] = 0
    given.requires_grad_()
    found = normalise_over_regions(given)
    found.sum().backward()
    assert (found[:, :, 1] == 0).all() and given.grad is not None and given.grad.isfinite().all()


def awake(block: RelationBlock) -> RelationBlock:
    """A block that is no longer the identity, with batch statistics of its own."""
    with torch.no_grad():
        for one in (block.scale.weight, block.scale.bias, block.scale.running_mean):
            one.normal_()
    return block


def test_a_block_is_the_naive_loop() -> None:
    torch.manual_seed(0)
    block = awake(RelationBlock(3)).double().eval()
    given = torch.randn(2, 4, 3, dtype=torch.float64)
    found = block(given)
    for image in range(2):
        v = given[image]
        for i in range(4):
            seen = sum((block.theta(v[i]) @ block.phi(v[j])) / 4 * block.g(v[j]) for j in range(4))
            moved = block.w(seen)
            scale = block.scale
            moved = (moved - scale.running_mean) / (scale.running_var + scale.eps).sqrt()
            torch.testing.assert_close(found[image, i], v[i] + moved * scale.weight + scale.bias)


def test_blocks_start_as_the_identity_and_can_leave_it() -> None:
    torch.manual_seed(0)
    block, given = RelationBlock(8), torch.randn(3, 5, 8)
    for mode in (True, False):
        assert torch.equal(block.train(mode)(given), given)
    block.train()(given).square().sum().backward()
    assert block.scale.weight.grad is not None and (block.scale.weight.grad != 0).all()
    assert not torch.equal(awake(block)(given), given)


def test_the_embedding_starts_within_xaviers_bounds() -> None:
    embed = RegionReasoning(40, 24).embed
    bound = (6 / 64) ** 0.5
    assert 0.95 * bound < float(embed.weight.detach().abs().max()) <= bound
    assert (embed.bias == 0).all()


@pytest.mark.parametrize("normalise_regions", [True, False])
@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("n_regions", [1, 6])
def test_an_image_alone_is_the_image_in_company(
    normalise_regions: bool, standardise: bool, n_regions: int
) -> None:
    torch.manual_seed(0)
    module = RegionReasoning(7, 5, 2, normalise_regions, standardise).eval()
    for block in module.graph:
        awake(block)
    given = torch.randn(4, n_regions, 7)
    vectors, regions = module(given)
    assert vectors.shape == (4, 5) and regions.shape == (4, n_regions, 5)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(regions.norm(dim=1), torch.ones(4, 5))
    for row in range(4):
        alone = module(given[row : row + 1])
        torch.testing.assert_close(alone[0][0], vectors[row])
        torch.testing.assert_close(alone[1][0], regions[row])


def test_the_order_of_the_regions_matters_to_the_vector_alone() -> None:
    torch.manual_seed(0)
    module = RegionReasoning(7, 5, 1).eval()
    awake(module.graph[0])
    given = torch.randn(2, 6, 7)
    (vectors, regions), (turned, backwards) = module(given), module(given.flip(1))
    torch.testing.assert_close(backwards.flip(1), regions)
    assert (turned - vectors).norm(dim=1).min() > 1e-3


def test_autocast_changes_nothing() -> None:
    torch.manual_seed(0)
    module = RegionReasoning(7, 5, 1).eval()
    given = torch.randn(2, 6, 7)
    expected = module(given)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(given)
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    assert module(given.half())[0].dtype == torch.float32
