"""Whether a model has learned anything: its numbers against those of random scores."""

from __future__ import annotations

from crossmodal_bench.jobs.record import Record

FACTOR = 1.5
"""How many times chance a smoke run must reach."""


def chance_recall(record: Record, k: int = 10) -> dict[str, float]:
    """Expected R@k in percent of random scores, per direction.

    Where positives go by identity, as many images and captions for each identity are assumed.
    """
    counts = record.data.counts[record.evaluated_on]
    images, captions = counts["images"], counts["captions"]
    identities = counts.get("identities", images)
    return {
        "i2t": _hit(captions, captions / identities, k),
        "t2i": _hit(images, images / identities, k),
    }


def chance_class(record: Record) -> float:
    """Expected AP@50 and R@1 in percent of random scores between images and classes.

    Both are one in the number of classes: the share of a class among the images, averaged over classes, is
    that whatever their sizes.
    """
    counts = record.data.counts[record.evaluated_on]
    return 100 / max(1, counts.get("classes", int(record.data.labels.get("count") or 1)))


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

    R@10 decides; AP@50 and R@1 under protocols of classes; mAP under others that have no recall.
    """
    by_class = "t2i/AP@50" in record.metrics
    found = []
    for side, chance in chance_recall(record).items():
        metric, digits = f"{side}/R@10", 1
        if by_class:
            metric, chance = {"i2t": "i2t/R@1", "t2i": "t2i/AP@50"}[side], chance_class(record)
        elif metric not in record.metrics:
            metric, digits, chance = f"{side}/mAP", 3, chance_precision(record, side)
        reached = record.metrics.get(metric)
        if reached is None or reached < FACTOR * chance:
            shown = "not a number" if reached is None else f"{reached:.{digits}f}"
            model = f"{record.job.method} seed {record.job.seed}"
            found.append(f"{model}: {metric} is {shown}, chance is {chance:.{digits}f}")
    return found


def _hit(gallery: int, positives: float, k: int) -> float:
    """Percentage of queries with one of so many positives among k items drawn from the gallery."""
    missed = 1.0
    for drawn in range(min(k, gallery)):
        missed *= max(0.0, (gallery - positives - drawn) / (gallery - drawn))
    return 100 * (1 - missed)
