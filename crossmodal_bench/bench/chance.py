"""Whether a model has learned anything: its numbers against those of random scores."""

from __future__ import annotations

from crossmodal_bench.bench.record import Record

FACTOR = 1.5
"""How many times chance a smoke run must reach."""


def chance_recall(record: Record, k: int = 10) -> dict[str, float]:
    """Expected R@k in percent of random scores, per direction."""
    counts = record.data.counts[record.evaluated_on]
    images, captions = counts["images"], counts["captions"]
    per_image = captions / images
    missed = 1.0
    for drawn in range(min(k, captions)):
        missed *= max(0.0, (captions - per_image - drawn) / (captions - drawn))
    return {"i2t": 100 * (1 - missed), "t2i": 100 * min(1.0, k / images)}


def chance_precision(record: Record, side: str) -> float:
    """Expected mAP of random scores: the share of relevant items, which is the precision of a whole list.

    Where the curve ends before the gallery does, as many items for each label are assumed.
    """
    split = record.data.counts[record.evaluated_on]
    gallery = split["captions" if side == "i2t" else "images"]
    curve = record.curves.get(f"{side}/precision_scope", {"scope": [], "precision": []})
    if gallery in curve["scope"]:
        return curve["precision"][curve["scope"].index(gallery)]
    return 1 / max(1, int(record.data.labels.get("count") or 1))


def below_chance(record: Record) -> list[str]:
    """One sentence for each direction in which a record is not clearly better than chance.

    R@10 decides, and mAP under protocols that have no recall.
    """
    found = []
    for side, chance in chance_recall(record).items():
        metric, digits = f"{side}/R@10", 1
        if metric not in record.metrics:
            metric, digits, chance = f"{side}/mAP", 3, chance_precision(record, side)
        reached = record.metrics.get(metric)
        if reached is None or reached < FACTOR * chance:
            shown = "not a number" if reached is None else f"{reached:.{digits}f}"
            model = f"{record.job.method} seed {record.job.seed}"
            found.append(f"{model}: {metric} is {shown}, chance is {chance:.{digits}f}")
    return found
