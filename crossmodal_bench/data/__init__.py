"""From files to batches: Corpus, views, loaders, CrossModalDataModule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossmodal_bench.data.corpus import Corpus
    from crossmodal_bench.data.datamodule import CrossModalDataModule
    from crossmodal_bench.data.image_settings import ImageSettings
    from crossmodal_bench.data.text import TextSettings

__all__ = ["Corpus", "CrossModalDataModule", "ImageSettings", "TextSettings"]

_HOMES = {
    "Corpus": "corpus",
    "CrossModalDataModule": "datamodule",
    "ImageSettings": "image_settings",
    "TextSettings": "text",
}


def __getattr__(name: str) -> Any:
    # The data module imports Lightning, which isn't needed to tokenise a caption or read a record.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
