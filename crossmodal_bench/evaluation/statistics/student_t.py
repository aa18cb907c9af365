"""Student's t, and the spread of values over seeds alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special


def t_quantile(probability: ArrayLike, df: float) -> NDArray[np.float64]:
    """The quantile of Student's t with ``df`` degrees of freedom at that probability.

    Equal to ``scipy.stats.t.ppf``, but importing ``scipy.stats`` takes seconds.
    """
    return np.asarray(special.stdtrit(df, probability))


def t_interval(values: Sequence[float]) -> tuple[float, float, int]:
    """(mean, half width, n) of the 95 % Student interval over seeds; the half width of a single value is NaN.

    Raises ValueError for no values or a non-finite one: failed runs must be left out deliberately.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data) or not np.isfinite(data).all():
        raise ValueError("an interval needs at least one value, all finite")
    n = len(data)
    if n == 1:
        return float(data[0]), float("nan"), 1
    half = t_quantile(0.975, n - 1) * data.std(ddof=1) / np.sqrt(n)
    return float(data.mean()), float(half), n
