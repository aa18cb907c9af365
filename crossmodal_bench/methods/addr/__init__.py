"""ADDR: Adversarial Discriminative Domain Regularization (Ren et al., ICPR 2020)."""

from crossmodal_bench.methods.addr.method import ADDR

__all__ = ["ADDR"]
