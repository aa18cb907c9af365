from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.layout import main_metrics, notes, quantity, warnings
from crossmodal_bench.reporting.leaderboard import leaderboard, tables
from crossmodal_bench.reporting.report import build_report, frame, html, markdown, print_leaderboard

Maker = Callable[..., Record]


@pytest.fixture
def board(make_record: Maker, make_recall_record: Maker) -> list[Record]:
    maps = [make_record(method=method, seed=seed) for method in ("acmr", "cca") for seed in (0, 1)]
    features = {"network": "vgg19", "weights": "V1", "weights_sha256": "ab" * 32, "image_size": 224}
    labels = {"kind": "content words", "count": 50, "rule": "the most frequent ones"}
    data = {**maps[0].content["data"], "features": features, "labels": labels}
    return [
        *maps,
        make_recall_record(method="scan", data=data),
        make_recall_record(method="scan", seed=1, by=2),
    ]


def test_the_plain_table_fits_its_width_and_shows_the_main_metrics(board: list[Record]) -> None:
    stream = io.StringIO()
    print_leaderboard(board, stream)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    assert "flickr8k-1k" in text and "wikipedia-2173-map" in text
    recall = text[text.index("flickr8k-1k") : text.index("wikipedia-2173-map")]
    assert recall.count("R@10") == 2 and "rsum" in recall and "mAP" not in recall
    assert "93.0" in recall and "small, n=2" in recall
    assert "mAP@50" in text[text.index("wikipedia-2173-map") :]


def test_tables_of_persons_and_of_species_show_their_own_metrics(make_record: Maker) -> None:
    recalls = {f"{side}/R@{k}": 40.0 + k for side in ("i2t", "t2i") for k in (1, 5, 10)}
    persons = make_record(
        dataset="cuhk_pedes", protocol="cuhk-pedes", metrics={**recalls, "rsum": 272.0}, bootstrap={}
    )
    classes = {"t2i/AP@50": 67.74, "i2t/R@1": 70.26}
    species = make_record(
        dataset="cub",
        protocol="cub-ap50",
        metrics=classes,
        bootstrap={name: [value - 2, value + 2] for name, value in classes.items()},
    )
    cub, cuhk = tables(leaderboard([persons, species]))
    assert main_metrics(cub) == ["t2i/AP@50", "i2t/R@1"]
    assert main_metrics(cuhk)[:3] == ["t2i/R@1", "t2i/R@5", "t2i/R@10"] and "rsum" not in main_metrics(cuhk)
    stream = io.StringIO()
    print_leaderboard([persons, species], stream)
    assert "67.7" in stream.getvalue() and "±2.0*" in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) <= 100
    assert "67.7" in markdown([cub]) and "67.7" in html([cub])
    assert set(frame([cub]).metric) >= set(classes)


def test_a_single_seed_shows_the_bootstrap_interval_with_a_mark(make_record: Maker) -> None:
    stream = io.StringIO()
    print_leaderboard([make_record(method="cca")], stream)
    assert "±0.030*" in stream.getvalue()
    stream = io.StringIO()
    print_leaderboard([make_record(method="cca", bootstrap={})], stream)
    assert "±0." not in stream.getvalue()


def test_a_terminal_of_another_encoding_does_not_stop_the_bench(make_record: Maker) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_leaderboard([make_record(label="[red]näme[/]")], stream)
    assert b"[red]n?me[/]" in raw.getvalue()


def test_no_record_yet_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_leaderboard([])
    assert "no finished job yet" in capsys.readouterr().out


def test_metrics_that_a_row_lacks_are_dashes(make_record: Maker) -> None:
    stream = io.StringIO()
    print_leaderboard([make_record(), make_record(method="cca", metrics={}, bootstrap={}, cost={})], stream)
    line = next(line for line in stream.getvalue().splitlines() if "cca " in line)
    assert line.count("–") == len(["six metrics", *"23456", "paper", "parameters"])


def test_notes_say_preset_data_features_labels_and_selection(board: list[Record]) -> None:
    recall, _ = tables(leaderboard(board[:1] + board[4:5]))
    said = "\n".join(notes(recall))
    assert "preset small: small networks and frozen features, NOT the paper's setting" in said
    assert "train 2173 images / 2173 captions" in said and "fingerprint dddddddddddd" in said
    assert "vgg19, weights V1 (sha256 abababababab), 224 px" in said
    assert "50 content words: the most frequent ones; they serve training only" in said
    assert "checkpoint: last epoch: no validation split" in said
    assert "95 % bootstrap" in said


def test_why_a_paper_is_not_comparable_is_a_note(board: list[Record]) -> None:
    (table,) = tables(leaderboard(board[:4]))
    said = "\n".join(notes(table))
    assert "not comparable" in said and "1,300" in said


