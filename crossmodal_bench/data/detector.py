"""Regions that an object detector finds: a fixed number per image, with their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossmodal_bench.networks.backbones import BackboneSource, load_network

NETWORK = "fasterrcnn_resnet50_fpn_v2"
DIM = 1024
OVERLAP = 0.5
"""Of two boxes with more overlap than this (intersection over union), the one with the lower score yields."""
SETTINGS: dict[str, Any] = {"weights_backbone": None}


class Detector(nn.Module):
    """A Faster R-CNN of torchvision as a source of regions.

    Args:
        network: torchvision's model, whose parts are used one by one.
        count: R, the number of regions per image.

    Each proposal has one box and one score, those of its best class. Boxes that survive non-maximum
    suppression come first, by score, without any threshold; if they are too few, the suppressed ones follow,
    by score, and then the whole image.
    """

    def __init__(self, network: Any, count: int) -> None:
        super().__init__()
        self.network, self.count = network, count

    def forward(self, images: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
        """(B, R, 1024) outputs of the box head and (B, R, 4) boxes as x1, y1, x2, y2 in 0..1.

        ``images`` are (3, H, W) in 0..1, of any sizes, or stacked.
        """
        resized, _ = self.network.transform(images)
        maps = self.network.backbone(resized.tensors)
        proposed, _ = self.network.rpn(resized, maps)
        wholes = [maps["0"].new_tensor([[0, 0, w, h]]) for h, w in resized.image_sizes]
        proposals = [box if len(box) else whole for box, whole in zip(proposed, wholes, strict=True)]
        heads = self.network.roi_heads
        logits, deltas = heads.box_predictor(self._vectors(maps, proposals, resized.image_sizes))
        counts = [len(box) for box in proposals]
        scores = logits.softmax(-1)[:, 1:].split(counts)
        decoded = heads.box_coder.decode(deltas, proposals)[:, 1:].split(counts)
        boxes = [
            self._chosen(box, score, whole) for box, score, whole in zip(decoded, scores, wholes, strict=True)
        ]
        vectors = self._vectors(maps, boxes, resized.image_sizes).view(len(images), self.count, -1)
        sizes = [whole[:, 2:].repeat(1, 2) for whole in wholes]
        return vectors, torch.stack([box / size for box, size in zip(boxes, sizes, strict=True)])

    def _vectors(self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """(P, 1024) outputs of the box head for the boxes of all images, image by image."""
        heads = self.network.roi_heads
        vectors: Tensor = heads.box_head(heads.box_roi_pool(maps, boxes, sizes))
        return vectors

    def _chosen(self, boxes: Tensor, scores: Tensor, whole: Tensor) -> Tensor:
        """(R, 4) of (P, C, 4) boxes with (P, C) scores, in an image whose own box is (1, 4)."""
        from torchvision.ops import nms

        best, kind = scores.max(dim=1)
        boxes = boxes[torch.arange(len(boxes), device=boxes.device), kind]
        boxes = torch.minimum(boxes.clamp(min=0), whole[:, 2:].repeat(1, 2))
        order = best.argsort(descending=True, stable=True)
        kept = nms(boxes, best, OVERLAP)
        ranked = torch.cat([kept, order[~torch.isin(order, kept)]])
        return torch.cat([boxes[ranked], whole.expand(self.count, 4)])[: self.count]


def load_detector(weights: str, data_root: Path, count: int) -> tuple[nn.Module, BackboneSource]:
    """The detector in eval mode, and its source.

    Args:
        weights, data_root: see crossmodal_bench.networks.backbones.load_backbone, also for the exceptions.
        count: regions per image.
    """
    network, label, checksum = load_network(NETWORK, weights, data_root, **SETTINGS)
    return Detector(network, count).eval(), BackboneSource(NETWORK, label, checksum, DIM)
