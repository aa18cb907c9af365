"""ACMR's training curves as a Markdown table, from the records of a bench.

    python benchmarks/acmr_course.py runs/wikipedia/acmr [results/wikipedia/acmr ...]

For each preset and protocol, from records that were evaluated on test: number of seeds, mean mAP of both
directions, and at a few epochs, as means over the seeds, the deviation of the embeddings (standard deviation
averaged over dimensions; 0 means a single point), the discriminator's accuracy and the adversarial loss
(2 log 2 = 1.386 is confusion). A dash marks values that an older record does not have.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record, read_record

COLUMNS = {
    "deviation of images": ("train/deviation_images", ".1e"),
    "of texts": ("train/deviation_texts", ".1e"),
    "accuracy": ("train/discriminator_accuracy", ".2f"),
    "L_adv": ("train/loss_adversarial", ".3f"),
}
SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Fractions of the training at which a line is printed."""


def records(folders: Sequence[Path]) -> dict[tuple[str, str], list[Record]]:
    """The records evaluated on test, by preset and protocol."""
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if JobDirectory(path).is_done():
                record = read_record(path)
                if record.evaluated_on == "test":
                    found[record.job.preset, record.job.protocol].append(record)
    return found


def lines(preset: str, protocol: str, seeds: Sequence[Record]) -> list[str]:
    """One row per printed epoch; the last one has the mAP."""
    last = min(len(record.history) for record in seeds) - 1
    rows = []
    for epoch in dict.fromkeys(round(share * last) for share in SHARES):
        cells = []
        for key, form in COLUMNS.values():
            values = [record.history[epoch][key] for record in seeds if key in record.history[epoch]]
            cells.append(format(fmean(values), form) if values else "–")
        ends = epoch == last
        means = [fmean(record.metrics[f"{side}/mAP"] for record in seeds) for side in ("i2t", "t2i")]
        scores = [f"{mean:.3f}" if ends else "" for mean in means]
        rows.append(
            f"| {preset} | {protocol} | {len(seeds)} | {epoch + 1} | {' | '.join((*cells, *scores))} |"
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="folders of ACMR's job directories")
    options = parser.parse_args()
    print(f"| preset | protocol | seeds | epoch | {' | '.join(COLUMNS)} | mAP i2t | mAP t2i |")
    print("|---" * (len(COLUMNS) + 6) + "|")
    for (preset, protocol), seeds in sorted(records(options.folders).items()):
        print("\n".join(lines(preset, protocol, seeds)))


if __name__ == "__main__":
    main()
