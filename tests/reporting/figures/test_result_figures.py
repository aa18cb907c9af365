from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure
from pictures import is_picture

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.comparison.parameter_sweeps import sweeps
from crossmodal_bench.reporting.figures import drawing, result_figures
from crossmodal_bench.reporting.rows.leaderboard import leaderboard

Maker = Callable[..., Record]


def test_precision_scope_averages_seeds_over_the_scopes_they_share(
    make_record: Maker, drawn: list[Figure]
) -> None:
    def curves(scope: list[int], precision: list[float]) -> dict[str, object]:
        return {
            f"{side}/precision_scope": {"scope": scope, "precision": precision} for side in ("i2t", "t2i")
        }

    records = [
        make_record(seed=0, curves=curves([50, 100, 200], [0.6, 0.4, 0.2])),
        make_record(seed=1, curves=curves([50, 100], [0.4, 0.2])),
        make_record(seed=2, curves={}),
        make_record(method="cca", curves={}),
    ]
    assert is_picture(result_figures.precision_scope(leaderboard(records)))
    (figure,) = drawn
    assert [axis.get_title() for axis in figure.axes] == ["image → text", "text → image"]
    for axis in figure.axes:
        (line,) = axis.lines
        np.testing.assert_allclose(line.get_xydata(), [[50, 0.5], [100, 0.3]])


def test_without_curves_there_is_no_figure(make_record: Maker) -> None:
    rows = leaderboard([make_record(curves={}, history=[])])
    assert result_figures.precision_scope(rows) is None
    assert result_figures.projection(rows[0].records[0]) is None
    assert sweeps(rows) == []


def test_projection_shows_modalities_and_labels(make_record: Maker, drawn: list[Figure]) -> None:
    record = make_record()
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 20
    points = {"image": rng.normal(size=(40, 2)), "text": rng.normal(size=(40, 2))}
    np.savez(record.directory / "projection.npz", image_labels=labels, text_labels=labels, **points)
    assert is_picture(result_figures.projection(record))
    modality, label = drawn[0].axes
    np.testing.assert_allclose(modality.collections[0].get_offsets(), points["image"])
    np.testing.assert_allclose(modality.collections[1].get_offsets(), points["text"])
    looks = {
        (tuple(kind.get_facecolor()[0]), kind.get_paths()[0].vertices.tobytes()) for kind in label.collections
    }
    assert len(looks) == len(label.collections) == result_figures.SHOWN_LABELS + 1
    assert sum(len(kind.get_offsets()) for kind in label.collections) == 80


def test_a_projection_without_labels_has_one_panel(make_record: Maker, drawn: list[Figure]) -> None:
    record = make_record()
    none = np.zeros(0, dtype=np.int64)
    points = np.random.default_rng(0).normal(size=(5, 2))
    np.savez(
        record.directory / "projection.npz", image=points, text=points, image_labels=none, text_labels=none
    )
    assert is_picture(result_figures.projection(record))
    assert len(drawn[0].axes) == 1


@pytest.mark.parametrize("damage", ["cut", "missing", "shape"])
def test_a_damaged_projection_is_bad_input(make_record: Maker, damage: str) -> None:
    record = make_record()
    path = record.directory / "projection.npz"
    arrays = {name: np.zeros(3) for name in ("image", "text", "image_labels", "text_labels")}
    if damage == "missing":
        del arrays["text"]
    np.savez(path, **arrays)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match=r"projection\.npz"):
        result_figures.projection(record)


def _swept(make_record: Maker, key: str, value: object, mean: float, **changes: object) -> Record:
    metrics = {"i2t/mAP": mean + 0.1, "t2i/mAP": mean - 0.1, "mAP": mean}
    overrides = {f"model.init_args.{key}": value, **changes.pop("others", {})}  # type: ignore[dict-item]
    return make_record(**{"suite": "figure6", "overrides": overrides, "metrics": metrics, **changes})


def test_sweeps_vary_one_override_of_one_suite(make_record: Maker) -> None:
    records = [
        make_record(suite="figure6"),
        *(_swept(make_record, "alpha", value, 0.3) for value in (0.01, 0.1, 1)),
        *(_swept(make_record, "beta", value, 0.4) for value in (0.1, 1)),
        _swept(make_record, "k", 5, 0.4),
        *(_swept(make_record, "k", value, 0.4, suite=None, label="by hand") for value in (1, 2)),
    ]
    found = {sweep.key.rpartition(".")[2]: sweep for sweep in sweeps(leaderboard(records))}
    assert found.keys() == {"alpha", "beta"}
    assert found["alpha"].values == [0.01, 0.1, 1]
    assert (found["alpha"].suite, found["alpha"].method) == ("figure6", "acmr")


def test_a_sweep_plots_both_directions_and_pools_seeds(make_record: Maker, drawn: list[Figure]) -> None:
    records = [
        _swept(make_record, "alpha", value, mean, seed=seed)
        for value, means in ((0, (0.2, 0.3)), (0.1, (0.4, 0.5)), (10, (0.3, 0.3)))
        for seed, mean in enumerate(means)
    ]
    (sweep,) = sweeps(leaderboard(records))
    assert is_picture(result_figures.parameter_sweep(sweep))
    axis = drawn[0].axes[0]
    assert axis.get_xscale() == "symlog"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("alpha", "mAP (fraction)")
    curves = {bars.get_label(): bars.lines[0].get_xydata() for bars in axis.containers}
    assert curves.keys() == {"image → text", "text → image", "average"}
    np.testing.assert_allclose(curves["average"], [[0, 0.25], [0.1, 0.45], [10, 0.3]])


def test_a_grid_has_one_line_per_setting_of_the_other_override(
    make_record: Maker, drawn: list[Figure]
) -> None:
    records = [
        _swept(make_record, "alpha", alpha, 0.3, others={"model.init_args.beta": beta})
        for alpha in (1, 2)
        for beta in (3, 4)
    ]
    for sweep in sweeps(leaderboard(records)):
        assert is_picture(result_figures.parameter_sweep(sweep))
    labels = [[bars.get_label() for bars in figure.axes[0].containers] for figure in drawn]
    assert sorted(map(sorted, labels)) == [["alpha = 1", "alpha = 2"], ["beta = 3", "beta = 4"]]


def test_names_are_swept_in_places_and_recall_protocols_plot_rsum(
    make_recall_record: Maker, drawn: list[Figure]
) -> None:
    records = [
        make_recall_record(suite="hosts", overrides={"model.init_args.pool": pool}, by=by)
        for pool, by in (("mean", 0), ("max", 4))
    ]
    (sweep,) = sweeps(leaderboard(records))
    assert is_picture(result_figures.parameter_sweep(sweep))
    axis = drawn[0].axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["max", "mean"]
    np.testing.assert_allclose(axis.containers[0].lines[0].get_xydata(), [[0, 96], [1, 92]])


def test_many_lines_stay_distinct() -> None:
    looks = {tuple(sorted(drawing.line(index).items())) for index in range(24)}
    assert len(looks) == 24


def test_drawing_needs_no_pyplot(make_record: Maker) -> None:
    before = "matplotlib.pyplot" in sys.modules
    assert is_picture(result_figures.precision_scope(leaderboard([make_record()])))
    assert ("matplotlib.pyplot" in sys.modules) == before
