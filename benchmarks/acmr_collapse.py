"""Whether ACMR learns or collapses under its preset, trained and evaluated on the same 100 real items.

    python benchmarks/acmr_collapse.py --data-root data --figure docs/acmr_collapse.png

Reads DATA_ROOT/pascal_sentence_100: ``test_img.mat`` (100 x 4,096, VGG-19 fc7), ``test_txt.mat``
(100 x 300), ``test_img_lab.mat``, in the layout that is common in cross-modal retrieval code. All items are
training items: the question is whether the method fits them, not how well it retrieves others. The settings
are those of the preset ``paper`` on pascal_sentence, unchanged or with a line or two changed; each variant
is trained for ``--steps`` batches with the package's own class, optimisers and data module. Every ten batches
all items are encoded:

- mAP of both directions on these items (chance is about 0.09: 5 of 100 items share a label),
- deviation: the standard deviation of the encodings, averaged over dimensions; 0 means a single point,
- the adversarial loss (2 log 2 = 1.386 is confusion) and the modality classifier's accuracy.

``--start`` trains nothing and prints parts of the untrained model's objective: the share of L_reg in
alpha L_imi + beta L_imd + L_reg, and the smallest distance of an image to a text of another class, with mu.
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from crossmodal_bench.core.batch import ImageBatch, PairBatch, TextBatch
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.data.corpus import Corpus, Labels
from crossmodal_bench.data.files.arrays import load_array
from crossmodal_bench.evaluation import average_precision, label_precision
from crossmodal_bench.jobs import experiments
from crossmodal_bench.losses import (
    acmr_triplet_loss,
    frobenius_penalty,
    label_prediction_loss,
    modality_classification_loss,
)
from crossmodal_bench.losses.acmr import cross_modal_distances, same_label
from crossmodal_bench.methods import ACMR
from crossmodal_bench.reporting.figures import drawing
from crossmodal_bench.training.lightning_cli import instantiate

FOLDER = "pascal_sentence_100"
EVERY = 10
"""Batches between evaluations."""
INIT = "model.init_args."
OLD_CORNER = {f"{INIT}alpha": 0.1, f"{INIT}beta": 0.1}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "preset paper": {},
    "alpha 0.1, beta 0.1": OLD_CORNER,
    "the same without L_reg": {**OLD_CORNER, f"{INIT}regularisation": 0.0},
    "the same, L_reg squared": {**OLD_CORNER, f"{INIT}regularisation_form": "squared"},
    "the same, mu on the data's scale": {**OLD_CORNER, f"{INIT}triplet.margin_unit": "initial_distance"},
    "the same, reversal ramped": {**OLD_CORNER, f"{INIT}discriminator.reversal_schedule": "ramp"},
}
"""The changes to the preset, by name in the table; the last three use options of our own."""
COLUMNS = ("mAP i2t", "mAP t2i", "deviation images", "deviation texts", "L_adv", "accuracy")


@dataclass
class Course(pl.Callback):
    """Records a training every ``EVERY`` batches, and stops it after ``steps``."""

    steps: int
    data: CrossModalDataModule
    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: PairBatch, batch_idx: int
    ) -> None:
        """Before the first batch: the untrained model."""
        if not self.rows:
            self.look(trainer, pl_module, 0)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: PairBatch,
        batch_idx: int,
    ) -> None:
        """Evaluate every so often, and stop after the last step."""
        done = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1
        if done % EVERY == 0 or done == self.steps:
            self.look(trainer, pl_module, done)
        if done == self.steps:
            trainer.should_stop = True

    def look(self, trainer: pl.Trainer, model: Any, done: int) -> None:
        """Encode all training items and record the numbers."""
        assert isinstance(model, ACMR)
        corpus = self.data.corpus
        images, texts = encoded(model, corpus)
        with torch.no_grad():
            image_logits, text_logits = map(model.modality_classifier, (images.values, texts.values))
        assert corpus.labels is not None
        labels = corpus.labels.values[corpus.image_rows("train")]
        precision = label_precision(
            images, texts, model.score, labels, labels, measures={"mAP": average_precision}
        )
        right = torch.cat([image_logits.argmax(1) == 1, text_logits.argmax(1) == 0])
        numbers = (
            precision.per_query["i2t"]["mAP"].mean(),
            precision.per_query["t2i"]["mAP"].mean(),
            images.values.std(0, correction=0).mean(),
            texts.values.std(0, correction=0).mean(),
            modality_classification_loss(image_logits, text_logits),
            right.float().mean(),
        )
        self.rows.append((done, dict(zip(COLUMNS, map(float, numbers), strict=True))))


def read(root: Path) -> Corpus:
    """All items as training items; the first one also as a test item, which a corpus must have."""
    folder = root / FOLDER
    images = load_array(folder / "test_img.mat", "test_img", ndim=2)
    texts = load_array(folder / "test_txt.mat", "test_txt", ndim=2, rows=len(images))
    labels = load_array(folder / "test_img_lab.mat", "test_img_lab", rows=len(images))
    ids = (*(str(row) for row in range(len(images))), "0 again")
    rows = np.arange(len(ids)) % len(images)
    return Corpus(
        name=FOLDER,
        image_ids=ids,
        caption_ids=ids,
        caption_image=np.arange(len(ids)),
        split=np.array(["train"] * len(images) + ["test"]),
        labels=Labels(labels.reshape(-1).astype(np.int64)[rows], rule="classes of the label array"),
        image_features=images.astype(np.float32)[rows],
        text_features=texts.astype(np.float32)[rows],
        source=str(folder),
    )


def start(corpus: Corpus, overrides: Mapping[str, Any], seed: int) -> tuple[float, float, float]:
    """L_reg's share of the untrained model's embedding loss, the nearest negative's distance, and mu."""
    cli = prepared(corpus, overrides, seed)
    model: Any = cli.model
    assert isinstance(model, ACMR)
    pl.seed_everything(seed, verbose=False)
    model.prepare(cli.datamodule.build(model.requires))
    images, texts = encoded(model, corpus)
    labels = torch.from_numpy(corpus.labels.values[corpus.image_rows("train")])  # type: ignore[union-attr]
    with torch.no_grad():
        norms = frobenius_penalty(
            [*model.image_projector.weights(), *model.text_projector.weights()],
            squared=model.regularisation_form == "squared",
        )
        distance = cross_modal_distances(images.values, texts.values)
        margin = model.triplet_settings.margin
        if model.triplet_settings.margin_unit == "initial_distance":
            margin *= float(distance.mean())
        invariance = acmr_triplet_loss(images.values, texts.values, labels, margin)
        logits = map(model.label_classifier, (images.values, texts.values))
        weighted = model.regularisation * norms
        rest = model.alpha * invariance + model.beta * label_prediction_loss(*logits, labels)
        nearest = distance[~same_label(labels)].min()
    return float(weighted / (weighted + rest)), float(nearest), margin


