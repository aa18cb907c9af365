"""The methods: one module each over one base class."""

from crossmodal_bench.methods.acmr import ACMR
from crossmodal_bench.methods.addr.method import ADDR
from crossmodal_bench.methods.base import RetrievalMethod
from crossmodal_bench.methods.cca import CCA
from crossmodal_bench.methods.gxn.generation import CaptionPath, PicturePath
from crossmodal_bench.methods.gxn.method import GXN
from crossmodal_bench.methods.matching import Matching
from crossmodal_bench.methods.semantic_matching import SemanticMatching
from crossmodal_bench.methods.timam import TIMAM

__all__ = [
    "ACMR",
    "ADDR",
    "CCA",
    "GXN",
    "TIMAM",
    "CaptionPath",
    "Matching",
    "PicturePath",
    "RetrievalMethod",
    "SemanticMatching",
]
