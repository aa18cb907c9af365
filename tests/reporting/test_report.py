from __future__ import annotations

import base64
import io
import json
import os
import resource
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from answered import Answered

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.charts.collection import collect
from crossmodal_bench.reporting.formats import FILES, FORMATS
from crossmodal_bench.reporting.page import contents
from crossmodal_bench.reporting.page.contents import PNG
from crossmodal_bench.reporting.report import build_report, html, print_leaderboard
from crossmodal_bench.reporting.rows.leaderboard import Table, leaderboard, tables
from crossmodal_bench.reporting.table import frame, shown_tables
from crossmodal_bench.reporting.tables.layout import main_metrics, meaning, notes, warnings
from crossmodal_bench.reporting.tables.markdown import markdown
from crossmodal_bench.reporting.tables.shown import show

Maker = Callable[..., Record]


def page_of(tables: list[Table]) -> str:
    return html([show(table) for table in tables], collect(tables), "runs")


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
    assert "93.0" in recall and "small, n=2 (± images, seeds)" in recall
    assert "mAP@50" in text[text.index("wikipedia-2173-map") :]


def test_a_plain_table_that_is_too_wide_says_what_margins_cover_in_a_line_of_its_own(
    answered: Answered, make_recall_record: Maker
) -> None:
    narrow, wide = io.StringIO(), io.StringIO()
    records = [answered(0.3, method="scan", images=12, seed=seed) for seed in (0, 1)]
    print_leaderboard(records, narrow)
    both = {"metrics": {**records[0].metrics, "mAP": 0.5}, "intervals": {"mAP": [0.1, 0.9]}}
    print_leaderboard([*records, make_recall_record(method="acmr", **both)], wide)
    assert any("small, n=2 (± images, seeds)" in line for line in narrow.getvalue().splitlines())
    lines = wide.getvalue().splitlines()
    assert any(line.startswith("   small, n=2 ") for line in lines) and max(map(len, lines)) <= 100
    assert any(line.startswith("   (± images, seeds) ") for line in lines)


def test_tables_of_persons_and_of_species_show_their_own_metrics(make_record: Maker) -> None:
    recalls = {f"{side}/R@{k}": 40.0 + k for side in ("i2t", "t2i") for k in (1, 5, 10)}
    persons = make_record(
        dataset="cuhk_pedes", protocol="cuhk-pedes", metrics={**recalls, "rsum": 272.0}, intervals={}
    )
    classes = {"t2i/AP@50": 67.74, "i2t/R@1": 70.26}
    species = make_record(
        dataset="cub",
        protocol="cub-ap50",
        metrics=classes,
        intervals={name: [value - 2, value + 2] for name, value in classes.items()},
    )
    cub, cuhk = tables(leaderboard([persons, species]))
    assert main_metrics(cub) == ["t2i/AP@50", "i2t/R@1"]
    assert main_metrics(cuhk)[:3] == ["t2i/R@1", "t2i/R@5", "t2i/R@10"] and "rsum" not in main_metrics(cuhk)
    stream = io.StringIO()
    print_leaderboard([persons, species], stream)
    assert "67.7" in stream.getvalue() and "±2.0" in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) <= 100
    assert "67.7" in markdown([show(cub)]) and "67.7" in page_of([cub])
    assert set(frame([show(cub)]).metric) >= set(classes)


def test_a_single_seed_is_labelled_as_one_model_on_other_images(make_record: Maker) -> None:
    stream = io.StringIO()
    print_leaderboard([make_record(method="cca")], stream)
    assert "±0.040" in stream.getvalue() and "small, n=1 (± images)" in stream.getvalue()
    said = " ".join(stream.getvalue().split())
    assert "over images: of this one model on other images" in said
    stream = io.StringIO()
    print_leaderboard([make_record(method="cca", intervals={})], stream)
    assert "±0." not in stream.getvalue() and "(±" not in stream.getvalue().replace("(± over)", "")


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
    print_leaderboard([make_record(), make_record(method="cca", metrics={}, intervals={}, cost={})], stream)
    line = next(line for line in stream.getvalue().splitlines() if "cca " in line)
    assert line.count("–") == len(["six metrics", *"23456", "paper", "parameters"])


def test_notes_say_preset_data_features_labels_and_selection(board: list[Record]) -> None:
    recall, _ = tables(leaderboard(board[:1] + board[4:5]))
    said = "\n".join(notes(recall))
    assert "preset small: small networks and frozen features, NOT the paper's setting" in said
    assert "train 2173 images / 2173 captions" in said and "fingerprint dddddddddddd" in said
    assert "vgg19, weights V1 (sha256 abababababab), 224 px" in said
    assert "50 content words: the most frequent ones; used in training only" in said
    assert "checkpoint: last epoch: no validation split" in said


