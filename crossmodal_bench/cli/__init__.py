"""The command line."""

from crossmodal_bench.cli.main import main

__all__ = ["main"]
