"""Image encoders: vectors of the width asked for, from pixels or from features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision.models

from crossmodal_bench.core.batch import DataSpec, ImageBatch
from crossmodal_bench.networks import ConvNetEncoder, FeatureEncoder

INDEX = torch.arange(3)


def pixels(n: int = 3) -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    return ImageBatch(torch.arange(n), pixels=torch.randn(n, 3, 32, 32, generator=generator))


def spec(root: Path | None, feature_dim: int = 0) -> DataSpec:
    return DataSpec(10, 20, feature_dim=feature_dim, weights_root=None if root is None else str(root))


def test_features_through_linear_layers() -> None:
    encoder = FeatureEncoder(hidden=[7], standardise=True)
    encoder.build(spec(None, feature_dim=5), 4)
    found = encoder(ImageBatch(INDEX, features=torch.randn(3, 5)))
    assert found.shape == (3, 4) and encoder.requires == {"features"}
    assert [one.shape for one in encoder.parameters()] == [(7, 5), (7,), (4, 7), (4,)]


def test_pixels_through_a_network_with_weights_from_the_data_root(tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18(weights=None)
    (tmp_path / "weights").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "weights" / "resnet18_mine.pth")
    encoder = ConvNetEncoder("resnet18")
    encoder.build(spec(tmp_path), 6)
    assert encoder.source is not None and encoder.source.weights == "resnet18_mine.pth"
    batch = pixels()
    assert batch.pixels is not None
    theirs.fc = torch.nn.Identity()
    encoder.eval(), theirs.eval()
    expected = encoder.projection(theirs(batch.pixels))
    torch.testing.assert_close(encoder(batch), expected)
    encoder.train()
    encoder(batch).sum().backward()
    assert all(one.grad is not None for one in encoder.parameters())


def test_behind_a_checkpoint_no_weights_are_looked_for(tmp_path: Path) -> None:
    encoder = ConvNetEncoder("resnet18", weights=str(tmp_path / "gone.pth"))
    encoder.build(spec(None), 6)
    assert encoder.source is None
    assert encoder(pixels()).shape == (3, 6)


@pytest.mark.parametrize("freeze", ["until_plateau", "always"])
def test_a_frozen_network_under_a_layer_that_learns(tmp_path: Path, freeze: str) -> None:
    encoder = ConvNetEncoder("resnet18", "none", freeze)  # type: ignore[arg-type]
    encoder.build(spec(tmp_path), 6)
    encoder.train()
    encoder(pixels()).sum().backward()
    learnt = {name for name, one in encoder.named_parameters() if one.grad is not None}
    assert learnt == {"projection.weight", "projection.bias"}
    assert not encoder.fine_tuned
    encoder.backbone.unfreeze()
    assert encoder.fine_tuned == (freeze == "until_plateau")
