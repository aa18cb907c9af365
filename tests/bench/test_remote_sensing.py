"""A folder of TIFFs with classes and repeated captions, as remote-sensing sets are, becomes a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

OFF = ("--wandb", "off")
Start = Callable[..., Any]

CLASSES = 21
PER_CLASS = 6
SPLITS = ("train", "train", "train", "train", "val", "test")


def write_scenes(folder: Path) -> None:
    """``dataset.json`` and ``images/*.tif``: the images of a class share one colour and two sentences."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    entries = []
    for number in range(CLASSES):
        colour = rng.integers(40, 215, 3)
        for k in range(PER_CLASS):
            name = f"class{number:02d}_{k}.tif"
            pixels = np.clip(colour + rng.normal(0, 12, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name, compression="tiff_lzw")
            sentences = [
                {"raw": f"a field of kind{number} seen from above"},
                {"raw": f"there is kind{number} here"},
            ]
            entries.append(
                {"filename": name, "split": SPLITS[k], "label": f"kind {number}", "sentences": sentences}
            )
    (folder / "dataset.json").write_text(json.dumps({"images": entries}))


@pytest.mark.slow  # a network runs over 126 pictures
def test_from_a_folder_to_a_table(start: Start, tmp_path: Path) -> None:
    write_scenes(tmp_path / "data" / "scenes")
    prepared = start("prepare", "scenes", "--data-root", "data", folder=tmp_path)
    assert prepared.wait() == 0
    said = prepared.out.read_text()
    assert "test  21 images, 42 captions" in said and "labels 21 (labels of dataset.json)" in said
    assert "images all readable" in said
    bench = start(
        *(
            "bench",
            "--dataset",
            "scenes",
            "--data-root",
            "data",
            "--methods",
            "cca,acmr",
            "--preset",
            "smoke",
        ),
        *("--weights", "none", *OFF),
        folder=tmp_path,
    )
    assert bench.wait(600) == 0, bench.err.read_text()
    table = bench.out.read_text()
    assert "scenes · scenes-test" in table and "mAP" in table and "2 of 2 jobs done" in table
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("record.json")]
    assert len(records) == 2 and all(record["data"]["labels"]["count"] == CLASSES for record in records)
    # One colour a class: far above the chance of 1 in 21, even with random weights.
    assert max(record["metrics"]["mAP"] for record in records) > 0.3
