"""Cell means with their variances, and everything linear in them: differences, contrasts, tests of effects.

Shape suffixes: K cells, R contrasts, N images.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import scipy

from cnn_jax.stats.image_variance import Images, differences
from cnn_jax.stats.intervals import LEVEL, Estimate
from cnn_jax.stats.variance import moderate


@dataclasses.dataclass(frozen=True)
class Test:
    """An F test of several contrasts at once. `omega_squared` is partial, with its interval."""

    f: float
    df: tuple[float, float]
    p: float
    omega_squared: Estimate


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
# Quantiles at which a variance's distribution is integrated: close together where the variance is large.
_QUANTILES, _WEIGHTS = ((_NODES + 1) / 2) ** 3, 1.5 * ((_NODES + 1) / 2) ** 2 * _WEIGHTS


@dataclasses.dataclass(frozen=True)
class Contrasts:
    """Contrasts of cell means, in arrays of one shape.

    Attributes:
        value: The estimates.
        variance: Their variances.
        df: The degrees of freedom of the intervals of single contrasts.
        largest: The part of the variance contributed by the cell that is estimated least well; `largest_df` of that cell.
        rest_df: Degrees of freedom of the other parts together.
    """

    value: np.ndarray
    variance: np.ndarray
    df: np.ndarray
    largest: np.ndarray
    largest_df: np.ndarray
    rest_df: np.ndarray

    @property
    def se(self) -> np.ndarray:
        """Standard errors."""
        return np.sqrt(self.variance)

    def __getitem__(self, at: int | np.ndarray | tuple) -> "Contrasts":
        return Contrasts(*(getattr(self, field.name)[at] for field in dataclasses.fields(self)))

    def ravel(self) -> "Contrasts":
        """The same contrasts as a flat list."""
        return Contrasts(*(getattr(self, field.name).ravel() for field in dataclasses.fields(self)))

    @functools.cached_property
    def p(self) -> np.ndarray:
        """Two-sided p-values for claims, against a difference of zero.

        With a few runs, an unstable cell may look stable, and then Student's t with Satterthwaite's degrees of freedom is far
        from its level in the tails, where corrected claims are decided. So where t says p < 0.1, the variance of the least well
        estimated cell and that of all others are integrated over their distributions (Behrens and Fisher's, never liberal:
        Robinson 1976, "Properties of Student's t and of the Behrens-Fisher solution").
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            p = np.where(self.variance > 0, 2 * scipy.special.stdtr(self.df, -np.abs(self.value) / self.se), math.nan)
            close = p < 0.1
            if close.any():
                p[close] = np.maximum(p[close], self[close].guarded(np.abs(self.value[close])))
        return p

    def guarded(self, distance: np.ndarray) -> np.ndarray:
        """Probability that an estimate is further than `distance` from the truth, by Behrens and Fisher's distribution."""
        one, two = (self._draws(df) for df in (self.largest_df, self.rest_df))
        variance = self.largest[..., None, None] * one[..., :, None]
        variance = variance + (self.variance - self.largest)[..., None, None] * two[..., None, :]
        tails = scipy.special.ndtr(-distance[..., None, None] / np.sqrt(variance))
        return 2 * np.einsum("...ij,i,j->...", tails, _WEIGHTS / 2, _WEIGHTS / 2)

    @staticmethod
    def _draws(df: np.ndarray) -> np.ndarray:
        df = np.clip(df, 1e-3, 1e6)[..., None]
        return df / scipy.special.chdtri(df, 1 - _QUANTILES)

    def half_width(self, p: float) -> float:
        """Of one contrast: the distance from zero at which its p-value for claims is `p`."""
        low = float(scipy.special.stdtrit(self.df, 1 - p / 2) * self.se)
        high = low
        while float(self.guarded(np.asarray(high))) > p:
            high *= 2
        if high == low:
            return low
        return float(scipy.optimize.brentq(lambda x: float(self.guarded(np.asarray(x))) - p, high / 2, high, rtol=1e-6))


