"""Intervals for means, and what a number of seeds can resolve."""

import dataclasses
import math

import numpy as np
from scipy import integrate, optimize, special, stats

LEVEL = 0.95
POWER = 0.8
BCA_FROM = 10  # runs; below it a bootstrap has too few distinct values to resample


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its interval. `n` runs went into it; low and high are nan where runs are too few for an interval."""

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


def mean_interval(values: np.ndarray, level: float = LEVEL, step: float = 0.0) -> Estimate:
    """The mean of independent runs: Student's t below `BCA_FROM` runs, BCa bootstrap from there; no interval for one run.

    `step` is one image's worth of accuracy: three runs that agree to the image are not known to a hundredth of it, so the
    spread is taken to be that of rounding at least.
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = float(np.mean(values))
    if n == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    if n >= BCA_FROM and np.ptp(values) > 0:
        return Estimate(mean, *bca(values, level), n)
    sd = max(float(np.std(values, ddof=1)), step / math.sqrt(12))
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def bca(values: np.ndarray, level: float = LEVEL, resamples: int = 2000) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of the mean (Efron 1987), the same on every call.

    The nominal level is first widened as Hesterberg (2015, "What teachers should know about the bootstrap", section 5.2)
    proposes, or ten runs would cover 91 % where 95 % is said.
    """
    n = len(values)
    draws = np.random.default_rng(0).integers(0, n, (resamples, n))
    means = np.sort(values[draws].mean(axis=1))
    mean = values.mean()
    # Ties count half, or accuracies that are multiples of 1/N would bias z0.
    z0 = special.ndtri(np.clip(((means < mean).mean() + (means <= mean).mean()) / 2, 1 / resamples, 1 - 1 / resamples))
    jackknife = (values.sum() - values) / (n - 1)
    influence = jackknife.mean() - jackknife
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    z = math.sqrt(n / (n - 1)) * special.stdtrit(n - 1, (1 + level) / 2) * np.array([-1, 1])
    quantiles = special.ndtr(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))
    low, high = np.quantile(means, quantiles)
    return float(low), float(high)


def power(difference: float, sd: float, n: int, alpha: float = 1 - LEVEL) -> float:
    """Probability that a two-sided t test at `alpha` tells two cells of n runs and spread `sd` apart (noncentral t)."""
    df, shift = 2 * n - 2, difference / (sd * math.sqrt(2 / n))
    return float(stats.nct.sf(special.stdtrit(df, 1 - alpha / 2), df, shift))


def smallest_difference(sd: float, n: int, alpha: float = 1 - LEVEL) -> float:
    """The difference between two cells that n seeds each find with probability `POWER`. nan below two seeds."""
    if n < 2 or not sd > 0:
        return math.nan
    # In units of sd: 7 at n = 2 and alpha = 0.05; a correction for many cells takes it to a thousand times that.
    return sd * optimize.brentq(lambda d: power(d, 1.0, n, alpha) - POWER, 1e-3, 1e5)


def seeds_to_resolve(sd: float, difference: float, comparisons: int = 1) -> int:
    """Seeds per cell that tell two cells `difference` apart with probability `POWER`, with Bonferroni for `comparisons`.

    `sd` and `difference` in the same unit. A plan for one look at the end; `open_cells` is the rule for looking on the way.
    """
    alpha = (1 - LEVEL) / comparisons
    n = max(2, math.floor(2 * ((special.ndtri(1 - alpha / 2) + special.ndtri(POWER)) * sd / difference) ** 2))
    while power(difference, sd, n, alpha) < POWER:  # the normal approximation is a few seeds short of the answer
        n += 1
    return n


def expected_best(k: int) -> float:
    """How many standard errors above the truth the best of k equally good cells looks: the winner's curse.

    The expected maximum of k standard normals: the integral of x k phi(x) Phi(x)^(k-1).
    """
    density = lambda x: x * k * math.exp(-x * x / 2) / math.sqrt(2 * math.pi) * special.ndtr(x) ** (k - 1)  # noqa: E731
    return integrate.quad(density, -10, 10, points=(0.0,))[0]


def probability_better(a: np.ndarray, b: np.ndarray) -> float:
    """P(A > B): the share of pairs of runs in which A's is better; ties count half (Mann and Whitney's U over n_a n_b)."""
    if not len(a) or not len(b):
        return math.nan
    return float(np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b)))
