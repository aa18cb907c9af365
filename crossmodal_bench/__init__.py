"""Train, evaluate and rank adversarial image-text matching methods, fairly and reproducibly.

In a notebook or a script:

    import crossmodal_bench as cb
    cb.table("runs")                          # the leaderboard as a data frame
    run = cb.load("runs/synthetic/vse/...")   # a finished run, without its data
    run.metrics, run.search("a red circle"), run.encode_texts(["a red circle"])
    cb.evaluate(images, texts, dataset="flickr30k")    # short for evaluate_embeddings
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossmodal_bench.jobs.given.scored import Scored, evaluate_embeddings
    from crossmodal_bench.jobs.given.scored import evaluate_embeddings as evaluate
    from crossmodal_bench.reporting.table import differences, table
    from crossmodal_bench.serving.trained_run import Answer, TrainedRun, load
    from crossmodal_bench.training.callbacks.retrieval import RetrievalEvaluation

__version__ = "0.1.0"

_CALLED = {"evaluate": "evaluate_embeddings"}
"""What a name is called where it is, if otherwise."""

_HOMES = {
    "Answer": "serving.trained_run",
    "RetrievalEvaluation": "training.callbacks.retrieval",
    "Scored": "jobs.given.scored",
    "TrainedRun": "serving.trained_run",
    "differences": "reporting.table",
    "evaluate": "jobs.given.scored",
    "evaluate_embeddings": "jobs.given.scored",
    "load": "serving.trained_run",
    "table": "reporting.table",
}
"""The module of each public name, imported on first access."""

__all__ = [
    "Answer",
    "RetrievalEvaluation",
    "Scored",
    "TrainedRun",
    "differences",
    "evaluate",
    "evaluate_embeddings",
    "load",
    "table",
]


def __getattr__(name: str) -> Any:
    # So that the command line answers --help and --version without importing torch.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), _CALLED.get(name, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