def test_seeds_on_different_data_or_features_are_warned_of(make_record: Maker) -> None:
    same = make_record(seed=0)
    assert warnings(tables(leaderboard([same, make_record(seed=2)]))[0]) == []
    moved = {**same.content["data"], "fingerprint": "f" * 64}
    (table,) = tables(leaderboard([same, make_record(seed=1, data=moved)]))
    first, second = warnings(table)
    assert first.startswith("acmr (small) averages seeds of different data fingerprints: dddddddddddd / ff")
    assert second.startswith("the rows do not rest on the same data")
    assert "**Warning: acmr" in markdown([table])
    (table,) = tables(leaderboard([same, make_record(seed=1, source_fingerprint="0" * 64)]))
    assert [line for line in warnings(table) if "source fingerprints" in line]


def test_csv_is_tidy_and_survives_pandas(board: list[Record], runs: Path) -> None:
    (path,) = build_report(runs, ["csv"]).files
    assert path == runs / "report" / "leaderboard.csv"
    read = pd.read_csv(path)
    assert not read.duplicated(["protocol", "preset", "method", "metric"]).any()
    scan = read[(read.method == "scan") & (read.metric == "rsum")].iloc[0]
    assert (scan["mean"], scan.n, scan.seeds) == (93.0, 2, "0 1")
    assert scan.sd == pytest.approx(np.std([92, 94], ddof=1))
    assert (scan.bootstrap_low, scan.bootstrap_high) == (91.0, 95.0)
    assert bool(scan.best)
    acmr = read[(read.method == "acmr") & (read.metric == "mAP")].iloc[0]
    assert np.isnan(acmr.published) and "not comparable" in acmr.not_comparable
    assert read[read.metric == "cost/train_seconds"]["mean"].tolist() == [12.5] * 3
    expected = frame(tables(leaderboard(board)))
    pd.testing.assert_series_equal(read["mean"], expected["mean"])


def test_published_numbers_stand_in_their_own_row(make_record: Maker) -> None:
    found = tables(leaderboard([make_record(protocol="wikipedia-1300-map", preset="paper")]))
    paper = next(line for line in markdown(found).splitlines() if line.startswith("| *ACMR Table 2"))
    assert [cell.strip() for cell in paper.split("|")][4:7] == ["0.366", "0.277", "0.322"]
    assert 'class="paper"' in html(found)


def test_markdown_tables_are_rectangular_and_escape_labels(make_record: Maker) -> None:
    text = markdown(tables(leaderboard([make_record(label="a|b <i>*c*")])))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert r"a\|b \<i\>\*c\*" in text
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_self_contained_and_escaped(make_record: Maker, runs: Path) -> None:
    make_record(label="<script>alert(1)</script>")
    make_record(label="plain", curves={}, history=[])
    (path,) = build_report(runs, ["html"]).files
    text = path.read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert "script" not in page.tags and "link" not in page.tags
    assert page.tags.count("img") == 2
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "prefers-color-scheme" in text and "width=device-width" in text
    assert "://" not in text


def test_validation_and_risks_are_figures_of_the_page(make_recall_record: Maker, runs: Path) -> None:
    history = [
        {"epoch": e, "val/i2t/R@1": 10.0 + e, "train/risk_own": 0.4, "train/risk_other": 0.6} for e in (0, 1)
    ]
    make_recall_record(method="addr_scan", history=history)
    text = build_report(runs, ["html"]).files[0].read_text()
    assert "how often the best-scored caption is right (as ADDR, Figure 3(b))" in text
    assert "each pair&#x27;s domain is its own (ADDR, Eq. 4-7)" in text
    assert text.count("<img") == 2


def test_all_formats_are_built(board: list[Record], runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = build_report(runs)
    assert [file.name for file in report.files] == ["leaderboard.md", "leaderboard.csv", "leaderboard.html"]
    assert all(file.stat().st_size for file in report.files)
    assert "flickr8k-1k" in capsys.readouterr().out
    assert [table.protocol for table in report.tables] == ["flickr8k-1k", "wikipedia-2173-map"]


def test_bad_requests_are_one_sentence(make_record: Maker, runs: Path) -> None:
    with pytest.raises(BadInput, match="no finished job"):
        build_report(runs)
    make_record()
    with pytest.raises(BadInput, match="did you mean 'html'"):
        build_report(runs, ["htm"])
    (runs / "report").write_text("in the way")
    with pytest.raises(BadInput, match="cannot be written"):
        build_report(runs, ["csv"])


def test_quantities_are_short() -> None:
    shown = [quantity(value) for value in (None, 0.5, 12.34, 1234567.0, 2e9)]
    assert shown == ["–", "0.5", "12.3", "1.23M", "2G"]


def test_reports_do_not_import_wandb(make_record: Maker, runs: Path) -> None:
    make_record()
    code = (
        "import sys\n"
        "import crossmodal_bench.reporting.wandb\n"
        "from crossmodal_bench.reporting.report import build_report\n"
        "build_report(sys.argv[1])\n"
        "assert 'wandb' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(runs)], check=True, stdout=subprocess.DEVNULL)
