from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ranked import ranked_record, scores_of, split_corpus

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data import Corpus
from crossmodal_bench.data.equal_inputs import equal_input_pairs
from crossmodal_bench.evaluation.ranking.query_ranks import Side
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.page import queries as browsing
from crossmodal_bench.reporting.page.gallery import keep_gallery
from crossmodal_bench.reporting.page.queries import SLICES, queries_context, write_queries
from crossmodal_bench.reporting.report import build_report
from crossmodal_bench.reporting.rows.leaderboard import Table, leaderboard, tables

Maker = Callable[..., Record]
IMAGES, PER_IMAGE = 12, 3
OWNER = np.repeat(np.arange(IMAGES), PER_IMAGE)
IDS = (
    [f"{4 + row}.jpg" for row in range(IMAGES)],
    [f"{4 + row}.jpg#{k}" for row in range(IMAGES) for k in range(3)],
)


@pytest.fixture
def rank(make_record: Maker, make_content: Callable[..., dict[str, Any]]) -> Maker:
    """Makes a record of rankings of the test split of ``split_corpus``."""

    def make(
        scores: NDArray[np.float32] | None = None, corpus: Corpus | None = None, **changes: Any
    ) -> Record:
        data = make_content()["data"]
        if corpus is not None:
            data = {**data, "fingerprint": corpus.fingerprint}
        scores = scores_of(IMAGES, IMAGES * PER_IMAGE) if scores is None else scores
        record = ranked_record(make_record, scores, IDS, OWNER, **{"data": data, **changes})
        if corpus is not None:
            keep_gallery(record.files, corpus, "test")
        return record

    return make


def of(records: list[Record]) -> list[Table]:
    return tables(leaderboard(records))


def data_of(records: list[Record], runs: Path) -> dict[str, Any]:
    context = queries_context(of(records), runs)
    assert context is not None
    return json.loads(context["json"])  # type: ignore[no-any-return]


def values(packed: dict[str, str]) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(packed["data"]), np.dtype(f"<{packed['type']}"))


@pytest.mark.parametrize("side", ["i2t", "t2i"])
@pytest.mark.parametrize("identified", [False, True])
def test_the_page_holds_what_the_scores_give(side: Side, identified: bool, rank: Maker, runs: Path) -> None:
    identities = np.arange(IMAGES) // 2 if identified else None
    scores = scores_of(IMAGES, IMAGES * PER_IMAGE, tied=True)
    corpus = split_corpus()
    data = data_of([rank(scores, corpus, identities=identities)], runs)
    (part,), (items,) = data["protocols"], data["items"]
    answers = part["rows"][0]["answers"][side]
    matrix = scores if side == "i2t" else scores.T
    who = np.arange(IMAGES) if identities is None else identities
    asked, searched = (who, who[OWNER]) if side == "i2t" else (who[OWNER], who)
    names = items["captionIds"] if side == "i2t" else items["images"]
    queries = items["images"] if side == "i2t" else items["captionIds"]
    ids, gallery = IDS if side == "i2t" else IDS[::-1]
    assert [queries[at] for at in values(part["sides"][side]["queries"])] == ids
    top = values(answers["top"]).reshape(len(matrix), 5)
    stored_scores = values(answers["scores"]).reshape(len(matrix), 5)
    times = np.bincount(np.argsort(-scores.T, axis=1, kind="stable")[:, :10].ravel(), minlength=IMAGES)
    for query, row in enumerate(matrix):
        positive = searched == asked[query]
        best = row[positive].max()
        above, tied = (row[~positive] > best).sum(), (row[~positive] == best).sum()
        expected = 1 + above + tied / ((row[positive] == best).sum() + 1)
        assert values(answers["expected"])[query] == np.float32(expected)
        assert values(answers["tied"])[query] == tied
        assert bool(values(answers["flags"])[query] & SLICES["ties"]) == bool(tied)
        rows = [gallery.index(names[at]) for at in top[query]]
        assert stored_scores[query].tolist() == np.sort(row)[::-1][:5].tolist()
        assert stored_scores[query].tolist() == row[rows].tolist()
        marks = [bool(values(answers["right"])[query] & (1 << place)) for place in range(5)]
        assert marks == positive[rows].tolist()
    if side == "i2t" and not identified:
        hubs = values(answers["flags"]) & SLICES["hubs"] > 0
        assert hubs.tolist() == (times > times.mean() + 2 * times.std()).tolist()
    assert [items["captions"][at] for at in range(36)] == list(corpus.captions[12:])  # type: ignore[index]
    assert all(base64.b64decode(picture)[8:12] == b"WEBP" for picture in items["pictures"])


