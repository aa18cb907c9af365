"""What every format of a leaderboard shows: which metrics, how formatted, and with which notes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.comparison.ablations import effects
from crossmodal_bench.reporting.rows.leaderboard import Table, differences, features_text, labels_text
from crossmodal_bench.reporting.rows.stored_intervals import Target
from crossmodal_bench.reporting.tables.published_notes import published_notes

OVER: Mapping[Target, str] = {"method": "images, seeds", "model": "images", "seeds": "seeds"}
"""What ± covers, in the words of a column."""

TARGETS: Mapping[Target, str] = {
    "method": "of this method on other images with other seeds",
    "model": "of this one model on other images",
    "seeds": "of this method with other seeds on the same images",
}
"""The same in a sentence."""

MARK = "★"
"""Precedes the name of each row that is not significantly behind the first."""

PRESET_NOTES = {
    "paper": "preset paper: the paper's own settings; values that it omits, or tunes per data set, are in "
    "the method's file with their source",
    "tuned": "preset tuned: what we chose on validation beyond the paper, NOT the paper's setting",
    "small": "preset small: small networks and frozen features, NOT the paper's setting",
    "smoke": "preset smoke: minutes of training to check that everything runs, NOT a result",
    "given": "preset given: a model from elsewhere, evaluated by its vectors or scores; its training is "
    "known to its author only",
}


_BESIDE_THE_DRAW = ("features", "labels", "source fingerprints")
"""What seeds share although each has its own draw; see ``differences``."""


def meaning(table: Table) -> list[str]:
    """What ± and the mark mean in this table; its numbers could be misread without this."""
    lines = []
    shown = main_metrics(table)
    covered = {row.cells[metric].target for row in table.rows for metric in shown if metric in row.cells}
    if covered - {None}:
        over = "; ".join(f"over {OVER[target]}: {TARGETS[target]}" for target in OVER if target in covered)
        lines.append(f"± is the longer side of a 95 % interval; {over}{_drawn(table)}")
    if len(table.own) > 1:
        lines.append(_mark_note(table))
    return lines


def notes(table: Table) -> list[str]:
    """The other notes: presets, how ties count, data, features, labels, ignored queries, checkpoint
    selection, what had changed when training was resumed, the weights it started from, the papers' numbers,
    and what each adversary adds.
    """
    presets = dict.fromkeys(row.preset for row in table.rows)
    lines = [*_reference_note(table), *(PRESET_NOTES.get(preset, f"preset {preset}") for preset in presets)]
    if shared := table.rows[0].shared:
        lines.append(f"all rows: {', '.join(f'{key}={value}' for key, value in shared.items())}")
    lines += _ties_note(table)
    if table.redrawn:
        lines.append("draws: seed s uses draw s of the split; ± over several seeds includes the draws")
    lines += _distinct(table, "data", _counts_text if table.redrawn else _data_text)
    lines += _distinct(table, "features", features_text)
    lines += _distinct(table, "labels", labels_text)
    lines += _distinct(table, "asked", _asked_text)
    lines += _distinct(table, "no label", _dropped_text)
    lines += _distinct(table, "repeats", _repeats_text)
    lines += _distinct(table, "checkpoint", lambda record: record.selection.rule)
    lines += _distinct(table, "taken up", _taken_up_text)
    started = defaultdict(list)
    for row in table.rows:
        parents = dict.fromkeys(name for record in row.records for name in record.parents)
        if parents:
            started[", ".join(parents)].append(row.name)
    lines += [
        f"start ({_names(names)}): from the trained weights of {parents}, whose training is not included"
        for parents, names in started.items()
    ]
    lines += [
        f"{heading} ({_names(names)}): {text}"
        for (heading, text), names in published_notes(table, main_metrics(table)).items()
    ]
    measured = effects(table)
    lines += [f"adversary: {effect}" for effect in measured]
    if sum(effect.p is not None for effect in measured) > 1:
        lines.append("adversaries: each p is adjusted by Holm for all adversaries of the table")
    return lines


def warnings(table: Table) -> list[str]:
    """Warnings where the seeds of one row, or the rows of the table, come from different measurements, and
    where intervals cover less than they should.
    """
    lines = [
        f"{row.name} ({row.preset}) averages seeds of {text}"
        for row in table.own
        for text in differences(row.records, _BESIDE_THE_DRAW if table.redrawn else ())
    ]
    same_data = [table.records]
    if table.redrawn:
        seeds = dict.fromkeys(record.job.seed for record in table.records)
        same_data = [[record for record in table.records if record.job.seed == seed] for seed in seeds]
    across = dict.fromkeys(
        text for records in same_data for text in differences(records, ("data fingerprints", "split hashes"))
    )
    lines += [f"the rows do not use the same data: {text}" for text in across]
    unknown = defaultdict(list)
    for row in table.rows:
        if row.results.missing:
            unknown[row.results.missing].append(row.name)
    lines += [
        f"± of {_names(names)} comes from the intervals in the records and the spread over seeds, and these "
        f"rows are not tested, because their results on single queries are unknown: {reason}"
        for reason, names in unknown.items()
    ]
    return lines


def main_metrics(table: Table) -> list[str]:
    """The metrics that a table shows, if any row has them."""
    measured = set(table.metrics)
    return [metric for metric in metric_table.main_columns(table.primary) if metric in measured]


def title(table: Table) -> str:
    """The table's heading: data set, protocol with its version, split and the metric that ranks it."""
    protocol = f"{table.protocol}@{table.version}{' (split unverified)' if table.unverified else ''}"
    return f"{table.dataset} · {protocol} · {table.evaluated_on} · ranked by {table.primary}"


