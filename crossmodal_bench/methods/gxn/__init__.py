"""GXN: look, imagine and match (Gu et al., CVPR 2018)."""

from crossmodal_bench.methods.gxn.generation import CaptionPath, PicturePath
from crossmodal_bench.methods.gxn.method import GXN

__all__ = ["GXN", "CaptionPath", "PicturePath"]
