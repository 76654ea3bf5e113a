"""Intervals for means, and the differences that a number of seeds can resolve."""

import dataclasses
import math

import numpy as np
import scipy  # its parts are imported at their first use, which may be after the training

LEVEL = 0.95
POWER = 0.8


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimate from `n` runs with its interval; low and high are nan where there are too few runs for one."""

    value: float
    low: float
    high: float
    n: int
    p: float = float("nan")  # two-sided, against zero
    df: float = float("nan")

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def within(self, bound: float) -> "Estimate":
        """The same with its interval cut to [-bound, bound], beyond which the number cannot be."""
        return dataclasses.replace(self, low=max(-bound, self.low), high=min(bound, self.high)) if self.known else self


def power(difference: float, sd: float, n: int, alpha: float = 1 - LEVEL) -> float:
    """Probability that a two-sided t test at `alpha` distinguishes two cells of n runs and spread `sd` (noncentral t)."""
    df, shift = 2 * n - 2, difference / (sd * math.sqrt(2 / n))
    return _beyond(float(scipy.special.stdtrit(df, 1 - alpha / 2)), df, shift)


def _beyond(t: float, df: float, shift: float) -> float:
    """Probability that a noncentral t is larger than `t`."""
    within = float(scipy.special.nctdtr(df, shift, t))  # NaN for some large shifts; scipy.stats takes half a second to import
    return float(scipy.stats.nct.sf(t, df, shift)) if math.isnan(within) else 1 - within


def smallest_difference(se: float, df: float, critical: float) -> float:
    """The difference that a test finds with probability `POWER`: standard error, its df, the |t| at which it is claimed."""
    high = critical + 1.0
    while _beyond(critical, df, high) < POWER:
        high *= 1.5
    return se * float(scipy.optimize.brentq(lambda shift: _beyond(critical, df, shift) - POWER, 0, high))


def seeds_to_resolve(sd: float, difference: float, comparisons: int = 1) -> int:
    """Seeds per cell that tell two cells `difference` apart with probability `POWER`, with Bonferroni for `comparisons`.

    `sd` and `difference` in the same unit. For a single analysis at the end; `open_cells` is the rule for interim looks.
    """
    alpha = (1 - LEVEL) / comparisons
    n = max(2, math.floor(2 * ((scipy.special.ndtri(1 - alpha / 2) + scipy.special.ndtri(POWER)) * sd / difference) ** 2))
    while power(difference, sd, n, alpha) < POWER:  # the normal approximation gives a few seeds too few
        n += 1
    return n


def expected_best(k: int) -> float:
    """Expected overestimate of the best of k equally good cells, in standard errors: the winner's curse.

    The expected maximum of k standard normals: the integral of x k phi(x) Phi(x)^(k-1).
    """
    density = lambda x: x * k * math.exp(-x * x / 2) / math.sqrt(2 * math.pi) * scipy.special.ndtr(x) ** (k - 1)  # noqa: E731
    return scipy.integrate.quad(density, -10, 10, points=(0.0,))[0]


def probability_better(a: np.ndarray, b: np.ndarray) -> float:
    """P(A > B): the share of pairs of runs in which A's is better; ties count half (Mann and Whitney's U over n_a n_b)."""
    if not len(a) or not len(b):
        return math.nan
    return float(np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b)))
