"""Hosts: the matching networks to which ADDR is added."""

from crossmodal_bench.methods.hosts.attention import BFAN, SCAN
from crossmodal_bench.methods.hosts.base import Encoded, Host
from crossmodal_bench.methods.hosts.vse import VSE
from crossmodal_bench.methods.hosts.vsrn import VSRN

__all__ = ["BFAN", "SCAN", "VSE", "VSRN", "Encoded", "Host"]
