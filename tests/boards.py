"""A folder of runs as several benches leave it, from fake records: what the page has a part for, it has."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from answered import Answered
from PIL import Image

from crossmodal_bench.jobs.record import Record

HOSTILE = (
    "<script>alert(1)</script></script><img src=x onerror=alert(2)>\x1b[31m=cmd()../../x\u202e\"'{{7*7}}"
)
SHARES = {
    "cca": 0.16,
    "timam": 0.26,
    "timam_no_adversary": 0.25,
    "scan": 0.30,
    "addr_scan": 0.345,
    "gxn_finetune": 0.21,
    "gxn": 0.22,
}
"""How often each method's best answer is right."""
COSTS = {"cca": 0.6, "timam": 95.0, "timam_no_adversary": 71.0, "scan": 160.0, "addr_scan": 240.0}


def write_board(
    make_record: Callable[..., Record], *, seeds: int = 3, images: int = 200, hostile: bool = False
) -> list[Record]:
    """Write recalls of seven methods and mAP of two, with histories, curves, a sweep, a map and pictures.

    Args:
        make_record: writes one record, as the fixture of that name.
        seeds: of each method that has any randomness.
        images: of the test split; each has five captions.
        hostile: whether one row's label is what no page should obey.
    """
    answered = Answered(make_record)
    records = []
    for method, share in SHARES.items():
        for seed in range(1 if method == "cca" else seeds):
            records.append(
                answered(
                    share + 0.006 * math.sin(7 * seed + len(method)),
                    own=0.35,
                    images=images,
                    method=method,
                    seed=seed,
                    history=history(method, seed),
                    ablation={"timam": "timam_no_adversary", "addr_scan": "scan"}.get(method),
                    cost={
                        "parameters": 1e5 * (2 + 30 * share),
                        "train_seconds": COSTS.get(method, 300.0) * (1 + seed / 20),
                        "evaluation_seconds": 1 + 4 * share,
                        "train_samples_per_second": 900.0,
                        "peak_memory_mb": 700.0,
                    },
                )
            )
            records[-1].files.config.write_text(f"model:\n  class_path: {method}\nseed_everything: {seed}\n")
    records[-1].files.pictures_panel.write_bytes(_picture())
    for method in ("acmr", "acmr_no_adversary"):
        records += [make_record(method=method, seed=seed) for seed in range(min(2, seeds))]
    save_map(records[-1])
    for value in (1, 5, 10):
        overrides = {"model.init_args.k": value}
        records.append(make_record(suite="acmr_figure6", label=f"k={value}", overrides=overrides))
    if hostile:
        records.append(answered(0.2, method="vse", label=HOSTILE, images=images))
        records[-1].files.config.write_text(f"# {HOSTILE!r}\n# {HOSTILE.replace(chr(27), '')}\n")
    return records


def history(method: str, seed: int) -> list[dict[str, float]]:
    """Twelve epochs of losses, of validation and of what the method's discriminators make of them."""
    epochs = []
    for epoch in range(12):
        entry = {"epoch": epoch, "train/loss_matching": 2.0 / (1 + epoch) + seed / 10}
        entry["val/i2t/R@1"] = 20 + 2 * epoch - seed
        if method in ("timam", "timam_no_adversary"):
            entry["train/discriminator_accuracy"] = 0.9 - (0.03 * epoch if method == "timam" else 0)
        if method == "addr_scan":
            entry |= {"train/risk_own": 0.5 - epoch / 30, "train/risk_other": 0.5 + epoch / 30}
        epochs.append(entry)
    return epochs


def save_map(record: Record, points: int = 60) -> None:
    """Leave t-SNE coordinates beside a record."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {name: rng.normal(size=(points, 2)) for name in ("image", "text")}
    labels = np.arange(points) % 10
    np.savez(record.files.projection, image_labels=labels, text_labels=labels, **arrays)


def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32), (40, 120, 90)).save(buffer, format="png")
    return buffer.getvalue()