def test_slices_go_by_words_and_near_duplicates(rank: Maker, runs: Path) -> None:
    corpus = split_corpus(like={7: 3})
    data = data_of([rank(None, corpus)], runs)
    assert corpus.captions is not None
    words = np.array([len(caption.split()) for caption in corpus.captions[12:]])
    for side, lengths in (("t2i", words), ("i2t", words.reshape(IMAGES, PER_IMAGE).mean(1))):
        part = data["protocols"][0]["sides"][side]
        flags = values(part["flags"])
        short, long = np.floor(np.quantile(lengths, 1 / 3)), np.ceil(np.quantile(lengths, 2 / 3))
        assert (flags & SLICES["short"] > 0).tolist() == (lengths <= short).tolist()
        assert (flags & SLICES["long"] > 0).tolist() == (lengths >= long).tolist()
        assert f"at most {short:.0f} words" in part["labels"]["short"]["meaning"]
        rare = np.arange(len(lengths)) % 3 == 0 if side == "t2i" else np.ones(IMAGES, bool)
        assert (flags & SLICES["rare"] > 0)[rare].all()
        twins = np.isin(np.arange(IMAGES) if side == "i2t" else OWNER, [3, 7])
        assert (flags & SLICES["near"] > 0)[twins].all()
    assert (values(data["protocols"][0]["sides"]["i2t"]["flags"]) & SLICES["near"] > 0).sum() == 2


def test_equal_inputs_are_right_where_the_protocol_goes_by_them(rank: Maker, runs: Path) -> None:
    captions = [*split_corpus().captions]  # type: ignore[misc]
    # The captions 0 and 30 of the test split say the same.
    captions[12 + 30] = captions[12]
    corpus = Corpus(**{**split_corpus().__dict__, "captions": tuple(captions)})
    scores = scores_of(IMAGES, IMAGES * PER_IMAGE)
    scores[0, [30, 0, 5]] = (3, 2, 1)
    pairs = equal_input_pairs(corpus, "test")
    assert len(pairs) == IMAGES * PER_IMAGE + 2
    protocol = {"protocol": "flickr8k-test-equal", "pairs": pairs}
    data = data_of([rank(scores, corpus, **protocol)], runs)
    assert values(data["protocols"][0]["rows"][0]["answers"]["i2t"]["right"])[0] & 0b111 == 0b011
    # Without what the split shows, the file of ranks tells the best one alone.
    other = data_of([rank(scores, **protocol)], runs)
    assert values(other["protocols"][0]["rows"][0]["answers"]["i2t"]["right"])[0] == 1
    assert "For acmr (small), only the best of several correct answers is marked" in str(other["protocols"])


def test_a_page_holds_some_rows_and_queries_and_says_what_it_leaves_out(
    rank: Maker, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "MOST_QUERIES", 7)
    monkeypatch.setattr(browsing, "MOST_ROWS", 2)
    corpus = split_corpus()
    records = [rank(None, corpus, method="acmr", seed=seed) for seed in (0, 1)]
    records += [rank(scores_of(12, 36, seed), method=name) for seed, name in enumerate(("cca", "scan"), 1)]
    swept = rank(None, corpus, method="vse", overrides={"model.margin": 0.1})
    context = queries_context(of([*records, swept]), runs)
    assert context is not None
    assert context == queries_context(of([swept, *records]), runs)
    part = json.loads(context["json"])["protocols"][0]
    assert len(part["rows"]) == 2 and "vse" not in {row["name"] for row in part["rows"]}
    sampled = values(part["sides"]["t2i"]["queries"])
    assert len(sampled) == 7 and part["sides"]["t2i"]["of"] == 36
    said = " ".join(part["leftOut"])
    assert "7 of 12 images are included as queries" in said and "7 of 36 captions" in said
    assert "2 rows beyond the first 2 left out: " in said and "vse (margin=0.1) (small)" in said
    assert "1 run with other seeds left out" in said
    assert context["sections"][0]["left_out"] == part["leftOut"]
    assert len(context["sections"][0]["methods"]) == 2


