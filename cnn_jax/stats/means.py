"""Cell means with their variances, and everything linear in them: differences, contrasts, tests of effects.

K cells, R rows of a hypothesis. Cells may differ in spread and in number of runs.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

from cnn_jax.stats.intervals import LEVEL, Estimate

PRIOR_DF = 8.0  # see Means.of; set by simulation


@dataclasses.dataclass(frozen=True)
class Test:
    """An F test of several contrasts at once. `omega_squared` is partial, with its interval."""

    f: float
    df: tuple[float, float]
    p: float
    omega_squared: Estimate


@dataclasses.dataclass(frozen=True)
class Means:
    """The means of K cells of independent runs.

    `variance_K` is a run's variance in each cell and `df_K` how many degrees of freedom it is known with; nan and 0 where
    nothing is known. `df` is what all runs together hold: no estimate is known better than that.
    """

    mean_K: np.ndarray
    runs_K: np.ndarray
    variance_K: np.ndarray
    df_K: np.ndarray
    df: float

    @classmethod
    def of(cls, cells: Sequence[np.ndarray], resolution: float = 0.0) -> "Means":
        """The means of cells of runs, each (n,) with n >= 1; `resolution` is the step between two possible values.

        Three seeds are too few to know a cell's spread alone, and cells differ too much in spread to pool them. So the
        variances are drawn towards the pooled one, as far as the data themselves say (moderated variance: Smyth 2004, "Linear
        models and empirical Bayes methods", section 6). Two choices differ from his, and keep intervals at their nominal level
        when spreads differ fivefold: the centre is the arithmetic mean, so that sums over all cells are those of the textbook's
        analysis of variance, and the prior counts for at most `PRIOR_DF` degrees of freedom.
        """
        mean_K = np.array([c.mean() for c in cells])
        runs_K = np.array([len(c) for c in cells])
        own_K = np.array([c.var(ddof=1) if len(c) > 1 else math.nan for c in cells])
        # Accuracies are multiples of 1/N: runs that agree to the image may still differ by the rounding's own variance.
        own_K = np.maximum(own_K, resolution**2 / 12)
        variance_K, df_K = _moderate(own_K, runs_K - 1)
        return cls(mean_K, runs_K, variance_K, df_K, float((runs_K - 1).sum()))

    def only(self, *cells: int) -> "Means":
        """The means of these cells, in this order, with what is known of their spread from all."""
        index = list(cells)
        return Means(self.mean_K[index], self.runs_K[index], self.variance_K[index], self.df_K[index], self.df)

    def with_spread(self, residual_K: np.ndarray, df: int) -> "Means":
        """The same means with the spread that a model's residuals show, with `df` degrees of freedom; none left: none known."""
        if df < 1:
            return self
        variance = (residual_K**2).sum() / df
        df_K = np.full(len(residual_K), float(df))
        return dataclasses.replace(self, variance_K=variance * self.runs_K, df_K=df_K, df=float(df))

    @property
    def pooled_sd(self) -> float:
        """A run's standard deviation within its cell, over all cells; nan if no cell has two runs."""
        weights = self.runs_K - 1
        return math.sqrt(np.average(self.variance_K, weights=weights)) if weights.sum() else math.nan

    def contrast(self, weight_K: np.ndarray, level: float = LEVEL) -> Estimate:
        """sum(weight * mean) with Student's t interval, degrees of freedom by Satterthwaite 1946; `n`: runs that take part."""
        used = np.abs(weight_K) > 1e-9 * np.abs(weight_K).max()  # least squares leaves dust on cells that take no part
        w, n = weight_K[used], self.runs_K[used]
        value = float(w @ self.mean_K[used])
        part = w**2 * self.variance_K[used] / n
        total = part.sum()
        if not self.df or not total > 0:
            return Estimate(value, math.nan, math.nan, int(n.sum()))
        df = total**2 / max((part**2 / self.df_K[used]).sum(), total**2 / self.df)
        se = math.sqrt(total)
        half = special.stdtrit(df, (1 + level) / 2) * se
        p = 2 * special.stdtr(df, -abs(value) / se)
        return Estimate(value, float(value - half), float(value + half), int(n.sum()), float(p), float(df))

    def test(self, hypothesis_RK: np.ndarray, level: float = LEVEL) -> Test | None:
        """Tests that all R contrasts are zero; None where no spread is known.

        The statistic is the F of the analysis of variance; where cells differ in spread its degrees of freedom are Box's
        (Brunner, Dette and Munk 1997, "Box-type approximations in nonparametric factorial designs"), which equal the usual
        ones if they do not. Partial omega squared and its interval: Steiger 2004, "Beyond the F test".
        """
        variance_K = self.variance_K / self.runs_K
        basis_KR = np.linalg.svd(hypothesis_RK, full_matrices=False)[2].T
        leverage_K = (basis_KR**2).sum(axis=1)
        trace = leverage_K @ variance_K
        if not self.df or not trace > 0:
            return None
        f = float(((basis_KR.T @ self.mean_K) ** 2).sum() / trace)
        df1 = trace**2 / (((basis_KR.T * variance_K) @ basis_KR) ** 2).sum()
        df2 = trace**2 / max(((leverage_K * variance_K) ** 2 / self.df_K).sum(), trace**2 / self.df)
        n = int(self.runs_K.sum())
        low, high = (_noncentrality(f, df1, df2, q) for q in ((1 + level) / 2, (1 - level) / 2))
        above = max(0.0, df1 * (f - 1))  # the statistic's estimate of the noncentrality
        omega = Estimate(float(above / (above + n)), low / (low + n), high / (high + n), n)
        return Test(f, (float(df1), float(df2)), float(special.fdtrc(df1, df2, f)), omega)


def _moderate(own_K: np.ndarray, df_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances drawn towards the pooled one, and the degrees of freedom that each is then known with."""
    known = (df_K > 0) & (own_K > 0)
    if not known.any():
        return np.where(df_K > 0, own_K, math.nan), df_K.astype(float)
    s2, d = own_K[known], df_K[known]
    prior = PRIOR_DF
    if known.sum() > 2:
        logs = np.log(s2) - special.digamma(d / 2) + np.log(d / 2)
        excess = logs.var(ddof=1) - special.polygamma(1, d / 2).mean()
        prior = min(prior, 2 * _trigamma_inverse(excess)) if excess > 0 else prior
    elif known.all():
        prior = 0.0  # two cells say nothing about how spreads vary: Welch's test
    total_K = prior + df_K
    return (prior * np.average(s2, weights=d) + df_K * np.nan_to_num(own_K)) / total_K, total_K


def _trigamma_inverse(y: float) -> float:
    """x > 0 with trigamma(x) = y, by Newton's method on 1 / trigamma, which is convex (Smyth 2004, appendix)."""
    x = 0.5 + 1 / y
    for _ in range(50):
        value = special.polygamma(1, x)
        step = value * (1 - value / y) / special.polygamma(2, x)
        x += step
        if -step / x < 1e-8:
            break
    return float(x)


def _noncentrality(f: float, df1: float, df2: float, quantile: float) -> float:
    """The noncentrality under which the observed F is this quantile of its distribution; 0 if none is."""
    if special.fdtr(df1, df2, f) <= quantile:
        return 0.0
    high = df1 * f
    while special.ncfdtr(df1, df2, high, f) > quantile:
        high *= 2
    return float(optimize.brentq(lambda x: special.ncfdtr(df1, df2, x, f) - quantile, 0, high))
