"""Rewards of sampled captions for self-critical training, on token ids."""

from crossmodal_bench.caption_metrics.bleu import Bleu
from crossmodal_bench.caption_metrics.cider import CiderD

__all__ = ["Bleu", "CiderD"]
