"""Variation over seeds and its intervals, for rows of papers about seeds. n seeds, N test images."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import scipy

from cnn_jax import stats

UNKNOWN = stats.Estimate(math.nan, math.nan, math.nan, 0)
_DRAWS = 4000


def noise(records: Sequence[stats.Record]) -> stats.Noise | None:
    """Estimate the effect of the seed on test accuracy over the cells of the records; None with fewer than two seeds."""
    return stats.noise(stats.design(records).cells) if records else None


def freedom(found: stats.Noise, records: Sequence[stats.Record]) -> int:
    """Return the degrees of freedom of a pooled variance: runs minus cells."""
    return found.runs - sum(len(cell.done) > 1 for cell in stats.design(records).cells)


def interval_of_sd(sd: float, df: int, n: int, level: float) -> stats.Estimate:
    """Estimate a standard deviation with its chi-squared interval, exact for normal accuracies."""
    low, high = (sd * math.sqrt(df / float(scipy.special.chdtri(df, p))) for p in ((1 - level) / 2, (1 + level) / 2))
    return stats.Estimate(sd, low, high, n)


def range_of_normal(values: np.ndarray, level: float) -> stats.Estimate:
    """Estimate the range of values in standard deviations, relative to that of the same number of normal values.

    1 means that best and worst are as expected for n normal values; above 1, there are outliers. The interval has the factors
    of the normal range for which the observed range is not rare.
    """
    n = len(values)
    if n < 3 or np.ptp(values) == 0:
        return UNKNOWN
    drawn = _normal_ranges(n)
    found = float(np.ptp(values) / values.std(ddof=1))
    low, high = (found / float(np.quantile(drawn, p)) for p in ((1 + level) / 2, (1 - level) / 2))
    return stats.Estimate(found / float(drawn.mean()), low, high, n)


@functools.lru_cache(maxsize=8)
def _normal_ranges(n: int) -> np.ndarray:
    """Sample the range of n normal values divided by their standard deviation."""
    rng = np.random.default_rng(0)
    pieces = (rng.standard_normal((_DRAWS // 20, n)) for _ in range(20))  # for 10,000 seeds, all draws would not fit in memory
    return np.concatenate([np.ptp(values, axis=1) / values.std(axis=1, ddof=1) for values in pieces])
