"""Regions of an object detector: always as many as asked for, best first, with their boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data import detector, features
from crossmodal_bench.data.datasets import Karpathy
from crossmodal_bench.data.detector import Detector, load_detector
from crossmodal_bench.data.features import FeatureStore, extract_features
from crossmodal_bench.networks.backbones import BackboneSource

CORNERS = [[0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30], [20, 20, 60, 30]]


class Given(nn.Module):
    """Stands in for torchvision's detector: 30 x 40 images, given boxes and scores, a vector per box."""

    def __init__(self, boxes: list[list[int]], scores: list[list[float]]) -> None:
        super().__init__()
        self.boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
        self.scores = torch.tensor(scores)
        self.roi_heads, self.backbone = self, lambda tensors: {"0": tensors}
        self.box_coder = self

    def transform(self, images: Any) -> tuple[Any, None]:
        batch = torch.stack(list(images))
        return type("Images", (), {"tensors": batch, "image_sizes": [(30, 40)] * len(batch)})(), None

    def rpn(self, images: Any, maps: Any) -> tuple[list[Tensor], None]:
        return [self.boxes] * len(images.tensors), None

    def box_roi_pool(self, maps: Any, boxes: list[Tensor], sizes: Any) -> Tensor:
        return torch.cat(boxes)

    def box_head(self, pooled: Tensor) -> Tensor:
        return pooled * 2

    def box_predictor(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        times = len(vectors) // max(len(self.boxes), 1)
        background = torch.zeros(len(self.scores), 1)
        return torch.cat([background, self.scores], dim=1).repeat(times, 1), vectors

    def decode(self, deltas: Tensor, proposals: list[Tensor]) -> Tensor:
        moved = torch.cat(proposals)[:, None].repeat(1, 3, 1)
        moved[:, 2] += 100  # the second class's boxes lie elsewhere
        return moved


def found(boxes: list[list[int]], scores: list[list[float]], count: int, images: int = 1) -> Any:
    return Detector(Given(boxes, scores), count)(torch.zeros(images, 3, 30, 40))


def test_the_best_boxes_come_first_and_an_overlapping_one_only_where_they_run_out() -> None:
    scores = [[2.0, 0], [3.0, 0], [1.0, 0], [4.0, 0], [0.5, 0]]
    vectors, boxes = found(CORNERS, scores, count=4, images=2)
    order = [3, 1, 2, 4]
    expected = torch.tensor(CORNERS, dtype=torch.float32)[order]
    expected[3, 2] = 40  # clipped
    for image in range(2):
        assert torch.equal(vectors[image], 2 * expected), "the vector is of the box that is kept"
        torch.testing.assert_close(boxes[image], expected / torch.tensor([40.0, 30, 40, 30]))
    assert torch.equal(found(CORNERS, scores, count=5)[0][0, :4], vectors[0])
    assert found(CORNERS, scores, count=5)[0][0, 4].tolist() == [0, 0, 20, 20]


def test_a_proposal_has_the_box_of_its_best_class() -> None:
    _, boxes = found(CORNERS[:1], [[1.0, 2.0]], count=1)
    assert boxes[0, 0].tolist() == [1, 1, 1, 1], "100 pixels away, clipped to the corner"


def test_where_there_are_too_few_the_whole_image_fills_up() -> None:
    _, boxes = found(CORNERS[2:4], [[1.0, 0]] * 2, count=4)
    assert boxes.shape == (1, 4, 4) and (boxes[0, 2:] == torch.tensor([0.0, 0, 1, 1])).all()
    assert not (boxes[0, :2] == torch.tensor([0.0, 0, 1, 1])).all(1).any()


# ---- torchvision's own ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, BackboneSource]:
    """The real network, but images are not enlarged to 800 pixels, nor 1,000 proposals looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(detector.SETTINGS, "min_size", 64)
        patch.setitem(detector.SETTINGS, "rpn_post_nms_top_n_test", 60)
        return load_detector("none", Path("nowhere"), 36)


@pytest.mark.slow
def test_random_weights_extract_three_tiny_images_and_go_on_where_they_were(
    tmp_path: Path, network: tuple[nn.Module, BackboneSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "load_detector", lambda weights, root, count: network)
    fakes.write_karpathy(tmp_path, entries=fakes.karpathy_entries({"train": 2, "test": 1}, suffix=".png"))
    corpus = Karpathy("flickr8k").read(tmp_path)

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        raise Killed

    def extract(cache: str, **settings: Any) -> FeatureStore:
        where = {"data_root": tmp_path, "regions": "detector"}
        return extract_features(corpus, tmp_path / cache, None, "none", **where, **settings)  # type: ignore[arg-type]

    with pytest.raises(Killed):
        extract("cache", progress=kill)
    assert not list((tmp_path / "cache").rglob("*.npy"))
    told: list[tuple[int, int]] = []
    store = extract("cache", progress=lambda *now: told.append(now))
    assert told == [(2, 3), (3, 3)]
    array, boxes = store.array(), np.load(store.path.with_suffix(".boxes.npy"))
    assert array.shape == (3, 36, 1024) and boxes.shape == (3, 36, 4)
    assert array.dtype == boxes.dtype == np.float32
    # Random weights too must give numbers that a network can be trained on.
    assert np.isfinite(array).all() and 1e-3 < array.std(axis=0).mean() < 10
    assert (boxes >= 0).all() and (boxes <= 1).all() and (boxes[..., 2:] >= boxes[..., :2]).all()
    assert np.array_equal(store.regions()[2], array[2])
    note = json.loads(store.path.with_suffix(".json").read_text())
    assert (note["regions"], note["count"], note["image_size"]) == ("detector", 36, None)
    unbroken = extract("other")
    assert unbroken.path.name == store.path.name
    assert np.array_equal(unbroken.array(), array)


@pytest.mark.slow
def test_random_weights_are_the_same_everywhere(network: tuple[nn.Module, BackboneSource]) -> None:
    torch.manual_seed(7)
    again = load_detector("none", Path("nowhere"), 36)
    assert again[1] == network[1] and not again[0].training
    first, second = network[0].state_dict(), again[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_of_the_detector_below_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights, **_: nn.Linear(2, 2))
    (tmp_path / "weights").mkdir()
    path = tmp_path / "weights" / "fasterrcnn_resnet50_fpn_v2_mine.pth"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    source = load_detector("auto", tmp_path, 36)[1]
    assert (source.network, source.weights, source.dim) == (detector.NETWORK, path.name, 1024)
    fakes.truncate(path)
    with pytest.raises(BadInput, match=r"_mine\.pth cannot be read as weights"):
        load_detector("auto", tmp_path, 36)
