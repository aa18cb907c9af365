"""Rewards of sampled captions for self-critical training, on token ids."""

from crossmodal_bench.rewards.bleu import Bleu
from crossmodal_bench.rewards.cider import CiderD

__all__ = ["Bleu", "CiderD"]
