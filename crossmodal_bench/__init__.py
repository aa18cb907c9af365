"""Train, evaluate and rank adversarial image-text matching methods, fairly and reproducibly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossmodal_bench.jobs.given.scored import Scored, evaluate_embeddings

__version__ = "0.1.0"

__all__ = ["Scored", "evaluate_embeddings"]


def __getattr__(name: str) -> Any:
    # The command line answers --help and --version without torch.
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("crossmodal_bench.jobs.given.scored"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
