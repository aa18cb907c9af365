"""Measurements that need a GPU, in one run of at most ten minutes.

    python benchmarks/gpu.py [--to gpu.json] [--compile] [--minutes 10] [--methods scan,gxn] [--parts steps]

Parts, in this order:

- ``nccl``: the collective operations that several devices need, on one device.
- ``resumption``: how far weights differ between uninterrupted and resumed training. The order in which a GPU
  adds is not deterministic, so this is a tolerance rather than zero.
- ``evaluation``: SCAN's scores of 5,000 images and 25,000 captions, ranked both ways, in seconds.
- ``steps``: samples per second (of steps alone, and from the end of one step to the end of the next,
  including the loader), peak memory and the share of matrix products and convolutions in device time, for
  each method at its paper's size; in single precision, and in bfloat16; with ``--compile`` also compiled,
  falling back with a message if torch cannot. Steps run under ``torch.cuda.set_sync_debug_mode("error")``: if
  one waits for the device, the method is measured again and its waits are counted. Methods that must wait
  (``WAITING``) only have their waits counted.

The numbers are written after each row. Rows that do not start within ``--minutes`` are skipped and listed; a
training that is still running then is cut short.

Data are random numbers of the papers' shapes: speed does not depend on the values, and no number here says
how good a method is. Without a GPU it says so and exits with status 2; tests run everything on the CPU at a
tiny size.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
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

PRECISIONS = ("32-true", "bf16-mixed")
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
    "gxn_t2i",
    "gxn",
)
"""One method per training loop; see ``LIKE`` for the others."""
LIKE: Mapping[str, str] = {
    # Without one of the losses, or with the loss that contrasts pairs.
    "acmr_imd": "acmr",
    "acmr_imi": "acmr",
    "acmr_no_adversary": "acmr",
    "timam_no_adversary": "timam",
    "siglip": "infonce",
    # The same host, in the other direction, with the simpler focus, or behind a network as gxn_finetune's.
    "scan_i2t": "scan",
    "bfan": "bfan_prob",
    "vse_finetune": "vse",
    # Discriminators beside another host, one for all pairs, or without the regularisation.
    "addr_bfan": "addr_scan",
    **{f"{kind}_{host}": "addr_scan" for kind in ("multiple", "united") for host in ("scan", "bfan")},
    **{f"{kind}_vsrn": "addr_vsrn" for kind in ("multiple", "united")},
    # Order embeddings of features, and captions by cross entropy alone.
    "gxn_resnet": "gxn_finetune",
    "gru": "gxn_finetune",
    "gru_bi": "gxn_finetune",
    "gxn_i2t_xe": "gxn_i2t_mix",
}
"""Methods that are not measured, and the one that has the same step up to the difference noted above."""
WITHOUT_STEPS = ("cca", "sm", "clip")
"""Solved in closed form, or not trained."""
ON_PIXELS = ("timam", "infonce", "gxn")
"""Prefixes of the methods that run an image network at their paper's size."""
WITH_BERT = ("timam", "infonce")
WAITING = ("addr_scan", "addr_vsrn", "gxn_i2t_mix", "gxn")
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
PARTS = ("nccl", "resumption", "evaluation", "steps")
WARM_UP = 3
WAITED = "synchronizing CUDA operation"
"""Of the message of ``set_sync_debug_mode``."""