def test_notes_say_what_margins_marks_and_ties_mean(answered: Answered, make_recall_record: Maker) -> None:
    records = [answered(0.3, method="scan", seed=seed) for seed in (0, 1)]
    records += [answered(0.2, method="cca"), make_recall_record(method="gru", by=-9)]
    (table,) = answered.tables(records)
    margin, mark = meaning(table)
    assert margin == (
        "± is the longer side of a 95 % interval; over images, seeds: of this method on other images with "
        "other seeds; over images: of this one model on other images"
    )
    assert mark.startswith("★ marks the rows that are not significantly behind the first in rsum (paired")
    assert "adjusted by Holm for all pairs of the table" in mark and mark.endswith("; not tested: gru")
    ties = "R@K is the probability of a hit when ties are broken at random; MedR and MeanR use the expected"
    assert f"ties: {ties} rank" in notes(table)
    (warning,) = warnings(table)
    assert warning.startswith("± of gru comes from the intervals in the records")


def test_a_table_by_label_says_how_its_ties_count(make_record: Maker) -> None:
    records = [make_record(method=method) for method in ("acmr", "cca")]
    (table,) = tables(leaderboard(records))
    assert "ties: mAP counts ties against the query" in notes(table)
    assert meaning(table)[1] == "no row is marked as best: the first in mAP cannot be tested against another"


def test_the_page_shows_how_sure_the_differences_are(answered: Answered) -> None:
    (table,) = answered.tables([answered(0.3, method="scan"), answered(0.2, method="cca")])
    (pair,) = table.pairs
    page = page_of([table])
    assert "row minus column in rsum" in page
    assert page.count(f"<small>p {pair.adjusted_p:.2g}</small>") == 2
    assert "2. cca <small>small</small>" in page


def test_why_a_paper_is_not_comparable_is_a_note(board: list[Record]) -> None:
    (table,) = tables(leaderboard(board[:4]))
    said = "\n".join(notes(table))
    assert "not comparable" in said and "1,300" in said


def test_seeds_on_different_data_or_features_are_warned_of(make_record: Maker) -> None:
    same = make_record(seed=0)
    (only,) = warnings(tables(leaderboard([same, make_record(seed=2)]))[0])
    assert "their results on single queries are unknown: there is no file of them" in only
    moved = {**same.content["data"], "fingerprint": "f" * 64}
    (table,) = tables(leaderboard([same, make_record(seed=1, data=moved)]))
    first, second, _ = warnings(table)
    assert first.startswith("acmr (small) averages seeds of different data fingerprints: dddddddddddd / ff")
    assert second.startswith("the rows do not use the same data")
    assert "**Warning: acmr" in markdown([show(table)])
    (table,) = tables(leaderboard([same, make_record(seed=1, source_fingerprint="0" * 64)]))
    assert [line for line in warnings(table) if "source fingerprints" in line]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

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
    assert "link" not in page.tags and "iframe" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "prefers-color-scheme" in text and "width=device-width" in text


def test_validation_and_risks_are_charts_of_the_page(make_recall_record: Maker, runs: Path) -> None:
    history = [
        {"epoch": e, "val/i2t/R@1": 10.0 + e, "train/risk_own": 0.4, "train/risk_other": 0.6} for e in (0, 1)
    ]
    make_recall_record(method="addr_scan", history=history)
    page, charts = (file.read_text() for file in build_report(runs, ["html", "charts"]).files)
    assert "is correct, mean over seeds (as in ADDR, Figure 3(b))" in page
    assert "each pair has a domain of its own (ADDR, Eq. 4-7)" in page
    names = {name.removeprefix("flickr8k-1k-test-") for name in json.loads(charts)}
    assert names == {"validation", "risks", "cost"}


