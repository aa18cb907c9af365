"""Regions that attend to each other, and one vector that summarises them (Li et al., VSRN, ICCV 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmodal_bench.networks.embedding import unit


class RelationBlock(nn.Module):
    """One layer of region relation reasoning (VSRN's Eq. 2-3), initialised as the identity.

    V* = BN(W_r(R (W_g V))) + V with R = (W_theta V)(W_phi V)^T / n over an image's n regions. As in the
    authors' code, affinities are divided by the number of regions instead of passing a softmax, and there is
    a batch norm, which Eq. 3 lacks; its weight and bias start at zero. W_r has no bias here: the batch norm
    cancels it, and in single precision the subtraction would cost a digit.

    Args:
        dim: width of the regions.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.theta = nn.Linear(dim, dim)
        self.phi = nn.Linear(dim, dim)
        self.g = nn.Linear(dim, dim)
        self.w = nn.Linear(dim, dim, bias=False)
        self.scale = nn.BatchNorm1d(dim)
        nn.init.zeros_(self.scale.weight)

    def forward(self, regions: Tensor) -> Tensor:
        """(B, R, dim) to the same; batch statistics are over all B x R regions."""
        affinities = self.theta(regions) @ self.phi(regions).transpose(1, 2) / regions.shape[1]
        seen = self.w(affinities @ self.g(regions))
        return self.scale(seen.flatten(0, 1)).view_as(regions) + regions


class RegionReasoning(nn.Module):
    """Regions to reasoned regions and one vector per image (VSRN's sections 3.1 to 3.3).

    A fully connected layer, graph blocks, and a GRU that reads the regions in the detector's order; its last
    state represents the image. The authors' code normalises each of the ``dim`` components over the *regions*
    of an image, rather than each region over its components: after the graph, and for MS-COCO also before it.
    Ours does the same; an image with a single region keeps only the signs. For Flickr30K, the code has no
    normalisation before the graph, and a batch norm on the image vector.

    Args:
        region_dim: width of the detector's features.
        dim: width of the result.
        blocks: number of graph blocks.
        normalise_regions: whether regions are normalised before the graph (MS-COCO).
        standardise: whether image vectors pass a batch norm (Flickr30K).
    """

    def __init__(
        self,
        region_dim: int,
        dim: int,
        blocks: int = 4,
        normalise_regions: bool = False,
        standardise: bool = True,
    ) -> None:
        super().__init__()
        self.normalise_regions = normalise_regions
        self.embed = nn.Linear(region_dim, dim)
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        self.graph = nn.Sequential(*(RelationBlock(dim) for _ in range(blocks)))
        self.recurrent = nn.GRU(dim, dim, batch_first=True)
        self.scale = nn.BatchNorm1d(dim) if standardise else nn.Identity()

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (B, dim), and the regions (B, R, dim) after the graph, from (B, R, region_dim).

        Always in the parameters' precision: vectors are ranked, affinities without a softmax overflow half
        precision, and cuDNN's recurrent networks would run in half precision without the gradient scaling
        that it needs.

        Raises:
            ValueError: from batch norm, for a single image in training if vectors are standardised.
        """
        with torch.autocast(regions.device.type, enabled=False):
            reasoned = self.embed(regions.to(self.embed.weight.dtype))
            if self.normalise_regions:
                reasoned = normalise_over_regions(reasoned)
            reasoned = normalise_over_regions(self.graph(reasoned))
            _, last = self.recurrent(reasoned)
            return unit(self.scale(last[0])), reasoned


def normalise_over_regions(regions: Tensor) -> Tensor:
    """(B, R, D) to the same, with each of an image's D columns of R numbers scaled to unit length.

    A column of zeros stays zero, where the authors' code divides by zero.
    """
    return F.normalize(regions, dim=1)
