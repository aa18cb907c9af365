"""When a metric has stopped getting better."""

from __future__ import annotations

import pytest

from crossmodal_bench.methods.plateau import Plateau


@pytest.mark.parametrize(
    ("values", "reached"),
    [
        ([1, 2, 3, 4], [False] * 4),
        ([3, 2, 1, 4, 4, 4], [False, False, True, False, False, True]),
        ([-5.1, -5.1, -5.0, -5.2], [False, False, False, False]),
    ],
)
def test_patience_counts_epochs_in_a_row(values: list[float], reached: list[bool]) -> None:
    plateau = Plateau(2)
    assert [plateau.step(value) for value in values] == reached


def test_a_value_is_not_better_than_itself() -> None:
    plateau = Plateau(1)
    assert [plateau.step(0.1 + 0.2) for _ in range(2)] == [False, True]


def test_a_checkpoint_goes_on_counting() -> None:
    first, second = Plateau(3), Plateau(3)
    for value in (5.0, 4.0, 4.0):
        first.step(value)
    second.load_state_dict(first.state_dict())
    assert second.step(4.5)
