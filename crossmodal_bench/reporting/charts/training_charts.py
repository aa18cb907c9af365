"""Charts over epochs, from the records' histories; the first epoch is epoch 1 everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crossmodal_bench.evaluation.metric_table import SIDES, VALIDATION_CURVE, lookup
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.charts import templates
from crossmodal_bench.reporting.charts.chart import Chart, Entry, drawn_as, filled
from crossmodal_bench.reporting.charts.looks import DASHES, Series

PANELS: Mapping[str, str] = {
    "train/loss_embedding": "embedding loss",
    "train/loss_identification": "identification loss",
    "train/loss_matching": "matching loss",
    "train/loss_ranking": "ranking loss",
    "train/loss_caption": "caption loss",
    "train/loss_adversarial": "adversarial loss",
    "train/discriminator_accuracy": "discriminator accuracy",
}
RISKS: Mapping[str, str] = {"train/risk_own": "own discriminator", "train/risk_other": "another pair's"}
MOST_EPOCHS = 200
"""Maximum number of points per line; longer histories are drawn at every n-th epoch."""


def training_curves(series: Series, primary: str) -> Chart | None:
    """The method's losses, its discriminator's accuracy and its metric over the epochs (ACMR, Figure 5).

    One panel for each of PANELS in the row's histories, and one for validation if there is any, one line per
    seed; None if there are no panels.

    Args:
        series: the row.
        primary: the metric that validation measures after each epoch.
    """
    panels = {**PANELS, "val/primary": f"{lookup(primary).name} on validation"}
    values = []
    for number, record in enumerate(series.row.records):
        look = {
            "series": str(record.job.seed),
            "colour": series.look.colour,
            "dash": list(DASHES[number % len(DASHES)]),
        }
        for order, (key, title) in enumerate(panels.items()):
            values += [
                {**look, "panel": title, "order": order, "x": epoch, "y": value}
                for epoch, value in by_epoch([record], key).items()
            ]
    if not values:
        return None
    seeds = {str(record.job.seed): number for number, record in enumerate(series.row.records)}
    return Chart(
        id=f"{series.id}-training",
        title="Losses, discriminator accuracy and validation",
        caption="Over epochs, one line per seed (as in ACMR, Figure 5). Losses have no unit; accuracy is the "
        "fraction correct, 0.5 by chance.",
        specification=filled(templates.small_multiples("epoch"), values),
        entries=tuple(
            Entry(f"seed {seed}", series.look.colour, DASHES[number % len(DASHES)])
            for seed, number in seeds.items()
        ),
    )


def discriminator_accuracy(series: Sequence[Series], table: str) -> Chart | None:
    """How well each row's discriminator tells the modalities apart, over seeds; None without any.

    Next to its ablation, a row shows whether the encoders have learned to hide the modality.
    """
    return _over_epochs(
        series,
        {"train/discriminator_accuracy": ""},
        Chart(
            id=f"{table}-discriminator",
            title="Discriminator accuracy",
            caption="Fraction of items classified by modality correctly, mean over seeds; dotted: chance.",
            specification=templates.lines(
                "epoch", "accuracy (fraction correct)", epochs=True, reference=0.5, fraction=True
            ),
        ),
    )


def validation_curves(series: Sequence[Series], table: str) -> Chart | None:
    """R@1 of image to text on validation for each row, averaged over seeds (ADDR, Figure 3(b)).

    None if no row has it for two epochs.
    """
    metric = lookup(VALIDATION_CURVE)
    assert metric.side is not None
    key = f"val/{metric.key}"
    measured = [each for each in series if len(by_epoch(each.row.records, key)) > 1]
    return _over_epochs(
        measured,
        {key: ""},
        Chart(
            id=f"{table}-validation",
            title="Validation",
            caption="How often the best-scored caption of a validation image is correct, mean over seeds (as "
            "in ADDR, Figure 3(b)).",
            specification=templates.lines(
                "epoch", f"{metric.name}, {SIDES[metric.side]} ({metric.unit.text})", epochs=True
            ),
        ),
    )


def pair_risks(series: Sequence[Series], table: str) -> Chart | None:
    """The risk of a pair under its own and another pair's discriminator, over seeds (ADDR, Eq. 4-7).

    Two lines for each row: the mean risk of f_p on its own pair, and of f_q on that pair. None if no row
    has pair discriminators.
    """
    return _over_epochs(
        series,
        RISKS,
        Chart(
            id=f"{table}-risks",
            title="Risks of the pair discriminators",
            caption="How far a pair's own discriminator and another pair's are from accepting the pair, mean "
            "over seeds: where the lines diverge, each pair has a domain of its own (ADDR, Eq. 4-7).",
            specification=templates.lines("epoch", "mean risk on a pair (no unit)", epochs=True),
        ),
    )


def by_epoch(records: Sequence[Record], key: str) -> dict[int, float]:
    """By epoch number, from 1, the mean over those seeds that have the key, up to the last epoch that all of
    them have.
    """
    seeds = []
    for record in records:
        # Histories count from 0, as Lightning does.
        values = {
            int(entry.get("epoch", position)) + 1: entry[key]
            for position, entry in enumerate(record.history)
            if key in entry
        }
        if values:
            seeds.append(values)
    if not seeds:
        return {}
    shared = sorted(set.intersection(*(set(values) for values in seeds)))
    step = -(-len(shared) // MOST_EPOCHS)
    drawn = shared[::step] if step > 1 else shared
    return {epoch: sum(values[epoch] for values in seeds) / len(seeds) for epoch in drawn}


def _over_epochs(series: Sequence[Series], keys: Mapping[str, str], empty: Chart) -> Chart | None:
    """A chart with a line for each row and key; None if no line has a value.

    Args:
        series: the rows.
        keys: keys of histories, with the suffix of a row's label.
        empty: the chart without its data.
    """
    values = []
    legend: list[Entry] = []
    for each in series:
        for number, (key, title) in enumerate(keys.items()):
            course = by_epoch(each.row.records, key)
            if not course:
                continue
            drawn = drawn_as(each)
            dash = each.look.dash if len(keys) == 1 else DASHES[number]
            if title:
                drawn["series"] = f"{each.label}: {title}"
            drawn["dash"] = list(dash)
            values += [{**drawn, "x": epoch, "y": value} for epoch, value in course.items()]
            legend.append(Entry(drawn["series"], each.look.colour, dash))
    if not values:
        return None
    return Chart(
        id=empty.id,
        title=empty.title,
        caption=empty.caption,
        specification=filled(empty.specification, values),
        entries=tuple(legend),
    )
