"""Measurements that need a GPU, in one run of at most ten minutes.

    python benchmarks/gpu.py [--to gpu.json] [--compile] [--methods scan,gxn] [--parts steps,evaluation]

Parts:

- ``steps``: samples per second, peak memory and the share of matrix products and convolutions in device time,
  for each method at its paper's size; in single precision, and in bfloat16; with ``--compile`` also compiled,
  falling back with a message if torch cannot. Steps run under ``torch.cuda.set_sync_debug_mode("error")``: a
  step that waits for the device fails, except for methods that must wait (``WAITING``), which only warn.
- ``evaluation``: SCAN's scores of 5,000 images and 25,000 captions, ranked both ways, in seconds.
- ``resumption``: how far weights differ between uninterrupted and resumed training.
  The order in which a GPU adds is not deterministic, so this is a tolerance rather than zero.
- ``nccl``: the collective operations that several devices need, on one device.

Data are random numbers of the papers' shapes: speed does not depend on the values, and no number here says
how good a method is. Without a GPU it says so and exits with status 2; tests run everything on the CPU at a
tiny size.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed
from PIL import Image
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from crossmodal_bench.core.batch import GroupBatch
from crossmodal_bench.core.distributed import gather_objects
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import streamed_ranks
from crossmodal_bench.evaluation.ranking.streaming import all_reduce_sum
from crossmodal_bench.jobs import experiments
from crossmodal_bench.methods.hosts import SCAN
from crossmodal_bench.training.callbacks import exact_resumption
from crossmodal_bench.training.lightning_cli import instantiate

METHODS = (
    "acmr",
    "timam",
    "infonce",
    "vse",
    "scan",
    "bfan_prob",
    "vsrn",
    "addr_scan",
    "addr_vsrn",
    "gxn_finetune",
    "gxn_i2t_mix",
    "gxn",
)
ON_PIXELS = ("timam", "gxn")
"""Names of the methods that run an image network at their paper's size."""
WAITING = ("addr", "gxn_i2t_mix", "gxn")
"""Methods whose steps wait: for gradients of discriminators in host memory, or for sampled captions."""
PRODUCTS = (
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "convolution",
    "conv2d",
    "_cudnn_rnn",
    "_thnn_fused",
    "attention",
)
"""Substrings of the names of operations that are, or mostly consist of, matrix products."""
PARTS = ("steps", "evaluation", "resumption", "nccl")
WARM_UP = 3


@dataclass(frozen=True)
class Scale:
    """The sizes of everything.

    Attributes:
        preset: the methods' preset.
        images: number of training images.
        regions, region_dim, feature_dim: sizes of an image's views.
        words: size of the vocabulary.
        side: side length of a picture, in pixels.
        steps: number of timed steps.
        gallery: ranked images and captions.
        dim: dimension of the ranked vectors.
        network: the network that runs on pixels.
        overrides: overrides of all methods' configurations.
    """

    preset: str = "paper"
    images: int = 1024
    regions: int = 36
    region_dim: int = 2048
    feature_dim: int = 4096
    words: int = 10_000
    side: int = 256
    steps: int = 10
    gallery: tuple[int, int] = (5000, 25_000)
    dim: int = 1024
    network: str | None = "resnet152"
    overrides: tuple[tuple[str, Any], ...] = ()


TINY = Scale(
    preset="smoke",
    images=24,
    regions=4,
    region_dim=8,
    feature_dim=8,
    words=40,
    side=32,
    steps=2,
    gallery=(20, 100),
    dim=16,
    network=None,
    overrides=(("data.batch_size", 4),),
)
"""For a test on a CPU."""


