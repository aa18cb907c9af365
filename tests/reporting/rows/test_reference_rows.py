from __future__ import annotations

from collections.abc import Callable

from answered import Answered

from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.rows.leaderboard import Table
from crossmodal_bench.reporting.table import shown_tables


def reference(record: Record) -> Record:
    return record.model_copy(update={"reference": True})


def only(answered: Answered, *records: Record) -> Table:
    (table,) = answered.tables(records)
    return table


def test_a_reference_row_stands_beside_the_same_row_and_is_not_averaged_with_it(answered: Answered) -> None:
    own = answered(0.2)
    table = only(answered, own, reference(answered(0.3, seed=1)), reference(answered(0.3, seed=2)))
    names = {row.name: row.seeds for row in table.rows}
    assert names == {"acmr": (0,), "acmr [reference]": (1, 2)}
    assert table.own[0].cells["rsum"].mean == own.metrics["rsum"]


def test_a_reference_of_the_same_job_does_not_hide_it(answered: Answered) -> None:
    own = answered(0.2)
    newer = own.model_copy(update={"finished_at": "2030-01-01T00:00:00+00:00"})
    table = only(answered, own, reference(newer))
    assert [row.name for row in table.rows if not row.reference] == ["acmr"] and len(table.rows) == 2


def test_references_change_neither_marks_nor_p_of_ones_own(answered: Answered) -> None:
    own = [answered(0.3), answered(0.25, method="cca")]
    alone = only(answered, *own)
    others = [reference(answered(0.5, method="sm", seed=seed)) for seed in range(3)]
    table = only(answered, *own, *others)
    assert table.rows[0].reference, "the best row is not shown first"
    marked = {table.rows[position].name for position in table.best_set}
    assert marked == {alone.rows[position].name for position in alone.best_set}
    assert [pair.adjusted_p for pair in table.pairs] == [pair.adjusted_p for pair in alone.pairs]


def test_references_of_other_versions_protocols_and_splits_are_left_out(answered: Answered) -> None:
    own = answered(0.2)
    other = own.data.model_copy(update={"split_hash": "0" * 16})
    strangers = [
        reference(answered(0.3, protocol_version=2)),
        reference(answered(0.3, protocol="flickr8k-test")),
        reference(answered(0.3).model_copy(update={"data": other})),
        reference(answered(0.3, evaluated_on="val")),
    ]
    assert [row.name for row in only(answered, own, *strangers).rows] == ["acmr"]
    assert answered.tables(strangers) == []


def test_notes_say_what_references_are_and_nothing_else_of_them(
    answered: Answered, make_content: Callable[..., object]
) -> None:
    own = answered(0.2)
    alone = shown_tables([own])[0]
    environment = {"device": "cpu", "threads": "3", "torch": "9.9"}
    (shown,) = shown_tables([own], [reference(answered(0.3, seed=4, environment=environment))])
    (note,) = [note for note in shown.notes if note not in alone.notes]
    assert note.startswith("[reference]") and "cpu, 3 threads, torch 9.9" in note
    assert shown.warnings == alone.warnings and len(shown.lines) == 2
    assert {cell["reference"] for cell in shown.cells} == {False, True}