@dataclasses.dataclass(frozen=True)
class Means:
    """The means of K cells of independent runs.

    Attributes:
        mean_K: Mean of each cell.
        runs_K: Runs per cell.
        own_K: Variance of a run in each cell by its own runs; nan where there is one.
        variance_K: Variance of a run in each cell, moderated by the other cells; nan where unknown.
        df_K: Degrees of freedom of each variance.
        df: Degrees of freedom of all runs together, an upper bound for those of any estimate.
        images: The cells' answers, image by image. With them, variances refer to new seeds and new images; without them, to
            new seeds on the same images.
    """

    mean_K: np.ndarray
    runs_K: np.ndarray
    own_K: np.ndarray
    variance_K: np.ndarray
    df_K: np.ndarray
    df: float
    images: Images | None = None

    @classmethod
    def of(cls, cells: Sequence[np.ndarray], resolution: float = 0.0, images: Images | None = None) -> "Means":
        """The means of cells of runs, each (n,) with n >= 1.

        Three seeds are too few to estimate a cell's spread alone, and cells differ too much in spread to pool them. So the
        variances are shrunk towards the pooled one, to a degree estimated from the data (moderated variance: Smyth 2004,
        "Linear models and empirical Bayes methods", section 6), with two guards against cells that are less stable than the
        others: the prior counts for at most `PRIOR_DF` degrees of freedom where a cell's own variance is below the pooled one
        and for `PRIOR_DF_ABOVE` where it is above; and a cell far more variable than the others is excluded from the
        moderation.

        Args:
            cells: The runs of each cell.
            resolution: The step between two possible values. Equal values may still differ by rounding, whose variance is
                resolution^2 / 12; no variance is below it.
            images: The cells' answers, image by image.
        """
        mean_K = np.array([c.mean() for c in cells])
        runs_K = np.array([len(c) for c in cells])
        own_K = np.array([c.var(ddof=1) if len(c) > 1 else math.nan for c in cells])
        own_K = np.maximum(own_K, resolution**2 / 12)
        variance_K, df_K = moderate(own_K, runs_K - 1)
        return cls(mean_K, runs_K, own_K, variance_K, df_K, float((runs_K - 1).sum()), images)

    def only(self, *cells: int) -> "Means":
        """The means of these cells, in this order, with their spread as estimated from all cells."""
        index = list(cells)
        return dataclasses.replace(
            self,
            mean_K=self.mean_K[index],
            runs_K=self.runs_K[index],
            own_K=self.own_K[index],
            variance_K=self.variance_K[index],
            df_K=self.df_K[index],
            images=self.images.only(index) if self.images else None,
        )

    def with_spread(self, variance: float, df: int) -> "Means":
        """The same means with this variance of every cell's mean, of `df` degrees of freedom."""
        df_K = np.full(len(self.mean_K), float(df))
        variance_K = variance * self.runs_K
        return dataclasses.replace(self, own_K=variance_K, variance_K=variance_K, df_K=df_K, df=float(df))

    @property
    def on_these_images(self) -> "Means":
        """The same means with the variances of new seeds on the same images."""
        return dataclasses.replace(self, images=None)

    @property
    def pooled_sd(self) -> float:
        """A run's standard deviation within its cell, over all cells; nan if no cell has two runs."""
        weights = self.runs_K - 1
        return math.sqrt(np.average(np.nan_to_num(self.own_K), weights=weights)) if weights.sum() else math.nan

    def contrast(self, weight_K: np.ndarray, level: float = LEVEL) -> Estimate:
        """sum(weight * mean) with Student's t interval; `n` is the number of runs involved."""
        weight_RK = _without_dust(np.asarray(weight_K, dtype=float)[None])
        return self.estimate(self.contrasts(weight_RK)[0], int(self.runs_K[weight_RK[0] != 0].sum()), level)

    def estimate(self, one: Contrasts, n: int, level: float = LEVEL) -> Estimate:
        """One contrast with Student's t interval; none where no spread is known."""
        value, se, df = float(one.value), float(one.se), float(one.df)
        if not self.df or not se > 0:
            return Estimate(value, math.nan, math.nan, n)
        half = float(scipy.special.stdtrit(df, (1 + level) / 2)) * se
        return Estimate(value, value - half, value + half, n, float(2 * scipy.special.stdtr(df, -abs(value) / se)), df)

    def contrasts(self, weight_RK: np.ndarray) -> Contrasts:
        """Contrasts of the cell means, (R,)."""
        weight_RK = _without_dust(weight_RK)
        part_RK = np.where(weight_RK == 0, 0.0, weight_RK**2 * self.variance_K / self.runs_K)
        with np.errstate(divide="ignore", invalid="ignore"):
            known_RK = np.where(part_RK == 0, 0.0, part_RK**2 / self.df_K)
        least_R = np.argmax(known_RK, axis=1)
        added_R = self.images.variance(weight_RK) if self.images else np.zeros(len(weight_RK))
        largest_R = np.take_along_axis(part_RK, least_R[:, None], axis=1)[:, 0]
        return self._combined(
            weight_RK @ self.mean_K, part_RK.sum(axis=1), known_RK.sum(axis=1), largest_R, self.df_K[least_R], added_R
        )

    def level_pairs(self, weight_LK: np.ndarray) -> Contrasts:
        """(L, L) differences, column minus row, of L weighted means."""
        weight_LK = _without_dust(weight_LK)
        part_K = self.variance_K / self.runs_K
        known_K = part_K**2 / self.df_K
        # Sum over cells of (a - b)^4, from products of powers.
        powers = [weight_LK**n for n in range(5)]
        cross = {n: (powers[n] * known_K) @ powers[4 - n].T for n in (0, 1, 2)}
        known_LL = np.maximum(cross[0] + cross[0].T - 4 * (cross[1] + cross[1].T) + 6 * cross[2], 0)
        seeds_LL = np.maximum(differences((weight_LK * part_K) @ weight_LK.T), 0)
        added_LL = self.images.variance_of_pairs(weight_LK) if self.images else np.zeros_like(seeds_LL)
        least_L = np.argmax(powers[4] * known_K, axis=1)
        at = np.arange(len(weight_LK))
        own_L, mean_L = (powers[2] * part_K)[at, least_L], weight_LK @ self.mean_K
        largest_LL, df_LL = _least_known(at[:, None], at[None], own_L, self.df_K[least_L])
        return self._combined(mean_L[None] - mean_L[:, None], seeds_LL, known_LL, largest_LL, df_LL, added_LL)

    def pairs(self, i: np.ndarray, j: np.ndarray) -> Contrasts:
        """The differences of cells i minus cells j, or of the grid of i, (R, 1), and j, (1, C)."""
        part_K = self.variance_K / self.runs_K
        with np.errstate(divide="ignore", invalid="ignore"):
            known_K = part_K**2 / self.df_K
        added = self.images.pair_variance(i, j) if self.images else np.zeros(np.broadcast_shapes(i.shape, j.shape))
        largest, df = _least_known(i, j, part_K, self.df_K)
        return self._combined(
            self.mean_K[i] - self.mean_K[j], part_K[i] + part_K[j], known_K[i] + known_K[j], largest, df, added
        )

    def _combined(
        self,
        value: np.ndarray,
        seeds: np.ndarray,
        known: np.ndarray,
        largest: np.ndarray,
        largest_df: np.ndarray,
        images: np.ndarray,
    ) -> Contrasts:
        """Contrasts from their variance over seeds and over images.

        `known` is the sum over cells of squared part over degrees of freedom, the denominator of Satterthwaite's (1946). The
        smaller of his degrees of freedom and of those of the least well estimated cell over its share of the variance is
        used: the two agree where cells contribute equally.
        """
        total, of_images = seeds + images, (self.images.count - 1 if self.images else 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            known_all = np.maximum(known, seeds**2 / self.df if self.df else math.nan) + images**2 / of_images
            df = np.minimum(total**2 / known_all, largest_df * total / largest)
            left = np.maximum(known - largest**2 / largest_df, 0) + images**2 / of_images
            rest_df = np.where(left > 0, (total - largest) ** 2 / left, 1e6)
        return Contrasts(value, total, df, largest, largest_df, rest_df)

    def test(self, hypothesis_RK: np.ndarray, level: float = LEVEL) -> Test | None:
        """Tests that all R contrasts are zero, for new seeds on the same images; None where no spread is known.

        The statistic is the F of the analysis of variance; where cells differ in spread its degrees of freedom are Box's
        (Brunner, Dette and Munk 1997, "Box-type approximations in nonparametric factorial designs"), which equal the usual
        ones if they do not. Partial omega squared and its interval: Steiger 2004, "Beyond the F test".
        """
        variance_K = np.where(np.isnan(self.own_K), self.variance_K, self.own_K) / self.runs_K
        own_df_K = np.where(np.isnan(self.own_K) | (self.runs_K == 1), self.df_K, self.runs_K - 1)
        basis_KR = np.linalg.svd(hypothesis_RK, full_matrices=False)[2].T
        leverage_K = (basis_KR**2).sum(axis=1)
        trace = leverage_K @ variance_K
        if not self.df or not trace > 0:
            return None
        f = float(((basis_KR.T @ self.mean_K) ** 2).sum() / trace)
        df1 = trace**2 / (((basis_KR.T * variance_K) @ basis_KR) ** 2).sum()
        df2 = trace**2 / max(((leverage_K * variance_K) ** 2 / own_df_K).sum(), trace**2 / self.df)
        n = int(self.runs_K.sum())
        low, high = (_noncentrality(f, df1, df2, q) for q in ((1 + level) / 2, (1 - level) / 2))
        above = max(0.0, df1 * (f - 1))  # the statistic's estimate of the noncentrality
        omega = Estimate(float(above / (above + n)), low / (low + n), high / (high + n), n)
        return Test(f, (float(df1), float(df2)), float(scipy.special.fdtrc(df1, df2, f)), omega)


def _least_known(i: np.ndarray, j: np.ndarray, part_K: np.ndarray, df_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each pair, the part of the variance and the degrees of freedom of the less well estimated cell."""
    with np.errstate(divide="ignore", invalid="ignore"):
        first = part_K[i] ** 2 / df_K[i] >= part_K[j] ** 2 / df_K[j]
    return np.where(first, part_K[i], part_K[j]), np.where(first, df_K[i], df_K[j])


def _without_dust(weight_RK: np.ndarray) -> np.ndarray:
    """Contrasts without the rounding errors of least squares on cells that are not involved."""
    largest_R = np.abs(weight_RK).max(axis=1, keepdims=True)
    return np.where(np.abs(weight_RK) > 1e-9 * largest_R, weight_RK, 0.0)


def _noncentrality(f: float, df1: float, df2: float, quantile: float) -> float:
    """The noncentrality under which the observed F is this quantile of its distribution; 0 if none is."""
    if scipy.special.fdtr(df1, df2, f) <= quantile:
        return 0.0
    if df1 * f > 1e4:  # the numerator is nearly constant, and the distribution function fails
        return df1 * f * float(scipy.special.chdtri(df2, quantile)) / df2
    high = df1 * f
    while scipy.special.ncfdtr(df1, df2, high, f) > quantile:
        high *= 2
    return float(scipy.optimize.brentq(lambda x: scipy.special.ncfdtr(df1, df2, x, f) - quantile, 0, high))
