"""Which cells can be told from the best, and by how much."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from cnn_jax.stats.cells import Cell
from cnn_jax.stats.intervals import LEVEL, Estimate, probability_better
from cnn_jax.stats.means import Means

HOLM_UP_TO = 1500  # cells; beyond, a million pairs: Bonferroni, which Holm hardly improves on there


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The best cell against another: difference (best minus other), P(a run of the best beats a run of the other), corrected p.

    `p` nan: no spread is known, so nothing can be told.
    """

    cell: Cell
    difference: Estimate
    better: float
    p: float

    @property
    def distinguishable(self) -> bool:
        """Whether the report claims that this cell is worse than the best."""
        return self.p <= 1 - LEVEL


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected so that the chance of any false claim at level a is at most a (Holm 1979); nan stays nan."""
    out = np.full(p.shape, math.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    out[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return out


def against_best(cells: Sequence[Cell], means: Means, metric: str) -> tuple[Cell, tuple[Comparison, ...]]:
    """The cell of highest mean, and every other against it, nearest first.

    p-values are corrected for all pairs of cells, not only for those with the best: which cell is the best was read off the
    same data, so each pair had its chance to be looked at.
    """
    best = int(np.argmax(means.mean_K))
    others = np.array([i for i in np.argsort(-means.mean_K, kind="stable") if i != best], dtype=int)
    p_K = _p_against(means, best)
    values = cells[best].values(metric)
    out = []
    for i in others:
        better = probability_better(values, cells[i].values(metric))
        out.append(Comparison(cells[i], means.only(best, i).contrast(np.array([1.0, -1.0])), better, float(p_K[i])))
    return cells[best], tuple(out)


def _p_against(means: Means, best: int) -> np.ndarray:
    """(K,) p-values of `best` against each cell, corrected for all pairs of cells; nan where no spread is known."""
    cells = len(means.mean_K)
    if not means.df or cells < 2:
        return np.full(cells, math.nan)
    if cells > HOLM_UP_TO:
        return np.minimum(1, _p(means, best, np.arange(cells)) * math.comb(cells, 2))
    pairs_IJ = np.triu_indices(cells, 1)
    p_KK = np.full((cells, cells), math.nan)
    p_KK[pairs_IJ] = p_KK.T[pairs_IJ] = holm(_p(means, *pairs_IJ))
    return p_KK[best]


def _p(means: Means, i: np.ndarray | int, j: np.ndarray) -> np.ndarray:
    """Two-sided p-values of cells i against cells j: `Means.contrast` for many pairs at once."""
    part_K = means.variance_K / means.runs_K
    spread_K = part_K**2 / means.df_K
    total = part_K[i] + part_K[j]
    with np.errstate(divide="ignore", invalid="ignore"):
        df = total**2 / np.maximum(spread_K[i] + spread_K[j], total**2 / means.df)
        return 2 * special.stdtr(df, -np.abs(means.mean_K[i] - means.mean_K[j]) / np.sqrt(total))
