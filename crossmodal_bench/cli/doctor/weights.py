"""Weights of image networks and language models: which are present, and which would be downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from crossmodal_bench.cli.doctor.devices import gpu_visible
from crossmodal_bench.cli.doctor.findings import Finding, Status, Target

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "WANDB_MODE")


def networks(target: Target) -> Iterator[Finding]:
    """The image networks that the default methods use on the known data sets, by preset."""
    automatic = _automatic_preset()
    for preset in dict.fromkeys((automatic, "paper")):
        for network, weights in sorted(wanted(preset)[0]):
            by_name = "" if weights == "auto" else f" {weights}"
            name = f"{network}{by_name} ({preset})"
            file = weights_of(network, weights, target.data_root)
            if file is not None:
                yield Finding(name, "ok", str(file))
                continue
            folder, cache, url = (
                target.data_root / "weights",
                _torch_cache(),
                _published(network, weights).url,
            )
            missing = url.rpartition("/")[2]
            text = f"{missing} is neither in {folder} nor in {cache}: downloaded when needed"
            fix = f"without internet access, put {url} into {folder}, "
            if weights == "auto":
                fix += f"or another state dict as {network}_NAME.pth, "
            fix += "or give WEIGHTS=path"
            yield Finding(name, "warning" if preset == automatic else "information", text, fix)


def language_models(target: Target) -> Iterator[Finding]:
    """The pre-trained language models of the papers' settings."""
    automatic = _automatic_preset()
    for model in sorted(wanted("paper")[1]):
        if Path(model).is_dir():
            yield Finding(model, "ok", "a local folder")
            continue
        folder = cached_model(model)
        if folder is not None:
            yield Finding(model, "ok", str(folder))
            continue
        offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        what = "and HF_HUB_OFFLINE forbids downloading it" if offline else "downloaded when needed"
        fix = (
            f"hf download {model} on a machine with internet access, and copy its cache (HF_HOME); "
            "or --set data.text.tokenizer=folder"
        )
        status: Status = "warning" if automatic == "paper" else "information"
        yield Finding(model, status, f"not in the Hugging Face cache, {what}", fix)


def offline(target: Target) -> Iterator[Finding]:
    """Variables that forbid downloads and uploads."""
    given = [f"{name}={os.environ[name]}" for name in OFFLINE if name in os.environ]
    text = ", ".join(given) if given else f"none of {', '.join(OFFLINE)} is set: downloads are allowed"
    yield Finding("offline", "information", text)


@cache
def wanted(preset: str) -> tuple[frozenset[tuple[str, str]], frozenset[str]]:
    """A preset's image networks with their weights, and its language models.

    Collected over the default methods and all real data sets.
    """
    from crossmodal_bench.jobs import experiments

    images, texts = set(), set()
    for dataset in experiments.names("datasets"):
        if dataset == "synthetic":
            continue
        base = experiments.dataset_settings(dataset, Path()).get(preset, {})
        for method in experiments.default_methods():
            settings = experiments.merge(base, experiments.method_settings(method, dataset, preset))
            data = settings.get("data", {})
            pictures = data.get("images") or {}
            if pictures.get("network") is not None:
                images.add((pictures["network"], pictures.get("weights", "auto")))
            texts.add((data.get("text") or {}).get("tokenizer"))
    return frozenset(images), frozenset(filter(None, texts))


def weights_of(network: str, weights: str, data_root: Path) -> Path | None:
    """The file that a bench would load; None if torchvision would download it.

    Args:
        network: torchvision's name.
        weights: ``auto``, or the name of torchvision's weights; see networks.backbones.load_backbone.
        data_root: whose folder ``weights`` may contain it.
    """
    from crossmodal_bench.networks.backbones import published_file

    files = sorted((data_root / "weights").glob(f"{network}_*.pth")) if weights == "auto" else []
    if files:
        return files[0]
    given = published_file(_published(network, weights), data_root)
    return next((path for path in (given, _torch_cache() / given.name) if path.is_file()), None)


def _published(network: str, weights: str) -> Any:
    """The torchvision weights enumeration member for a weights name, or for ``auto`` without a file."""
    import torchvision.models

    return torchvision.models.get_model_weights(network)["DEFAULT" if weights == "auto" else weights]


def _torch_cache() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def cached_model(name: str) -> Path | None:
    """A language model's folder in the Hugging Face cache; None if settings or weights are missing."""
    from huggingface_hub import try_to_load_from_cache

    config, *weights = (
        try_to_load_from_cache(name, file)
        for file in ("config.json", "model.safetensors", "pytorch_model.bin")
    )
    if isinstance(config, str) and any(isinstance(path, str) for path in weights):
        return Path(config).parent
    return None


def _automatic_preset() -> str:
    from crossmodal_bench.bench.plan import preset_for

    return preset_for("auto", "flickr30k", gpu=gpu_visible())
