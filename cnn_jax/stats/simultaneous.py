"""Tests and intervals that stay valid when several questions are asked at once."""

import functools
import math

import numpy as np
import scipy

# Nodes of the two integrals of `_range_sf`; its error is below 1e-5 (scipy's studentized_range takes 14 ms a value and up to
# 200 ms a quantile, and a report needs hundreds).
_Z, _WZ = (8.0 * a for a in np.polynomial.legendre.leggauss(48))
_WZ *= np.exp(-_Z * _Z / 2) / math.sqrt(2 * math.pi)
_U, _WU = np.polynomial.legendre.leggauss(32)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected so that the chance of any false claim at level a is at most a (Holm 1979); nan stays nan."""
    out = np.full(p.shape, math.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    out[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return out


def range_p(t: float, df: float, groups: int) -> float:
    """p-value of the largest of all pairwise |t| between `groups` independent means (Games and Howell 1976).

    Args:
        t: The largest |difference| / standard error.
        df: Satterthwaite degrees of freedom of that difference.
        groups: The number of means, 2 or more.
    """
    if groups == 2:
        return float(2 * scipy.special.stdtr(df, -abs(t)))
    df = _rounded(df)
    bonferroni = math.comb(groups, 2) * float(2 * scipy.special.stdtr(df, -abs(t)))
    # Below 1e-3 the two differ by little, and soon the quadrature has no correct digits.
    return min(1.0, bonferroni) if bonferroni < 1e-3 else min(1.0, bonferroni, _range_sf(abs(t) * math.sqrt(2), df, groups))


def _range_sf(q: float, df: float, groups: int) -> float:
    """Survival function of the studentized range (Copenhaver and Holland 1988)."""
    s_U = np.sqrt(scipy.special.chdtri(df, (1 - _U) / 2) / df)  # quantiles of the standard deviation
    inner_UZ = scipy.special.ndtr(_Z) - scipy.special.ndtr(_Z - q * s_U[:, None])
    return float(1 - _WU / 2 @ (groups * inner_UZ ** (groups - 1) @ _WZ))


def range_critical(alpha: float, df: float, groups: int) -> float:
    """The |t| at which `range_p` is `alpha`."""
    return float(scipy.special.stdtrit(df, 1 - alpha / 2)) if groups == 2 else _range_critical(alpha, _rounded(df), groups)


@functools.lru_cache(maxsize=4096)
def _range_critical(alpha: float, df: float, groups: int) -> float:
    low, high = (float(scipy.special.stdtrit(df, 1 - alpha / 2 / m)) for m in (1, math.comb(groups, 2)))
    if not range_p(high, df, groups) < alpha < range_p(low, df, groups):
        return high
    return float(scipy.optimize.brentq(lambda t: range_p(t, df, groups) - alpha, low, high, xtol=1e-6))


def _rounded(df: float) -> float:
    """Degrees of freedom to three digits: p-values and critical values agree, and few values are ever integrated."""
    return float(f"{min(df, 1e4):.3g}")
