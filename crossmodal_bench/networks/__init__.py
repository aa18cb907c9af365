"""nn.Modules without training logic."""

from crossmodal_bench.networks.decoder import CaptionDecoder
from crossmodal_bench.networks.embedding import UnitEmbedding, unit
from crossmodal_bench.networks.freezing import Freezable
from crossmodal_bench.networks.images import ConvNetEncoder, FeatureEncoder, ImageEncoder
from crossmodal_bench.networks.perceptron import Perceptron
from crossmodal_bench.networks.pictures import ConditionAugmentation, PictureDiscriminator, PictureGenerator
from crossmodal_bench.networks.reversal import reverse_gradient
from crossmodal_bench.networks.texts import (
    LanguageModelEncoder,
    TextEncoder,
    TextFeatureEncoder,
    TextSource,
    WordEncoder,
)
from crossmodal_bench.networks.words import WordStates

__all__ = [
    "CaptionDecoder",
    "ConditionAugmentation",
    "ConvNetEncoder",
    "FeatureEncoder",
    "Freezable",
    "ImageEncoder",
    "LanguageModelEncoder",
    "Perceptron",
    "PictureDiscriminator",
    "PictureGenerator",
    "TextEncoder",
    "TextFeatureEncoder",
    "TextSource",
    "UnitEmbedding",
    "WordEncoder",
    "WordStates",
    "reverse_gradient",
    "unit",
]
