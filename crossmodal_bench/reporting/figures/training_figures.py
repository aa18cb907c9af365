"""What happens from epoch to epoch, drawn from records' histories; each function returns a PNG's bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossmodal_bench.evaluation.metric_table import SIDES, VALIDATION_CURVE, lookup
from crossmodal_bench.reporting.figures import drawing
from crossmodal_bench.reporting.rows.leaderboard import Row

PANELS = {
    "train/loss_embedding": "embedding loss",
    "train/loss_identification": "identification loss",
    "train/loss_matching": "matching loss",
    "train/loss_ranking": "ranking loss",
    "train/loss_caption": "caption loss",
    "train/loss_adversarial": "adversarial loss",
    "train/discriminator_accuracy": "discriminator accuracy",
}


def training_curves(row: Row) -> bytes | None:
    """The method's losses and its discriminator's accuracy over the epochs (ACMR, Figure 5).

    One panel for each of PANELS that the row's histories have, one line per seed; None without any.
    Discriminator accuracy is a fraction, its chance level (two modalities, equally frequent) the dotted line.
    """
    panels = {
        key: title
        for key, title in PANELS.items()
        if any(key in entry for r in row.records for entry in r.history)
    }
    if not panels:
        return None
    from matplotlib.ticker import MaxNLocator

    figure, axes = drawing.figure(len(panels), width=3.6, height=2.9)
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        for index, record in enumerate(row.records):
            points = [
                (entry.get("epoch", number), entry[key])
                for number, entry in enumerate(record.history)
                if key in entry
            ]
            style = {**drawing.line(index), "marker": "." if len(points) < 30 else ""}
            epochs, values = np.array(points).reshape(-1, 2).T
            axis.plot(epochs, values, label=f"seed {record.job.seed}", **style)
        axis.set(
            title=title, xlabel="epoch", ylabel="fraction right" if "accuracy" in key else "loss (no unit)"
        )
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if "accuracy" in key:
            axis.axhline(0.5, color="0.4", linestyle=":", label="chance")
    drawing.legend(figure, axes[-1])
    figure.suptitle(row.name, fontsize=11)
    return drawing.png(figure)


def discriminator_accuracy(rows: Sequence[Row]) -> bytes | None:
    """How well each row's discriminator tells the modalities apart, seeds averaged; None without any.

    A row beside its ablation without adversary says whether the encoders have learnt to hide the modality.
    """
    lines = [(f"{row.name}, {row.preset}", _by_epoch(row, "train/discriminator_accuracy")) for row in rows]
    return _over_epochs(lines, "accuracy (fraction right)", chance=0.5)


def validation_curves(rows: Sequence[Row]) -> bytes | None:
    """R@1 of image to text on validation for each row, its seeds averaged (ADDR, Figure 3(b)).

    None where no row has two epochs of it.
    """
    metric = lookup(VALIDATION_CURVE)
    assert metric.side is not None
    lines = [(f"{row.name}, {row.preset}", _by_epoch(row, f"val/{metric.key}")) for row in rows]
    lines = [(name, values) for name, values in lines if len(values) > 1]
    return _over_epochs(lines, f"{metric.name} on validation, {SIDES[metric.side]} ({metric.unit.text})")


def pair_risks(rows: Sequence[Row]) -> bytes | None:
    """What a pair's own discriminator and another pair's make of the pair, seeds averaged (ADDR, Eq. 4-7).

    Two lines for each row: the mean risk of f_p on its own pair, and of f_q on that pair. None where no row
    has discriminators of pairs.
    """
    names = {"train/risk_own": "own discriminator", "train/risk_other": "another pair's"}
    lines = [
        (f"{row.name}, {row.preset}: {name}", _by_epoch(row, key))
        for row in rows
        for key, name in names.items()
    ]
    return _over_epochs(lines, "mean risk on a pair (no unit)")


def _by_epoch(row: Row, key: str) -> list[float]:
    """The mean over seeds, epoch by epoch, as far as every seed goes that has it at all."""
    seeds = [[entry[key] for entry in r.history if key in entry] for r in row.records]
    return [float(np.mean(values)) for values in zip(*filter(None, seeds), strict=False)]


def _over_epochs(
    lines: Sequence[tuple[str, Sequence[float]]], what: str, chance: float | None = None
) -> bytes | None:
    """One panel; ``chance``: the level to mark, of a fraction. None where no line has a value."""
    drawn = [(name, values) for name, values in lines if values]
    if not drawn:
        return None
    from matplotlib.ticker import MaxNLocator

    figure, (axis,) = drawing.figure(1, width=4.8, height=3.2)
    for index, (name, values) in enumerate(drawn):
        axis.plot(np.arange(1, len(values) + 1), values, label=name, **drawing.line(index))
    if chance is not None:
        axis.axhline(chance, color="0.4", linestyle=":", label="chance")
        axis.set_ylim(0, 1.02)
    axis.set(xlabel="epoch", ylabel=what)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawing.legend(figure, axis)
    return drawing.png(figure)
