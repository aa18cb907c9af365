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


def below_chance(record: Record) -> list[str]:
    """One sentence for each direction in which a record is not clearly better than chance."""
    found = []
    for side, chance in chance_recall(record).items():
        reached = record.metrics.get(f"{side}/R@10")
        if reached is not None and reached < FACTOR * chance:
            found.append(
                f"{record.job.method} seed {record.job.seed}: {side}/R@10 is {reached:.1f}, chance is {chance:.1f}"
            )
    return found
