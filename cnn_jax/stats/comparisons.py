"""Comparisons with the best cell: which cells may be the best, and by how much the others are worse."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from cnn_jax.stats.cells import Cell
from cnn_jax.stats.effects import between_any, clearest, pairwise_level, widened
from cnn_jax.stats.intervals import LEVEL, Estimate, probability_better
from cnn_jax.stats.means import Means
from cnn_jax.stats.metric import Metric

RIVALS = 100  # cells that every other is compared with where there are more: those of highest mean


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A cell against the best one.

    Attributes:
        cell: The cell.
        against: The best cell; if it is too unstable, the cell that most clearly excludes `cell` from being the best.
        difference: By how much the cell is worse, with its own interval: `against` minus `cell`, or `cell` minus `against`
            where lower is better.
        simultaneous: The same with the interval that is simultaneous over all cells.
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

    def within(self, bound: float) -> "Comparison":
        """The same with intervals cut to [-bound, bound]."""
        cut = self.difference.within(bound), self.simultaneous.within(bound)
        return dataclasses.replace(self, difference=cut[0], simultaneous=cut[1])


def cells_p(means: Means) -> float:
    """p-value of no difference between any two cells, from the clearest pair; nan where no spread is known."""
    cells = len(means.mean_K)
    if not means.df or cells < 2:
        return math.nan
    i, j = np.triu_indices(cells, 1)
    if cells > 2 * RIVALS:  # the best against the worst; corrected for all pairs nevertheless
        order = np.argsort(means.mean_K)
        i, j = order[-RIVALS:, None], order[None, :RIVALS]
    found = means.pairs(i, j).ravel()
    one = found[clearest(found)]
    return between_any(one, cells) if one.variance > 0 else 1.0


def against_best(
    cells: Sequence[Cell], means: Means, metric: Metric, *, gate: float, family: int
) -> tuple[Cell, tuple[Comparison, ...]]:
    """Return the cell of best mean, and the comparisons of the others with it, closest first.

    The cells that cannot be distinguished from the best are a 95 % confidence set for the best cell: each cell is compared with
    each other by a one-sided test, corrected for those K - 1 tests (Hsu 1984, "Constrained simultaneous confidence intervals
    for multiple comparisons with the best"). The set is all cells unless the report claims some difference.

    Args:
        cells: K cells with finished runs.
        means: Their means.
        metric: The metric that they are compared on.
        gate: The smallest corrected p-value of all other claims of the report.
        family: The number of claims that `gate` is corrected for.
    """
    means = dataclasses.replace(means, mean_K=metric.sign * means.mean_K)
    order = np.argsort(-means.mean_K, kind="stable")
    best, rivals_R = int(order[0]), order[:RIVALS]
    found_RK = means.pairs(rivals_R[:, None], np.arange(len(cells))[None])
    # One-sided: half of the two-sided p-value where the rival is better.
    p_RK = np.where(found_RK.value > 0, found_RK.p / 2, 1.0) * (len(cells) - 1)
    p_RK[np.arange(len(rivals_R)), rivals_R] = 1.0
    level, out = 1 - LEVEL, []
    for k in order[1:]:
        # The best, unless it is too unstable to exclude the cell and another is not.
        r = 0 if p_RK[0, k] <= level or not means.df else int(np.argmin(p_RK[:, k]))
        r = r if p_RK[r, k] <= level else 0
        rival, one = int(rivals_R[r]), found_RK[r, k]
        e = means.estimate(one, int(means.runs_K[[rival, k]].sum()))
        wide, p = e, math.nan
        if e.known:
            p = max(min(1.0, float(p_RK[r, k])), gate)
            passed = gate <= level
            single = 2 * level / (len(cells) - 1) if passed else pairwise_level(level / family, e.df, len(cells))
            wide = widened(e, one, single)
        better = probability_better(*(metric.sign * cells[at].values(metric.name) for at in (rival, k)))
        out.append(Comparison(cells[k], cells[rival], e, wide, better, p))
    return cells[best], tuple(out)
