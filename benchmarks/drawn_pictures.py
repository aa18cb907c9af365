"""Whether pictures drawn by a model from captions show what the captions' images show.

    make bench METHODS=gxn
    python benchmarks/drawn_pictures.py runs --method gxn

A small classifier learns the scene category from the *real* training pictures. It is then tested on real test
pictures, and on pictures drawn from test captions, of which it has seen none. Drawn pictures that show
nothing of the scene are classified no better than chance, which is also measured: the same pictures with
shuffled categories.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from crossmodal_bench.data.pixels import small_picture
from crossmodal_bench.evaluation.statistics.student_t import t_interval
from crossmodal_bench.jobs.record import read_records
from crossmodal_bench.training.trained_model import encode

SIDE = 16


def shrunk(pictures: torch.Tensor) -> NDArray[np.float32]:
    """(N, 3, 64, 64) to (N, 3 x 16 x 16): coarse colours and places, which a linear classifier can read."""
    return torch.nn.functional.adaptive_avg_pool2d(pictures, SIDE).flatten(1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether drawn pictures show what their captions say.")
    parser.add_argument("runs", type=Path, help="a folder of finished jobs")
    parser.add_argument("--method", default="gxn", help="a method that draws")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    options = parser.parse_args()
    shares = []
    for record in (one for one in read_records(options.runs) if one.job.method == options.method):
        found = encode(record, options.data_root, options.cache, {})
        corpus = found.corpus
        assert corpus.images is not None and corpus.labels is not None
        train, test = corpus.image_rows("train"), corpus.image_rows(record.evaluated_on)
        captions = corpus.caption_rows(record.evaluated_on)
        real = {
            name: shrunk(torch.stack([small_picture(corpus.images[row]) for row in rows]))
            for name, rows in (("train", train), ("test", test))
        }
        torch.manual_seed(0)
        found.model.eval()
        with torch.no_grad():
            drawn = found.model.draw(found.member.texts)
        if drawn is None:
            raise SystemExit(f"{options.method} does not draw; name gxn or gxn_t2i")
        judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        judge.fit(real["train"], corpus.labels.values[train])
        guesses, labels = judge.predict(shrunk(drawn)), corpus.labels.values[corpus.caption_image[captions]]
        shuffled = np.random.default_rng(0).permutation(labels)
        on_real = judge.score(real["test"], corpus.labels.values[test])
        print(
            f"{record.job.method} seed {record.job.seed}: correct on real pictures {100 * on_real:.1f} %, "
            f"on {len(drawn)} drawn ones "
            f"{100 * np.mean(guesses == labels):.1f} %, by chance {100 * np.mean(guesses == shuffled):.1f} %"
        )
        shares.append(100 * float(np.mean(guesses == labels)))
    if not shares:
        raise SystemExit(f"{options.runs} has no finished job of {options.method}; run it first")
    if len(shares) > 1:
        mean, half_width, n = t_interval(shares)
        print(f"drawn pictures, {n} seeds: {mean:.1f} ± {half_width:.1f} %")


if __name__ == "__main__":
    main()
