"""Main effects and two-way interactions of a sweep's factors."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from cnn_jax.stats.cells import Cell, Design, Level, numeric, text
from cnn_jax.stats.intervals import LEVEL, Estimate
from cnn_jax.stats.means import Means, Test

MANY_LEVELS = 10  # from here on a number counts as drawn at random,
BINS = 4  # and is cut into this many groups of equal size


@dataclasses.dataclass(frozen=True)
class Contrast:
    """What level `b` does against level `a`, all other factors averaged."""

    a: str
    b: str
    estimate: Estimate


@dataclasses.dataclass(frozen=True)
class Term:
    """A factor, or two that interact: the test of no effect, each level's marginal mean, each level against the first.

    `span` is the headline: the last level against the first where levels are numbers, an order known beforehand; the best
    against the worst where they are words, its interval widened for having picked them (Bonferroni over all pairs). For an
    interaction it is how much the first factor's step from first to last level changes between those of the second.
    `p` is corrected for all claims of the report (see `summary.analyse`); nan where no spread is known.
    """

    factors: tuple[str, ...]
    span: Contrast
    test: Test | None
    levels: tuple[tuple[str, Estimate], ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    p: float = math.nan

    @property
    def name(self) -> str:
        """'filters', or 'filters × padding'."""
        return " × ".join(self.factors)


@dataclasses.dataclass(frozen=True)
class Effects:
    """The terms, and whether they are approximate: the design is not a complete crossing with replicates and equal runs."""

    terms: tuple[Term, ...]
    approximate: bool


def effects(design: Design, cells: Sequence[Cell], means: Means) -> Effects:
    """The effects of a design's factors, from the cells that have finished runs and their means.

    A complete crossing gives every effect as a contrast of cell means, each cell counted once: the textbook's analysis of
    variance if all cells have equal runs and spread. Anything else, random search for one, is approximated by least squares
    on the cell means with main effects only. Where no cell has two runs, what that fit leaves over is taken for the spread.
    """
    codings = {name: _Coding.of([c.levels[name] for c in cells], levels) for name, levels in design.factors.items()}
    codings = {name: coding for name, coding in codings.items() if len(coding.names) > 1}
    crossed = len(cells) == math.prod(len(coding.names) for coding in codings.values())
    pairs = list(itertools.combinations(codings, 2)) if crossed and means.df else []
    blocks: dict[tuple[str, ...], np.ndarray] = {(name,): coding.sums_KL for name, coding in codings.items()}
    for a, b in pairs:
        blocks[a, b] = (blocks[a,][:, :, None] * blocks[b,][:, None, :]).reshape(len(cells), -1)
    x_KP = np.concatenate([np.ones((len(cells), 1)), *blocks.values()], axis=1)
    if not blocks or np.linalg.matrix_rank(x_KP) < x_KP.shape[1]:
        return Effects((), True)
    solve_PK = np.linalg.pinv(x_KP)
    if not means.df:
        means = means.with_spread(means.mean_K - x_KP @ (solve_PK @ means.mean_K), len(cells) - x_KP.shape[1])
    ends = np.cumsum([block.shape[1] for block in blocks.values()])
    rows = dict(zip(blocks, np.split(solve_PK[1:], ends[:-1]), strict=True))
    terms = [_main(name, coding, solve_PK[0], rows[name,], means) for name, coding in codings.items()]
    terms += [_interaction(a, b, codings, rows[a, b], means) for a, b in pairs]
    return Effects(tuple(terms), not (crossed and len(set(means.runs_K)) == 1 and means.runs_K[0] > 1))


@dataclasses.dataclass(frozen=True)
class _Coding:
    """A factor over K cells: its levels' names in order, which one each cell has, and whether the levels are numbers."""

    names: tuple[str, ...]
    index_K: np.ndarray
    ordered: bool

    @classmethod
    def of(cls, column: Sequence[Level], levels: Sequence[Level]) -> "_Coding":
        """From each cell's level and the factor's levels in order; many different numbers become groups of equal size."""
        if len(levels) < MANY_LEVELS or not numeric(levels) or any(isinstance(v, tuple) for v in levels):
            used = [v for v in levels if v in column]
            return cls(tuple(map(text, used)), np.array([used.index(v) for v in column]), numeric(used))
        values = np.array(column, dtype=float)
        edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS))
        groups, index_K = np.unique(np.searchsorted(edges, values), return_inverse=True)
        names = [f"{values[index_K == g].min():.3g} to {values[index_K == g].max():.3g}" for g in range(len(groups))]
        return cls(tuple(names), index_K, True)

    @property
    def sums_KL(self) -> np.ndarray:
        """Columns that code all levels but the last, each summing to zero over the levels."""
        eye = np.eye(len(self.names))
        return (eye[:, :-1] - eye[:, -1:])[self.index_K]


def _main(name: str, coding: _Coding, grand_K: np.ndarray, rows: np.ndarray, means: Means) -> Term:
    weights = grand_K + np.concatenate([rows, -rows.sum(axis=0, keepdims=True)])  # (level, K): its marginal mean
    levels = tuple((level, means.contrast(w)) for level, w in zip(coding.names, weights, strict=True))

    def against(a: int, b: int, level: float = LEVEL) -> Contrast:
        return Contrast(coding.names[a], coding.names[b], means.contrast(weights[b] - weights[a], level))

    contrasts = tuple(against(0, b) for b in range(1, len(levels)))
    if coding.ordered or len(levels) == 2:
        span = contrasts[-1]
    else:
        height = [e.value for _, e in levels]
        span = against(int(np.argmin(height)), int(np.argmax(height)), 1 - (1 - LEVEL) / math.comb(len(levels), 2))
    return Term((name,), span, means.test(rows), levels, contrasts)


def _interaction(a: str, b: str, codings: dict[str, _Coding], rows: np.ndarray, means: Means) -> Term:
    weight_K = np.zeros(len(means.mean_K))
    for sign_a, end_a in ((1, len(codings[a].names) - 1), (-1, 0)):
        for sign_b, end_b in ((1, len(codings[b].names) - 1), (-1, 0)):
            corner = (codings[a].index_K == end_a) & (codings[b].index_K == end_b)
            weight_K += sign_a * sign_b * corner / corner.sum()
    step = f"{codings[a].names[0]} to {codings[a].names[-1]}"
    span = Contrast(f"{step} at {codings[b].names[0]}", f"{step} at {codings[b].names[-1]}", means.contrast(weight_K))
    return Term((a, b), span, means.test(rows))