def _drawn(table: Table) -> str:
    """What is resampled, if not single images."""
    over_classes = [
        metric.name for metric in map(metric_table.lookup, table.metrics) if metric.queries == "classes"
    ]
    return f" ({', '.join(over_classes)}: over other classes)" if over_classes else ""


def _mark_note(table: Table) -> str:
    """The meaning of the mark, and the rows that could not be tested."""
    if table.best_set:
        text = (
            f"{MARK} marks the rows that are not significantly behind the first in {table.primary} (paired "
            "on the same queries, clustered by image, over seeds; two-sided at 5 %, adjusted by Holm for all "
            "pairs of the table)"
        )
    else:
        text = f"no row is marked as best: the first in {table.primary} cannot be tested against another"
    untested = [
        row.name
        for position, row in enumerate(table.rows)
        if position not in table.tested and not row.reference
    ]
    return f"{text}; not tested: {_names(untested)}" if table.best_set and untested else text


def _reference_note(table: Table) -> list[str]:
    """What reference rows are, and the environment they were made in."""
    rows = [row for row in table.rows if row.reference]
    if not rows:
        return []
    made = dict.fromkeys(_made_on(record) for row in rows for record in row.records)
    return [
        "[reference]: rows of results/, made by others; they are not averaged with yours, tested or marked "
        f"(`compare` tests two rows; --reference off hides them); made with {' / '.join(made)}"
    ]


def _made_on(record: Record) -> str:
    """The versions and threads of a record, in one phrase."""
    known = record.environment
    threads = known.get("threads", "an unknown number of")
    plural = "" if threads == "1" else "s"
    device = known.get("device", "an unknown device")
    return f"{device}, {threads} thread{plural}, torch {known.get('torch', 'unknown')}"


def _ties_note(table: Table) -> list[str]:
    """How ties count, for the families of metrics in the table."""
    rules = [metric_table.TIES[family] for family in metric_table.families_among(table.metrics)]
    return [f"ties: {'; '.join(rules)}"] if rules else []


def _distinct(table: Table, what: str, read: Callable[[Record], str]) -> list[str]:
    """One line if all rows agree, else one for each variant, with its methods.

    Records for which ``read`` returns no text are left out.
    """
    variants = defaultdict(list)
    for row in table.own:
        for record in row.records:
            variants[read(record)].append(row.name)
    if len(variants) == 1:
        return [f"{what}: {text}" for text in variants if text]
    return [f"{what} ({_names(names)}): {text}" for text, names in variants.items() if text]


def _repeats_text(record: Record) -> str:
    """How many captions of the gallery are identical to a caption of another image."""
    counts = record.data.counts.get(record.evaluated_on, {})
    repeats, captions = counts.get("repeated_captions", 0), counts.get("captions", 0)
    if not repeats or not captions:
        return ""
    return (
        f"{repeats} of {captions} captions ({100 * repeats / captions:.1f} %) are identical to a caption of "
        "another image; only an image's own captions are correct, except under an -equal protocol"
    )


def _asked_text(record: Record) -> str:
    """The queries if positives are pairs, and their number of correct answers."""
    parts = []
    for side, kind, items in (("i2t", "images", "captions"), ("t2i", "captions", "images")):
        asked = record.asked.get(side)
        if asked and asked["queries"]:
            each = asked["positives"] / asked["queries"]
            parts.append(
                f"{asked['queries']:,} {kind} ({each:.1f} correct answers each, on average, among "
                f"{asked['gallery']:,} {items})"
            )
    return " and ".join(parts)


def _dropped_text(record: Record) -> str:
    """How many queries metrics by label ignore; empty if none."""
    counts = record.data.counts.get(record.evaluated_on, {})
    parts = [
        f"{record.dropped[side]} of {counts.get(items, 'all')} {kind} queries"
        for side, kind, items in (("i2t", "image", "images"), ("t2i", "text", "captions"))
        if record.dropped.get(side)
    ]
    by_label = metric_table.summary_of("label_precision").name
    return f"{' and '.join(parts)}, which are ignored by {by_label}" if parts else ""


def _taken_up_text(record: Record) -> str:
    """A note if training was resumed although something had changed."""
    if not record.taken_up:
        return ""
    return f"training resumed from a checkpoint although {'; '.join(record.taken_up)}"


def _names(names: Iterable[str]) -> str:
    """Up to four names, and how many more there are."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - 4} more" if len(distinct) > 4 else ""
    return ", ".join(distinct[:4]) + more


def _counts_text(record: Record) -> str:
    return ", ".join(
        f"{split} {numbers.get('images')} images / {numbers.get('captions')} captions"
        for split, numbers in record.data.counts.items()
    )


def _data_text(record: Record) -> str:
    return (
        f"{_counts_text(record)} (fingerprint {record.data.fingerprint[:12]}, split {record.data.split_hash})"
    )
