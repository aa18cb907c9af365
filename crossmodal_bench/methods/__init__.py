"""The methods: one module each, with a common base class; their settings are frozen dataclasses."""

from crossmodal_bench.methods.acmr import (
    ACMR,
    ModalityClassifierSettings,
    ProjectorSettings,
    TripletSettings,
)
from crossmodal_bench.methods.addr.method import ADDR, PairDiscriminatorSettings
from crossmodal_bench.methods.base import RetrievalMethod
from crossmodal_bench.methods.cca import CCA
from crossmodal_bench.methods.contrastive import (
    AdamWSettings,
    CosineSettings,
    InfoNCE,
    SigLIP,
    TemperatureSettings,
)
from crossmodal_bench.methods.fine_tuning import FineTuningSettings
from crossmodal_bench.methods.gxn.generation import CaptionPath, PicturePath
from crossmodal_bench.methods.gxn.method import GXN, OrderRankingSettings, TextEncoderSettings
from crossmodal_bench.methods.matching import Matching, RankingSettings
from crossmodal_bench.methods.optimization import AdamSettings, DecaySettings, EpochDecaySettings
from crossmodal_bench.methods.semantic_matching import SemanticMatching
from crossmodal_bench.methods.timam import (
    TIMAM,
    ClassifierSettings,
    ModalityDiscriminatorSettings,
    OptimizerSettings,
    PlateauSettings,
)
from crossmodal_bench.methods.zero_shot import ZeroShot

__all__ = [
    "ACMR",
    "ADDR",
    "CCA",
    "GXN",
    "TIMAM",
    "AdamSettings",
    "AdamWSettings",
    "CaptionPath",
    "ClassifierSettings",
    "CosineSettings",
    "DecaySettings",
    "EpochDecaySettings",
    "FineTuningSettings",
    "InfoNCE",
    "Matching",
    "ModalityClassifierSettings",
    "ModalityDiscriminatorSettings",
    "OptimizerSettings",
    "OrderRankingSettings",
    "PairDiscriminatorSettings",
    "PicturePath",
    "PlateauSettings",
    "ProjectorSettings",
    "RankingSettings",
    "RetrievalMethod",
    "SemanticMatching",
    "SigLIP",
    "TemperatureSettings",
    "TextEncoderSettings",
    "TripletSettings",
    "ZeroShot",
]
