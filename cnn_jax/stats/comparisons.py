"""Which cells may be the best, and by how much the others are worse."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from cnn_jax.stats.cells import Cell
from cnn_jax.stats.effects import clearest, widened
from cnn_jax.stats.intervals import LEVEL, Estimate, probability_better
from cnn_jax.stats.means import Means
from cnn_jax.stats.simultaneous import range_critical, range_p

RIVALS = 100  # cells that every other is compared with where there are more: those of highest mean


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A cell against the best one.

    Attributes:
        cell: The cell.
        against: The best cell, or the cell that tells it from the best most clearly if the best is too unstable to.
        difference: `against` minus `cell`, with its own interval.
        simultaneous: The same with the interval that holds for all cells together.
        better: The share of pairs of runs in which that of `against` is better.
        p: Corrected p-value of the claim that the cell is not the best; nan where no spread is known.
    """

    cell: Cell
    against: Cell
    difference: Estimate
    simultaneous: Estimate
    better: float
    p: float

    @property
    def distinguishable(self) -> bool:
        """Whether the report claims that another cell is better than this one."""
        return self.p <= 1 - LEVEL


def cells_p(means: Means) -> float:
    """p-value of no difference between any two cells, from the clearest pair; nan where no spread is known."""
    cells = len(means.mean_K)
    if not means.df or cells < 2:
        return math.nan
    i, j = np.triu_indices(cells, 1)
    if cells > 2 * RIVALS:  # all pairs of the best and the worst; the correction is for all pairs all the same
        order = np.argsort(means.mean_K)
        i, j = (grid.ravel() for grid in np.meshgrid(order[-RIVALS:], order[:RIVALS], indexing="ij"))
    value, se, df = means.pairs(i, j)
    at = clearest(value, se, df)
    return range_p(abs(value[at]) / se[at], float(df[at]), cells) if se[at] > 0 else 1.0


def against_best(
    cells: Sequence[Cell], means: Means, metric: str, *, gate: float, family: int
) -> tuple[Cell, tuple[Comparison, ...]]:
    """The cell of highest mean, and every other against it, nearest first.

    The cells that are not told from the best are a 95 % confidence set for the best cell: each cell is compared with each
    other by a one-sided test, corrected for those K - 1 tests (Hsu 1984, "Constrained simultaneous confidence intervals for
    multiple comparisons with the best"). The set is all cells unless the report claims some difference.

    Args:
        cells: K cells with finished runs.
        means: Their means.
        metric: The metric that they are compared on.
        gate: The smallest corrected p-value of all other claims of the report.
        family: The number of claims that `gate` is corrected for.
    """
    best = int(np.argmax(means.mean_K))
    order = np.argsort(-means.mean_K, kind="stable")
    others = np.array([i for i in order if i != best], dtype=int)
    values = [c.values(metric) for c in cells]
    passed = gate <= 1 - LEVEL
    out = []
    for i in others:
        rivals = order[:RIVALS][order[:RIVALS] != i]
        j, p = _rival(means, int(i), rivals, best)
        e = means.only(j, int(i)).contrast(np.array([1.0, -1.0]))
        wide = e
        if e.known:
            alpha = 2 * (1 - LEVEL) / (len(cells) - 1) if passed else (1 - LEVEL) / family
            critical = float(special.stdtrit(e.df, 1 - alpha / 2)) if passed else range_critical(alpha, e.df, len(cells))
            wide = widened(e, critical)
        better = probability_better(values[j], values[i])
        out.append(Comparison(cells[i], cells[j], e, wide, better, p if math.isnan(p) else max(p, gate)))
    return cells[best], tuple(out)


def _rival(means: Means, cell: int, rivals: np.ndarray, best: int) -> tuple[int, float]:
    """The rival to compare `cell` with and the corrected one-sided p-value: the best, unless only another excludes the cell."""
    if not means.df:
        return best, math.nan
    value, se, df = means.pairs(rivals, np.full(len(rivals), cell))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(se > 0, special.stdtr(df, -value / se), 0.5) * (len(means.mean_K) - 1)
    first = int(np.flatnonzero(rivals == best)[0]) if best in rivals else 0
    at = first if p[first] <= 1 - LEVEL else int(np.argmin(p))
    at = at if p[at] <= 1 - LEVEL else first
    return int(rivals[at]), min(1.0, float(p[at]))