@dataclass(frozen=True)
class Clock:
    """How much time is left.

    Attributes:
        minutes: for everything.
        started: when it began to run.
    """

    minutes: float = 10.0
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds; negative where the time is over."""
        return 60 * self.minutes - (time.monotonic() - self.started)


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
        strict: whether a step that waits for the device fails; else its waits are counted.
        profiled: whether the last step is profiled.
        clock: when it is over, training ends.

    Attributes:
        seconds: of the steps alone.
        seconds_between: from the end of one step to the next one's, what the loader takes included.
        waits: of all steps.
    """

    def __init__(self, *, strict: bool, profiled: bool, clock: Clock | None = None) -> None:
        self.strict, self.profiled, self.clock = strict, profiled, clock
        self.seconds = self.seconds_between = 0.0
        self.waits = 0
        self.samples = 0
        self.steps = 0
        self.share = float("nan")
        self._seen = 0
        self._started = self._ended = 0.0
        self._profiler: Any = None
        self._watch = ExitStack()
        self._warned: list[warnings.WarningMessage] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        """Set the sync check and start the clock."""
        self._seen += 1
        if self._seen <= WARM_UP or (self.profiled and trainer.num_training_batches == index + 1):
            if self.profiled and trainer.num_training_batches == index + 1:
                self._profiler = profile(activities=_activities())
                self._profiler.__enter__()
            return
        _finish()
        self._warned = self._watch.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        self._watch.callback(_tell_waits, "default")
        _tell_waits("error" if self.strict else "warn")
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, i: int) -> None:
        """Stop the clock when the device has finished."""
        self._watch.close()
        _finish()
        now = time.perf_counter()
        if self._profiler is not None:
            self._profiler.__exit__(None, None, None)
            self.share = _share_of_products(self._profiler)
            self._profiler = None
        elif self._seen > WARM_UP:
            self.seconds += now - self._started
            self.seconds_between += now - self._ended
            self.steps += 1
            self.waits += sum(WAITED in str(warned.message) for warned in self._warned)
            # As in a record: discriminators' phases cost time and train no pair.
            self.samples += 0 if isinstance(batch, GroupBatch) else len(batch)
            if self.clock is not None and self.clock.left() < 0:
                trainer.should_stop = True
        self._ended = time.perf_counter()

    def on_exception(self, trainer: pl.Trainer, module: Any, exception: BaseException) -> None:
        """What comes after a step that has failed may wait."""
        self._watch.close()


def _tell_waits(mode: str) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode(mode)


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
    if method.startswith(WITH_BERT) and scale.preset == "paper":
        # BERT-base with random weights: nothing is downloaded.
        overrides |= {"data.text.tokenizer": None}
    if method in ("gxn_i2t_mix", "gxn"):
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
    method: str,
    root: Path,
    scale: Scale,
    precision: str = "32-true",
    compiled: bool = False,
    clock: Clock | None = None,
    strict: bool | None = None,
) -> dict[str, Any]:
    """A row of the table of steps; the reason, where the method cannot run so.

    Args:
        method, root, scale, precision, compiled: what is trained, and how.
        clock: when it is over, training ends.
        strict: whether a step that waits fails; None: where the method need not wait.
    """
    strict = method not in WAITING if strict is None else strict
    row: dict[str, Any] = {"method": method, "precision": precision, "compiled": compiled}
    phases = 2 if method.startswith("addr") else 1
    batches = phases * (WARM_UP + scale.steps) + 1
    steps = Steps(strict=strict, profiled=True, clock=clock)
    if torch.cuda.is_available():
        # The networks of the row before may hold each other.
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
    try:
        cli = instantiate(configured(method, root, scale, precision, batches), [steps])
        if compiled:
            compile_networks(cli.model, cli.datamodule)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    except Exception as error:
        said = _sentence(error)
        again = partial(time_steps, method, root, scale, precision, clock=clock)
        if strict and WAITED in said:
            return {**again(compiled=compiled, strict=False), "waited": said}
        if not compiled:
            return {**row, "failed": said}
        print(f"{method}: torch.compile failed ({said}); measuring without it", file=sys.stderr)
        return {**again(strict=strict), "not_compiled": said}
    if not steps.steps:
        return {**row, "left_out": True}
    row |= {
        "samples_per_second": steps.samples / steps.seconds,
        "samples_per_second_with_loading": steps.samples / steps.seconds_between,
        "seconds_per_step": steps.seconds / steps.steps,
        "seconds_between_steps": steps.seconds_between / steps.steps,
        "waits_per_step": steps.waits / steps.steps,
        "share_of_products": None if math.isnan(steps.share) else steps.share,
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
    keep: Callable[[dict[str, Any]], None] = lambda found: None,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """All parts; each is told, and all that is known is kept, as soon as it is known.

    Args:
        root: where data are made.
        scale: how large everything is.
        parts, methods: which.
        compiled: whether networks are compiled too.
        tell: is given each line.
        keep: is given everything after each line.
        clock: what has not begun when it is over is left out; 10 minutes from now where there is none.
    """
    clock = Clock() if clock is None else clock
    found: dict[str, Any] = {"device": device_name(), "torch": torch.__version__, "steps": [], "left_out": []}

    def note(line: str) -> None:
        tell(line)
        keep(found)

    def fits(what: str, seconds: float = 0.0) -> bool:
        if clock.left() > seconds:
            return True
        found["left_out"].append(what)
        note(f"{what}: left out, {clock.minutes:g} minutes are too few")
        return False

    if {"steps", "resumption"} & set(parts):
        write_data(root, scale)
    work: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
        "nccl": (collectives, lambda row: f"{row['backend']}: {'correct' if row['right'] else 'WRONG'}"),
        "resumption": (
            lambda: resumption(root, scale),
            lambda row: (
                "resumed and unbroken training differ by {largest_relative_difference:.1e} at most".format(
                    **row
                )
            ),
        ),
        "evaluation": (
            lambda: time_evaluation(scale),
            lambda row: "SCAN, {images:,} x {captions:,}: {seconds:.1f} s".format(**row),
        ),
    }
    for part, (measure, sentence) in work.items():
        if part in parts and fits(part):
            try:
                found[part] = measure()
            except Exception as error:
                found[part] = {"failed": _sentence(error)}
            failed = found[part].get("failed")
            note(f"{part} failed: {failed}" if failed else sentence(found[part]))
    # A row of a method takes about as long as its last one.
    taken: dict[str, float] = {}
    for method, precision, as_compiled in ways(methods, compiled) if "steps" in parts else ():
        if not fits(way(method, precision, as_compiled), taken.get(method, 0.0)):
            continue
        started = time.monotonic()
        row = time_steps(method, root, scale, precision, as_compiled, clock)
        taken[method] = time.monotonic() - started
        # The time was over before the first step that counts.
        if "left_out" in row and not fits(way(method, precision, as_compiled)):
            continue
        found["steps"].append(row)
        note(shown(row))
    return found


