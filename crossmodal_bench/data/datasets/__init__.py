"""One small module per data set: from files to a Corpus."""

from crossmodal_bench.data.datasets.acmr_coco import AcmrCoco
from crossmodal_bench.data.datasets.base import DatasetReader
from crossmodal_bench.data.datasets.cub import CUB
from crossmodal_bench.data.datasets.feature_arrays import NUSWide10K, PascalSentence
from crossmodal_bench.data.datasets.flowers import Flowers
from crossmodal_bench.data.datasets.karpathy import Karpathy
from crossmodal_bench.data.datasets.person_search import CuhkPedes, IcfgPedes, RstpReid
from crossmodal_bench.data.datasets.precomputed import Precomputed
from crossmodal_bench.data.datasets.synthetic import Synthetic
from crossmodal_bench.data.datasets.wikipedia import Wikipedia

__all__ = [
    "CUB",
    "AcmrCoco",
    "CuhkPedes",
    "DatasetReader",
    "Flowers",
    "IcfgPedes",
    "Karpathy",
    "NUSWide10K",
    "PascalSentence",
    "Precomputed",
    "RstpReid",
    "Synthetic",
    "Wikipedia",
]
