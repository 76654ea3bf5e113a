"""Which cells can be told from the best, and by how much."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from cnn_jax.stats.cells import Cell
from cnn_jax.stats.intervals import LEVEL, Estimate, probability_better
from cnn_jax.stats.means import Means


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
    p_pairs = holm(_pair_p(means))
    place_KK = np.zeros((len(cells), len(cells)), dtype=int)
    place_KK[np.triu_indices(len(cells), 1)] = np.arange(len(p_pairs))
    values = cells[best].values(metric)
    out = []
    for i in others:
        weight_K = np.zeros(len(cells))
        weight_K[best], weight_K[i] = 1, -1
        p = p_pairs[place_KK[min(i, best), max(i, best)]]
        better = probability_better(values, cells[i].values(metric))
        out.append(Comparison(cells[i], means.contrast(weight_K), better, float(p)))
    return cells[best], tuple(out)


def _pair_p(means: Means) -> np.ndarray:
    """(K (K - 1) / 2,) two-sided p-values of all pairs in the order of triu_indices: `Means.contrast` for all at once."""
    i, j = np.triu_indices(len(means.mean_K), 1)
    if not means.df:
        return np.full(len(i), math.nan)
    part_K = means.variance_K / means.runs_K
    spread_K = part_K**2 / means.df_K
    total = part_K[i] + part_K[j]
    with np.errstate(divide="ignore", invalid="ignore"):
        df = total**2 / np.maximum(spread_K[i] + spread_K[j], total**2 / means.df)
        return 2 * special.stdtr(df, -np.abs(means.mean_K[i] - means.mean_K[j]) / np.sqrt(total))