def write_data(root: Path, scale: Scale) -> None:
    """``root/flickr30k``: pictures, features, regions and five captions per image, all noise."""
    random = np.random.default_rng(0)
    folder, precomputed = root / "flickr30k", root / "flickr30k" / "f30k_precomp"
    (folder / "images").mkdir(parents=True)
    precomputed.mkdir()
    entries: list[dict[str, Any]] = []
    for split, name, count in (("train", "train", scale.images), ("val", "dev", 4), ("test", "test", 4)):
        shape = (count, scale.regions, scale.region_dim)
        np.save(precomputed / f"{name}_ims.npy", random.random(shape, dtype=np.float32))
        lines = []
        for number in range(count):
            filename = f"{split}{number:06d}.jpg"
            pixels = random.integers(0, 256, (scale.side, scale.side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / filename)
            sentences = [
                f"{split} number{number} " + " ".join(f"word{w}" for w in random.integers(0, scale.words, 10))
                for _ in range(5)
            ]
            lines += sentences
            entries.append(
                {
                    "filename": filename,
                    "split": split,
                    "sentences": [{"raw": sentence, "tokens": sentence.split()} for sentence in sentences],
                }
            )
        (precomputed / f"{name}_caps.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    np.save(folder / "features.npy", random.random((len(entries), scale.feature_dim), dtype=np.float32))
    listed = {"images": entries, "dataset": "flickr30k"}
    (folder / "dataset_flickr30k.json").write_text(json.dumps(listed), encoding="utf-8")


class Steps(pl.Callback):
    """Times a method's steps after the first few, without any other work of the Trainer.

    Args:
        strict: whether a step that waits for the device fails; else it warns.
        profiled: whether the last step is profiled.
    """

    def __init__(self, *, strict: bool, profiled: bool) -> None:
        self.strict, self.profiled = strict, profiled
        self.seconds = 0.0
        self.samples = 0
        self.steps = 0
        self.share = float("nan")
        self._seen = 0
        self._started = 0.0
        self._profiler: Any = None

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        """Set the sync check and start the clock."""
        self._seen += 1
        if self._seen <= WARM_UP or (self.profiled and trainer.num_training_batches == index + 1):
            if self.profiled and trainer.num_training_batches == index + 1:
                self._profiler = profile(activities=_activities())
                self._profiler.__enter__()
            return
        _finish()
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error" if self.strict else "warn")
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, i: int) -> None:
        """Stop the clock once the device has finished."""
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
        _finish()
        if self._profiler is not None:
            self._profiler.__exit__(None, None, None)
            self.share = _share_of_products(self._profiler)
            self._profiler = None
        elif self._seen > WARM_UP:
            self.seconds += time.perf_counter() - self._started
            self.steps += 1
            # As in a record: discriminator phases take time but train no pairs.
            self.samples += 0 if isinstance(batch, GroupBatch) else len(batch)


def _activities() -> list[ProfilerActivity]:
    on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    return [ProfilerActivity.CPU, *on_gpu]


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _share_of_products(profiler: profile) -> float:
    """Share of matrix products in device time, or in CPU time without a device."""
    products = total = 0.0
    for event in profiler.key_averages():
        on_gpu = torch.cuda.is_available()
        seconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if event.key.startswith("aten::"):
            total += seconds
            products += seconds if any(name in event.key for name in PRODUCTS) else 0.0
    return products / total if total else float("nan")


def configured(method: str, root: Path, scale: Scale, precision: str, batches: int) -> dict[str, Any]:
    """A method's configuration for the noise in ``root``, limited to ``batches`` batches."""
    on_pixels = method.startswith(ON_PIXELS) and scale.network is not None
    overrides = {
        "data.images.network": scale.network if on_pixels else None,
        "data.images.weights": "none",
        "data.images.regions": "auto",
        "trainer.max_epochs": 1,
        **dict(scale.overrides),
    }
    if method.startswith("timam") and scale.preset == "paper":
        # BERT-base with random weights: nothing is downloaded.
        overrides |= {"data.text.tokenizer": None}
    if method.startswith("gxn_i2t_mix") or method == "gxn":
        overrides |= {"model.init_args.captions.init_args.reinforce_from": 0}
    config = experiments.resolve(method, "flickr30k", {}, scale.preset, overrides, root)
    config["data"] |= {"root": str(root), "cache": str(root / "cache")}
    config["trainer"] |= {
        "precision": precision,
        "limit_train_batches": batches,
        "limit_val_batches": 0,
        "accelerator": "auto",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return {**config, "seed_everything": 0}


def time_steps(
    method: str, root: Path, scale: Scale, precision: str = "32-true", compiled: bool = False
) -> dict[str, Any]:
    """A row of the table of steps, or the reason why the method cannot run this way."""
    row: dict[str, Any] = {"method": method, "precision": precision, "compiled": compiled}
    phases = 2 if method.startswith("addr") else 1
    batches = phases * (WARM_UP + scale.steps) + 1
    steps = Steps(strict=not method.startswith(WAITING), profiled=True)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        cli = instantiate(configured(method, root, scale, precision, batches), [steps])
        if compiled:
            compile_networks(cli.model, cli.datamodule)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    except Exception as error:
        if not compiled:
            return {**row, "failed": _sentence(error)}
        print(f"{method}: torch.compile failed ({_sentence(error)}); measuring without it", file=sys.stderr)
        return {**time_steps(method, root, scale, precision), "not_compiled": _sentence(error)}
    row |= {
        "samples_per_second": steps.samples / steps.seconds if steps.seconds else None,
        "seconds_per_step": steps.seconds / max(1, steps.steps),
        "share_of_products": steps.share,
    }
    if torch.cuda.is_available():
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
    return row


def compile_networks(model: Any, data: Any) -> None:
    """Compile each network of a model in place; control flow of a step stays in Python."""
    model.prepare(data.build(model.requires))
    for network in model.children():
        if any(True for _ in network.parameters()):
            network.compile()


def _sentence(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def time_evaluation(scale: Scale) -> dict[str, Any]:
    """Seconds to rank SCAN's scores of a whole gallery in both directions."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, captions = scale.gallery
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(6, 20, (captions,), generator=generator)
    regions = torch.randn(images, scale.regions, scale.dim, generator=generator)
    words = torch.randn(int(lengths.sum()), scale.dim, generator=generator)
    unit = nn.functional.normalize
    host = SCAN(dim=scale.dim, aggregation="LogSumExp")
    owner = np.arange(captions) * images // captions
    _finish()
    started = time.perf_counter()
    ranks = streamed_ranks(
        Encoding(unit(regions, dim=2)),
        Encoding(unit(words, dim=1), lengths),
        host.score,
        owner,
        device=device,
    )
    _finish()
    seconds = time.perf_counter() - started
    return {"images": images, "captions": captions, "seconds": seconds, "queries": len(ranks.i2t)}


def resumption(root: Path, scale: Scale, method: str = "acmr") -> dict[str, Any]:
    """The largest difference of a weight, relative to the largest weight of its tensor, from resuming."""

    def train(epochs: int, checkpoint: Path | None, save: Path | None) -> dict[str, Tensor]:
        config = configured(method, root, scale, "32-true", 4)
        config["trainer"] |= {"max_epochs": epochs}
        cli = instantiate(config, exact_resumption())
        cli.trainer.fit(
            cli.model,
            datamodule=cli.datamodule,
            ckpt_path=None if checkpoint is None else str(checkpoint),
            weights_only=True,
        )
        if save is not None:
            cli.trainer.save_checkpoint(save)
        return {name: value.detach().cpu().double() for name, value in cli.model.state_dict().items()}

    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "first.ckpt"
        whole = train(2, None, None)
        train(1, None, saved)
        resumed = train(2, saved, None)
    differences = [
        ((resumed[name] - value).abs().max() / value.abs().max().clamp(min=1e-12)).item()
        for name, value in whole.items()
        if value.numel()
    ]
    return {"method": method, "largest_relative_difference": max(differences)}


def collectives() -> dict[str, Any]:
    """Sums, gathered objects and a DDP step in a group of one: NCCL on a GPU, gloo without one."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    backend = "nccl" if on_gpu else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            backend, init_method=f"file://{folder}/rendezvous", rank=0, world_size=1
        )
        try:
            summed = all_reduce_sum(torch.arange(3))
            objects = gather_objects({"rank": 0})
            network = nn.parallel.DistributedDataParallel(nn.Linear(3, 2).to(device))
            network(torch.ones(2, 3, device=device)).sum().backward()
            gradient = network.module.weight.grad
        finally:
            torch.distributed.destroy_process_group()
    right = summed.tolist() == [0, 1, 2] and objects == [{"rank": 0}]
    return {"backend": backend, "right": right and gradient is not None and bool((gradient == 2).all())}


def run(
    root: Path,
    scale: Scale,
    parts: Sequence[str] = PARTS,
    methods: Sequence[str] = METHODS,
    compiled: bool = False,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run all parts, printing each result as soon as it is known."""
    found: dict[str, Any] = {"device": device_name(), "torch": torch.__version__, "steps": []}
    if {"steps", "resumption"} & set(parts):
        write_data(root, scale)
    if "steps" in parts:
        for method in methods:
            ways = [("32-true", False), ("bf16-mixed", False), *([("bf16-mixed", True)] if compiled else [])]
            for precision, as_compiled in ways:
                found["steps"].append(time_steps(method, root, scale, precision, as_compiled))
                tell(shown(found["steps"][-1]))
    if "evaluation" in parts:
        found["evaluation"] = time_evaluation(scale)
        tell("SCAN, {images:,} x {captions:,}: {seconds:.1f} s".format(**found["evaluation"]))
    if "resumption" in parts:
        found["resumption"] = resumption(root, scale)
        difference = found["resumption"]["largest_relative_difference"]
        tell(f"resumed and unbroken training differ by {difference:.1e} at most")
    if "nccl" in parts:
        found["nccl"] = collectives()
        tell(f"{found['nccl']['backend']}: {'correct' if found['nccl']['right'] else 'WRONG'}")
    return found


def shown(row: dict[str, Any]) -> str:
    """A row of the table of steps as a line of text."""
    way = f"{row['method']}, {row['precision']}{', compiled' if row['compiled'] else ''}"
    if "failed" in row:
        return f"{way}: failed: {row['failed']}"
    memory = f", {row['peak_bytes'] / 2**30:.1f} GiB" if "peak_bytes" in row else ""
    rate = f"{row['samples_per_second']:,.0f} samples/s" if row["samples_per_second"] else "no pair trained"
    return f"{way}: {rate}{memory}, {row['share_of_products']:.0%} in products"


def device_name() -> str:
    """The name of the GPU, or of the CPU without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=Path("gpu.json"), help="output file of the numbers")
    parser.add_argument("--compile", action="store_true", help="measure compiled networks too")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--parts", default=",".join(PARTS))
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("No GPU is visible to torch: run this on a machine with a GPU.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        found = run(
            Path(folder),
            Scale(),
            arguments.parts.split(","),
            arguments.methods.split(","),
            arguments.compile,
        )
    arguments.to.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"Numbers: {arguments.to}")
    failed = [row["method"] for row in found["steps"] if "failed" in row]
    return 1 if failed or not found.get("nccl", {"right": True})["right"] else 0


if __name__ == "__main__":
    sys.exit(main())