def test_all_formats_are_built(board: list[Record], runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = build_report(runs)
    assert report.files == [runs / "report" / file for file in FILES.values()]
    assert all("dataset" in file.read_text() or "wikipedia" in file.read_text() for file in report.files)
    assert "flickr8k-1k" in capsys.readouterr().out
    assert [table.source.protocol for table in report.tables] == ["flickr8k-1k", "wikipedia-2173-map"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_built_alone(
    name: str, make_record: Maker, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_record()
    report = build_report(runs, [name])
    assert [file.name for file in report.files] == ([FILES[name]] if name in FILES else [])
    assert bool(capsys.readouterr().out) == (name == "terminal")


def test_every_form_shows_the_same_numbers(board: list[Record], runs: Path) -> None:
    tables = shown_tables(board)
    texts = [file.read_text() for file in build_report(runs).files if file.suffix not in (".csv", ".json")]
    assert len(texts) == 4
    stream = io.StringIO()
    print_leaderboard(board, stream)
    for text in (*texts, stream.getvalue()):
        for line in (line for table in tables for line in table.lines):
            assert line.name in text.replace("\\_", "_")
            assert all(value.text in text for value in line.values.values())


def test_hostile_text_stays_text_in_every_form(make_record: Maker, runs: Path) -> None:
    make_record(label='=1+1\x1b[31m|<b>*x*\\input{a}$%#&_^~`"\u202e')
    built = build_report(runs).files
    for file in built:
        text = file.read_text()
        assert not set(text) & {"\x1b", "\u202e"}
    page, tex, csv = (runs / "report" / FILES[name] for name in ("html", "latex", "csv"))
    assert "<b>" not in page.read_text()
    assert r"\input{a}" not in tex.read_text()
    assert ""","'=1+1""" in csv.read_text()


def test_bad_requests_are_one_sentence(make_record: Maker, runs: Path) -> None:
    with pytest.raises(BadInput, match="no finished job"):
        build_report(runs)
    make_record()
    with pytest.raises(BadInput, match="did you mean 'html'"):
        build_report(runs, ["htm"])
    (runs / "report").write_text("in the way")
    with pytest.raises(BadInput, match="cannot be written"):
        build_report(runs, ["csv"])


def test_only_pictures_of_the_runs_are_embedded(
    make_record: Maker, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "LARGEST_PICTURE", 1000)
    jobs = [make_record(method=method).files for method in ("acmr", "cca", "sm")]
    figures = build_report(runs, ["html"]).files[0].read_text().count("<img")
    outside = runs.parent / "private.png"
    outside.write_bytes(PNG + b"private")
    files = {
        jobs[0].words_panel: PNG + b"shown",
        jobs[0].pictures_panel: b"no picture",
        jobs[1].words_panel: PNG + bytes(1000),
    }
    for path, content in files.items():
        path.write_bytes(content)
    jobs[0].captions_panel.symlink_to("/etc/passwd")
    jobs[1].captions_panel.symlink_to(outside)
    os.mkfifo(jobs[2].captions_panel)
    jobs[2].words_panel.symlink_to("/dev/zero")
    page = build_report(runs, ["html"]).files[0].read_text()
    assert base64.b64encode(PNG + b"shown").decode() in page
    assert page.count("<img") == figures + 1
    said = capsys.readouterr().err
    assert said.count("link out of RUNS") == 3
    assert "panel_pictures.png is left out of the page (it is not a PNG); delete it" in said
    assert "not a regular file" in said and "it is larger than" in said


def test_the_page_says_which_records_it_leaves_out(make_record: Maker, runs: Path) -> None:
    make_record()
    assert "it is left out for now" not in build_report(runs, ["html"]).files[0].read_text()
    damaged = make_record(method="cca").files.record
    damaged.write_text("{<b>")
    page = build_report(runs, ["html"]).files[0].read_text()
    assert f'<p class="warning">Warning: {damaged} is damaged' in page
    assert "it is left out for now</p>" in page


def test_a_damaged_map_does_not_withhold_the_page(
    make_record: Maker, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_record().files.projection.write_bytes(b"cut")
    assert "acmr" in build_report(runs, ["html"]).files[0].read_text()
    assert "projection.npz" in capsys.readouterr().err


def test_a_map_that_is_a_link_out_of_the_runs_is_not_shown(
    make_record: Maker, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_record().files.projection.symlink_to("/etc/passwd")
    build_report(runs, ["html"])
    assert "projection.npz is left out of the page (it is a link out of RUNS)" in capsys.readouterr().err


def test_links_out_of_the_runs_are_not_written_through(make_record: Maker, runs: Path) -> None:
    make_record()
    victim = runs.parent / "victim.txt"
    victim.write_text("dear")
    (runs / "report").mkdir()
    (runs / "report" / FILES["markdown"]).symlink_to(victim)
    (written,) = build_report(runs, ["markdown"]).files
    assert victim.read_text() == "dear"
    assert not written.is_symlink() and "acmr" in written.read_text()
    written.unlink()
    (runs / "report").rmdir()
    (runs / "report").symlink_to(runs.parent)
    with pytest.raises(BadInput, match=r"report is a link out of .*; replace it with a folder"):
        build_report(runs, ["markdown"])
    assert not (runs.parent / FILES["markdown"]).exists()


def test_a_refused_write_keeps_the_report_of_before(make_record: Maker, runs: Path) -> None:
    make_record()
    (page,) = build_report(runs, ["html"]).files
    before = page.read_bytes()
    make_record(method="cca")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(BadInput, match=r"index\.html cannot be written \(.*\): free space"):
            build_report(runs, ["html"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert page.read_bytes() == before
    assert list(page.parent.iterdir()) == [page]