def ways(methods: Sequence[str], compiled: bool) -> list[tuple[str, str, bool]]:
    """Methods, precisions and whether compiled; those at the end, as compiling takes longest."""
    plain = [(method, precision, False) for method in methods for precision in PRECISIONS]
    return plain + [(method, "bf16-mixed", True) for method in methods if compiled]


def way(method: str, precision: str, compiled: bool) -> str:
    """What a row is called."""
    return f"{method}, {precision}{', compiled' if compiled else ''}"


def shown(row: dict[str, Any]) -> str:
    """A row of steps as a line."""
    name = way(row["method"], row["precision"], row["compiled"])
    if "failed" in row or "left_out" in row:
        return f"{name}: failed: {row.get('failed', 'no step was taken')}"
    rates = (row["samples_per_second"], row["samples_per_second_with_loading"])
    parts = ["{:,.0f} samples/s, {:,.0f} with loading".format(*rates) if rates[0] else "no pair trained"]
    if "peak_bytes" in row:
        parts.append(f"{row['peak_bytes'] / 2**30:.1f} GiB")
    if row["share_of_products"] is not None:
        parts.append(f"{row['share_of_products']:.0%} in products")
    parts.append(f"{row['waits_per_step']:.3g} waits a step{', SHOULD BE NONE' if 'waited' in row else ''}")
    return f"{name}: {', '.join(parts)}"


def device_name() -> str:
    """The name of the GPU, or of the CPU without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=Path("gpu.json"), help="output file of the numbers")
    parser.add_argument("--compile", action="store_true", help="measure compiled networks too")
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--parts", default=",".join(PARTS))
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("No GPU is visible to torch: run this on a machine with a GPU.", file=sys.stderr)
        return 2
    clock = Clock(arguments.minutes)
    with tempfile.TemporaryDirectory() as folder:
        found = run(
            Path(folder),
            Scale(),
            arguments.parts.split(","),
            arguments.methods.split(","),
            arguments.compile,
            keep=lambda found: write(found, arguments.to),
            clock=clock,
        )
    write(found, arguments.to)
    print(f"Numbers: {arguments.to}")
    if found["left_out"]:
        print(f"Left out: {'; '.join(found['left_out'])}. Name them, or give more --minutes.")
    return 0 if right(found) else 1


def write(found: dict[str, Any], path: Path) -> None:
    """All that is known so far."""
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def right(found: dict[str, Any]) -> bool:
    """Whether nothing failed, and no step waited that need not."""
    others = [found[part] for part in PARTS if part in found and part != "steps"]
    wrong = {"failed", "waited", "left_out"}
    if any(wrong & set(row) for row in (*found["steps"], *others)):
        return False
    return bool(found.get("nccl", {"right": True})["right"])


if __name__ == "__main__":
    sys.exit(main())
