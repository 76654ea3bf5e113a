"""Moderated variances of cells: each is shrunk towards the pooled one, except outliers. K cells.

Source: Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3(1), for the moderation.
"""

import math

import numpy as np
import scipy

# See Means.of; set by simulation.
PRIOR_DF, PRIOR_BELOW, PRIOR_ABOVE = 8.0, 3.0, 0.5
# A cell whose variance is that many times the median of the others, beyond chance, keeps its own variance.
OUTLIER_RATIO, OUTLIER_P = 20.0, 1e-2


def moderate(own_K: np.ndarray, df_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances shrunk towards the pooled one, and their degrees of freedom."""
    known = (df_K > 0) & (own_K > 0)
    if not known.any():
        return np.where(df_K > 0, own_K, math.nan), df_K.astype(float)
    alone = outliers(own_K, df_K, known)
    s2, d = own_K[known & ~alone], df_K[known & ~alone]
    prior = PRIOR_DF
    if len(s2) > 2:
        logs = np.log(s2) - scipy.special.digamma(d / 2) + np.log(d / 2)
        excess = logs.var(ddof=1) - scipy.special.polygamma(1, d / 2).mean()
        prior = min(prior, 2 * _trigamma_inverse(excess)) if excess > 0 else prior
    elif known.all():
        prior = 0.0  # two cells are too few to estimate how spreads vary: Welch's test
    pooled = np.average(s2, weights=d)
    below_K, above_K = np.minimum(prior, PRIOR_BELOW * df_K), np.minimum(prior, PRIOR_ABOVE * df_K)
    prior_K = np.where(df_K == 0, prior, np.where(np.nan_to_num(own_K) > pooled * (1 + 1e-9), above_K, below_K))
    prior_K = np.where(alone, 0.0, prior_K)
    total_K = prior_K + df_K
    return (prior_K * pooled + df_K * np.nan_to_num(own_K)) / total_K, total_K


def outliers(own_K: np.ndarray, df_K: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which cells vary far more than the others: by `OUTLIER_RATIO`, and more than chance explains (F test, Bonferroni)."""
    alone = np.zeros(len(own_K), dtype=bool)
    while (rest := known & ~alone).sum() > 2:
        largest = int(np.argmax(np.where(rest, own_K, -1.0)))
        others = rest.copy()
        others[largest] = False
        # The median is robust to several unstable cells; a chi-squared variable's median is below its mean.
        df = np.median(df_K[others])
        typical = np.median(own_K[others]) * df / scipy.special.chdtri(df, 0.5)
        ratio = own_K[largest] / typical
        p = scipy.special.fdtrc(df_K[largest], df_K[others].sum(), ratio)
        if ratio < OUTLIER_RATIO or p * rest.sum() > OUTLIER_P:
            break
        alone[largest] = True
    return alone


def _trigamma_inverse(y: float) -> float:
    """x > 0 with trigamma(x) = y, by Newton's method on 1 / trigamma, which is convex (Smyth 2004, appendix)."""
    x = 0.5 + 1 / y
    for _ in range(50):
        value = scipy.special.polygamma(1, x)
        step = value * (1 - value / y) / scipy.special.polygamma(2, x)
        x += step
        if -step / x < 1e-8:
            break
    return float(x)