def prepared(corpus: Corpus, overrides: Mapping[str, Any], seed: int) -> Any:
    """Model, data and trainer of a variant."""
    config = experiments.resolve("acmr", "pascal_sentence", {}, "paper", {**overrides}, Path("data"))
    cli = instantiate(
        {**config, "seed_everything": seed},
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    cli.datamodule.hand_over(corpus)
    return cli


def encoded(model: ACMR, corpus: Corpus) -> tuple[Encoding, Encoding]:
    """All training items, without dropout and gradients."""
    assert corpus.image_features is not None and corpus.text_features is not None
    rows = corpus.image_rows("train")
    index = torch.from_numpy(rows)
    model.eval()
    with torch.no_grad():
        images = model.encode_images(
            ImageBatch(index, features=torch.from_numpy(corpus.image_features[rows]))
        )
        texts = model.encode_texts(TextBatch(index, index, bow=torch.from_numpy(corpus.text_features[rows])))
    model.train()
    return images, texts


def train(corpus: Corpus, overrides: Mapping[str, Any], steps: int, seed: int) -> Course:
    """Train one variant from its seed."""
    cli = prepared(corpus, overrides, seed)
    course = Course(steps, cli.datamodule)
    cli.trainer.callbacks.append(course)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return course


def draw(courses: Mapping[str, Course]) -> bytes:
    """mAP, deviation and adversarial loss over the batches, one line per variant."""
    figure, axes = drawing.figure(3, width=3.6, height=3.0)
    panels = {"mAP i2t": "mAP on the training items, i2t", "deviation images": "deviation of the images"}
    panels["L_adv"] = "adversarial loss"
    for axis, (column, title) in zip(axes, panels.items(), strict=True):
        for index, (name, course) in enumerate(courses.items()):
            steps = [done for done, _ in course.rows]
            values = [numbers[column] for _, numbers in course.rows]
            axis.plot(steps, values, label=name, **{**drawing.line(index), "marker": ""})
        axis.set(title=title, xlabel="batches")
    axes[0].set_ylim(0, 1)
    axes[1].set_yscale("log")
    axes[2].axhline(2 * math.log(2), color="0.4", linestyle=":", linewidth=1)
    drawing.legend(figure, axes[0])
    return drawing.png(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the variants, print the final numbers of each, and draw the curves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--steps", type=int, default=300, help="batches per training (300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", action="store_true", help="train nothing, print the initial numbers")
    parser.add_argument("--figure", type=Path, help="PNG of the curves")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    # Lightning's remarks on loaders and devices are irrelevant here.
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    corpus = read(options.data_root)
    if options.start:
        print(f"{'':34s}{'L_reg':>10s}{'nearest negative':>18s}{'mu':>8s}")
        for name, overrides in VARIANTS.items():
            share, nearest, margin = start(corpus, overrides, options.seed)
            print(f"{name:34s}{share:10.1%}{nearest:18.2f}{margin:8.2f}", flush=True)
        return
    print(f"{'':34s}{'batches':>8s}" + "".join(f"{column:>18s}" for column in COLUMNS))
    courses = {}
    for name, overrides in VARIANTS.items():
        courses[name] = train(corpus, overrides, options.steps, options.seed)
        first, *_, last = courses[name].rows
        for done, numbers in (first, last):
            cells = "".join(f"{_shown(column, numbers[column]):>18s}" for column in COLUMNS)
            print(f"{name:34s}{done:8d}{cells}", flush=True)
        if options.figure is not None:
            options.figure.write_bytes(draw(courses))


def _shown(column: str, value: float) -> str:
    return f"{value:.1e}" if column.startswith("deviation") else f"{value:.3f}"


if __name__ == "__main__":
    main()
