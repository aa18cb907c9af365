from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from crossmodal_bench.evaluation import t_interval
from crossmodal_bench.evaluation.statistics.student_t import t_quantile


def test_t_interval_is_scipys() -> None:
    values = [51.2, 49.8, 50.5, 52.9]
    mean, half, n = t_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half, n) == (pytest.approx(low), pytest.approx(high), 4)


def test_t_interval_of_one_seed_has_no_width() -> None:
    mean, half, n = t_interval([3.5])
    assert (mean, n) == (3.5, 1) and np.isnan(half)
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])
    with pytest.raises(ValueError, match="finite"):
        t_interval([1.0, float("nan")])


@pytest.mark.parametrize("df", [1, 2, 30, 4999])
def test_students_quantile_is_scipys(df: int) -> None:
    probability = np.array([1e-12, 0.02, 0.5, 0.975])
    np.testing.assert_array_equal(t_quantile(probability, df), stats.t.ppf(probability, df))