def test_rows_of_other_queries_are_a_part_of_their_own(rank: Maker, make_record: Maker, runs: Path) -> None:
    other = ranked_record(make_record, scores_of(4, 8), (list("abcd"), list("ABCDEFGH")), np.arange(8) // 2)
    data = data_of([rank(method="cca"), other], runs)
    assert [len(part["rows"]) for part in data["protocols"]] == [1, 1]
    assert {part["title"] for part in data["protocols"]} == {
        "flickr8k, flickr8k-1k@1, queries 1 of 2",
        "flickr8k, flickr8k-1k@1, queries 2 of 2",
    }
    assert [len(items["images"]) for items in data["items"]] in ([12, 4], [4, 12])
    assert "items are shown by their ids" in str(data["protocols"])
    assert all(items["captions"] == [] and items["pictures"] == [] for items in data["items"])
    assert set(data["protocols"][0]["sides"]["t2i"]["labels"]) == {"hubs", "ties"}


def test_what_keeps_no_rankings_has_no_queries(make_record: Maker, rank: Maker, runs: Path) -> None:
    assert queries_context(of([make_record()]), runs) is None
    damaged = rank(method="cca")
    damaged.ranks.write_bytes(b"cut")
    another = rank(method="scan", metrics={"rsum": 1.0, "i2t/R@1": 99.0})
    data = data_of([rank(), damaged, another], runs)
    (part,) = data["protocols"]
    assert [row["name"] for row in part["rows"]] == ["acmr"]
    said = " ".join(part["leftOut"])
    assert "cca (small) left out: " in said and "is not an .npz of per-query results" in said
    assert "is from another run than the record" in said


def test_rankings_that_cannot_be_are_refused(rank: Maker, runs: Path) -> None:
    record = rank()
    with np.load(record.ranks) as stored:
        whole = dict(stored)
    for name, change in (
        ("i2t_top", whole["i2t_top"] + 100),
        ("t2i_top", whole["t2i_top"][:-1]),
        ("t2i_top_scores", np.full_like(whole["t2i_top_scores"], np.nan)),
        ("i2t_top", whole["i2t_top"].astype(np.float64)),
    ):
        np.savez(record.ranks, **{**whole, name: change})
        with pytest.raises(BadInput, match="has inconsistent rankings; run its job again"):
            browsing.read_rankings(record)


def test_pictures_have_a_budget_and_queries_come_first(
    rank: Maker, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = split_corpus()
    whole = data_of([rank(None, corpus)], runs)["items"][0]["pictures"]
    assert all(whole)
    monkeypatch.setattr(browsing, "LARGEST_PICTURES", sum(map(len, whole)) - 1)
    data = data_of([rank(None, corpus)], runs)
    assert sum(not picture for picture in data["items"][0]["pictures"]) == 1
    assert "1 picture left out to keep the page small." in data["protocols"][0]["leftOut"]


HOSTILE = "</script><script>alert(1)</script> & \u2028 \x1b[31m =cmd() ../../x \u202e"


def test_hostile_texts_are_text(rank: Maker, runs: Path) -> None:
    captions = [*split_corpus().captions]  # type: ignore[misc]
    captions[12] = HOSTILE
    corpus = Corpus(**{**split_corpus().__dict__, "captions": tuple(captions)})
    record = rank(None, corpus, label=HOSTILE)
    context = queries_context(of([record]), runs)
    assert context is not None
    assert not set(context["json"]) & set("<>&\u2028\x1b\u202e")
    shown = json.loads(context["json"])["items"][0]["captions"][0]
    assert shown.startswith("</script><script>alert(1)</script> & ") and "\\x1b[31m" in shown
    (path,) = write_queries(of([record]), runs / "report" / "queries", runs)
    assert path.parent == runs / "report" / "queries"
    assert path.read_bytes().isascii() and b"\x1b" not in path.read_bytes()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert HOSTILE in {line.get("caption") for line in lines}


def test_everything_is_written_a_file_for_each_protocol_and_row(
    rank: Maker, make_record: Maker, runs: Path
) -> None:
    corpus = split_corpus()
    scores = scores_of(IMAGES, IMAGES * PER_IMAGE)
    make_record()
    records = [rank(scores, corpus, seed=seed) for seed in (0, 1)]
    rank(scores_of(IMAGES, IMAGES * PER_IMAGE, 5), corpus, method="cca")
    folder = runs / "report" / "queries"
    folder.mkdir(parents=True)
    (folder / "gone--0123456789abcdef.jsonl").touch()
    (folder / "mine.txt").touch()
    report = build_report(runs, ["csv"], queries="all")
    assert len(report.queries) == 2
    assert sorted(folder.iterdir()) == sorted([*report.queries, folder / "mine.txt"])
    path = next(path for path in report.queries if "acmr" in path.name)
    assert path.name.startswith("flickr8k_1k@1-acmr-small--")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 2 * (IMAGES + IMAGES * PER_IMAGE)
    assert {line["seed"] for line in lines} == {0, 1}
    line = next(line for line in lines if line["direction"] == "t2i" and line["query"] == "6.jpg#1")
    column = scores[:, 7]
    assert line["rank"] == line["expected_rank"] == 1 + (column > column[2]).sum() and line["tied"] == 0
    order = np.argsort(-column, kind="stable")[:10]
    assert [answer["id"] for answer in line["answers"]] == [IDS[0][row] for row in order]
    assert [answer["score"] for answer in line["answers"]] == pytest.approx(column[order].tolist())
    assert [answer["right"] for answer in line["answers"]] == (order == 2).tolist()
    assert line["caption"] == corpus.captions[12 + 7]  # type: ignore[index]
    assert line["dataset"] == "flickr8k" and line["protocol"] == "flickr8k-1k@1" and line["method"] == "acmr"
    before = path.read_bytes()
    assert records and build_report(runs, ["csv"], queries="all").queries and path.read_bytes() == before
    assert build_report(runs, ["csv"]).queries == []


def test_nothing_is_written_out_of_the_runs(rank: Maker, runs: Path, tmp_path: Path) -> None:
    record = rank()
    (runs / "report").mkdir()
    (runs / "report" / "queries").symlink_to(tmp_path)
    with pytest.raises(BadInput, match=r"queries is a link out of .*; replace it with a folder"):
        write_queries(of([record]), runs / "report" / "queries", runs)
