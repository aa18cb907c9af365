"""nn.Modules without training logic."""

from crossmodal_bench.networks.perceptron import Perceptron
from crossmodal_bench.networks.reversal import reverse_gradient

__all__ = ["Perceptron", "reverse_gradient"]
