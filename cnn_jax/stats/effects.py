"""Main effects and two-way interactions of a sweep's factors."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import scipy

from cnn_jax.stats.cells import Cell, Design, Level, numeric, text
from cnn_jax.stats.intervals import LEVEL, Estimate
from cnn_jax.stats.means import Contrasts, Means, Test
from cnn_jax.stats.simultaneous import range_critical, range_p

MANY_LEVELS = 10  # random search draws at least so many numbers of a factor,
BINS = 4  # which are cut into this many groups of equal size
MOST_WEIGHTS = 10**7  # of the contrasts of an interaction that are held in memory
LEAST_DF = 3  # of residuals, to estimate the noise from them: one or two are often small by chance


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Effect of level `b` relative to level `a`, averaged over all other factors.

    `estimate` has the interval of this contrast alone. `simultaneous` has the interval that is simultaneous over all claims
    of the report: it excludes zero where the difference is claimed.
    """

    a: str
    b: str
    estimate: Estimate
    simultaneous: Estimate

    def within(self, bound: float) -> "Contrast":
        """The same with intervals cut to [-bound, bound]."""
        cut = self.estimate.within(bound), self.simultaneous.within(bound)
        return dataclasses.replace(self, estimate=cut[0], simultaneous=cut[1])


@dataclasses.dataclass(frozen=True)
class Term:
    """A factor, or two that interact.

    Attributes:
        factors: One name or two.
        span: The contrast that the report quotes. For a factor of numbers the last level against the first if that difference
            is claimed; otherwise the two levels that differ most clearly. For an interaction the change of one factor's step
            between two levels of the other that is clearest.
        extremes: The level of highest mean against that of lowest; for an interaction the same as `span`.
        test: The F test of no effect on these images, for new seeds; the claims do not use it.
        levels: Each level's marginal mean.
        contrasts: Each level against the first.
        p: Corrected for all contrasts of the term and all terms of the report; nan where no spread is known.
    """

    factors: tuple[str, ...]
    span: Contrast
    test: Test | None
    extremes: Contrast
    levels: tuple[tuple[str, Estimate], ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    p: float = math.nan

    @property
    def name(self) -> str:
        """'filters', or 'filters × padding'."""
        return " × ".join(self.factors)

    @property
    def claimed(self) -> bool:
        """Whether the report claims that this term has an effect."""
        return self.p <= 1 - LEVEL

    def within(self, bound: float) -> "Term":
        """The same with intervals of differences cut to [-bound, bound]."""
        contrasts = tuple(c.within(bound) for c in self.contrasts)
        return dataclasses.replace(
            self, span=self.span.within(bound), extremes=self.extremes.within(bound), contrasts=contrasts
        )


@dataclasses.dataclass(frozen=True)
class Effects:
    """The effects of a design.

    Attributes:
        terms: Main effects, then interactions.
        caveat: Reason why effects are approximate, as the end of a sentence; empty for a complete crossing with equal runs.
        family: The number of claims that all p-values are corrected for.
    """

    terms: tuple[Term, ...]
    caveat: str = ""
    family: int = 1


def effects(design: Design, cells: Sequence[Cell], means: Means, resolution: float = 0.0) -> Effects:
    """The effects of a design's factors, from the cells that have finished runs and their means.

    A complete crossing gives every effect as a contrast of cell means, each cell counted once. Any other
    design (random search, a crossing with missing cells) is fitted by least squares on the cell means with main effects only.
    The residuals may be interactions that the design cannot separate, so they count as noise where they exceed the spread
    between seeds, and are the only noise where no cell has two runs.

    Each term is claimed by its largest contrast. Each contrast has its own standard error, so an unstable level does not
    mask a difference between stable ones: levels by Games and Howell (1976), interactions by Bonferroni over all pairs of
    pairs of levels, terms by Bonferroni.
    """
    found = {name: [c.levels[name] for c in cells] for name in design.factors}
    crossed = len(cells) == math.prod(len(set(column)) for column in found.values())
    drawn = not crossed or not means.df
    codings = {name: _Coding.of(column, design.factors[name], drawn) for name, column in found.items()}
    codings = {name: coding for name, coding in codings.items() if len(coding.names) > 1}
    grouped = any(len(coding.names) < len(set(found[name])) for name, coding in codings.items())
    crossed = crossed and not grouped
    pairs = list(itertools.combinations(codings, 2)) if crossed and means.df else []
    # Cells are also compared with one another, unless a single factor has a level for each.
    family = len(codings) + len(pairs) + (len(codings) != 1 or not crossed)
    x_KP = np.concatenate([np.ones((len(cells), 1)), *(coding.sums_KL for coding in codings.values())], axis=1)
    if not codings or np.linalg.matrix_rank(x_KP) < x_KP.shape[1]:
        return Effects((), "", max(family, 1))
    solve_PK = np.linalg.pinv(x_KP)
    if not crossed or not means.df:
        replaced = _lack_of_fit(means, means.mean_K - x_KP @ (solve_PK @ means.mean_K), x_KP.shape[1], resolution)
        if replaced is None:
            return Effects((), "", family)
        means = replaced
    ends = np.cumsum([coding.sums_KL.shape[1] for coding in codings.values()])
    rows = dict(zip(codings, np.split(solve_PK[1:], ends[:-1]), strict=True))
    terms = [_main(name, coding, solve_PK[0], rows[name], means, family) for name, coding in codings.items()]
    terms += [_interaction((a, b), codings, means, family) for a, b in pairs]
    return Effects(tuple(terms), _caveat(crossed, grouped, means.runs_K), family)


def _lack_of_fit(means: Means, residual_K: np.ndarray, parameters: int, resolution: float) -> Means | None:
    """The means with the larger of two spreads, between seeds and around the fit; None if the latter is not known."""
    df = len(residual_K) - parameters
    if df < LEAST_DF:
        return None
    lack = max(float((residual_K**2).sum()) / df, resolution**2 / 12)
    return means if means.df and lack < (means.variance_K / means.runs_K).mean() else means.with_spread(lack, df)


def _caveat(crossed: bool, grouped: bool, runs_K: np.ndarray) -> str:
    reasons = [] if crossed or grouped else ["not every combination of levels has finished runs"]
    reasons += ["numbers are grouped into ranges"] if grouped else []
    if runs_K.max() == 1:
        reasons.append("each cell has a single run")
    elif len(set(runs_K)) > 1:
        reasons.append(f"cells have {runs_K.min()} to {runs_K.max()} runs")
    return " and ".join(reasons)


@dataclasses.dataclass(frozen=True)
class _Coding:
    """A factor over K cells: its levels' names in order, which one each cell has, and whether the levels are numbers."""

    names: tuple[str, ...]
    index_K: np.ndarray
    ordered: bool

    @classmethod
    def of(cls, column: Sequence[Level], levels: Sequence[Level], drawn: bool) -> "_Coding":
        """Build it from the cells' levels and the ordered levels; if `drawn`, many numbers become groups of equal size."""
        if not drawn or len(levels) < MANY_LEVELS or not numeric(levels) or any(isinstance(v, tuple) for v in levels):
            used = [v for v in levels if v in column]
            return cls(tuple(map(text, used)), np.array([used.index(v) for v in column]), numeric(used))
        values = np.array(column, dtype=float)
        edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS))
        groups, index_K = np.unique(np.searchsorted(edges, values), return_inverse=True)
        names = [f"{values[index_K == g].min():.3g} to {values[index_K == g].max():.3g}" for g in range(len(groups))]
        return cls(tuple(names), index_K, True)

    @property
    def sums_KL(self) -> np.ndarray:
        """Effect coding: a column for each level but the last, summing to zero over the levels."""
        eye = np.eye(len(self.names))
        return (eye[:, :-1] - eye[:, -1:])[self.index_K]

    @property
    def means_LK(self) -> np.ndarray:
        """Weights of the plain mean of each level's cells."""
        chosen_LK = self.index_K == np.arange(len(self.names))[:, None]
        return chosen_LK / chosen_LK.sum(axis=1, keepdims=True)


def widened(e: Estimate, one: Contrasts, p: float) -> Estimate:
    """The estimate with the interval that excludes zero where the p-value for claims is below `p`."""
    if not e.known:
        return e
    half = one.half_width(p)
    return dataclasses.replace(e, low=e.value - half, high=e.value + half)


def clearest(found: Contrasts) -> int:
    """Index of the contrast, of a flat list, with the smallest p-value for claims."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t_R = np.where(found.variance > 0, np.abs(found.value) / found.se, 0.0)
    # p-values of very clear differences are all zero: there the larger |t| decides.
    return int(np.lexsort((-t_R, np.nan_to_num(found.p, nan=1.0)))[0])


def between_any(one: Contrasts, groups: int) -> float:
    """p-value of the clearest of all pairwise differences between `groups` means."""
    return range_p(float(scipy.special.stdtrit(one.df, 1 - one.p / 2)) if one.p > 1e-14 else 1e9, float(one.df), groups)


def pairwise_level(alpha: float, df: float, groups: int) -> float:
    """The p-value of a single pair at which `between_any` is `alpha`."""
    return float(2 * scipy.special.stdtr(df, -range_critical(alpha, df, groups)))


def _main(name: str, coding: _Coding, grand_K: np.ndarray, rows: np.ndarray, means: Means, family: int) -> Term:
    weights = grand_K + np.concatenate([rows, -rows.sum(axis=0, keepdims=True)])  # (level, K): its marginal mean
    levels = tuple((level, means.contrast(w)) for level, w in zip(coding.names, weights, strict=True))
    groups, alpha = len(levels), (1 - LEVEL) / family
    pairs_LL = means.level_pairs(weights)

    def against(a: int, b: int) -> Contrast:
        one = pairs_LL[a, b]
        e = means.estimate(one, levels[a][1].n + levels[b][1].n)
        wide = widened(e, one, pairwise_level(alpha, e.df, groups)) if e.known else e
        return Contrast(coding.names[a], coding.names[b], e, wide)

    contrasts = tuple(against(0, b) for b in range(1, groups))
    if not contrasts[-1].estimate.known:
        return Term((name,), contrasts[-1], None, contrasts[-1], levels, contrasts)
    low, high = np.triu_indices(groups, 1)
    pairs = pairs_LL[low, high]
    at = clearest(pairs)
    a, b = int(low[at]), int(high[at])
    p = min(1.0, family * between_any(pairs[at], groups))
    ends = contrasts[-1].simultaneous
    if coding.ordered and not ends.low <= 0 <= ends.high:
        span = contrasts[-1]
    else:
        span = against(a, b) if coding.ordered or pairs.value[at] >= 0 else against(b, a)
    height = [e.value for _, e in levels]
    extremes = against(int(np.argmin(height)), int(np.argmax(height)))
    return Term((name,), span, means.test(rows), extremes, levels, contrasts, p)


def _interaction(factors: tuple[str, str], codings: dict[str, _Coding], means: Means, family: int) -> Term:
    a, b = (codings[name] for name in factors)
    both_ABK = a.means_LK[:, None, :] * b.means_LK[None, :, :]
    both_ABK /= both_ABK.sum(axis=2, keepdims=True)
    a1, a2 = _pairs_of(len(a.names), len(means.mean_K))
    b1, b2 = _pairs_of(len(b.names), len(means.mean_K))
    steps = both_ABK[a2] - both_ABK[a1]
    weights = (steps[:, b2] - steps[:, b1]).reshape(-1, len(means.mean_K))
    found = means.contrasts(weights)
    at, many = clearest(found), len(weights) * family
    e, one = means.contrast(weights[at]), found[at]
    i, j = divmod(at, len(b1))
    step = f"{a.names[a1[i]]} to {a.names[a2[i]]}"
    wide = widened(e, one, (1 - LEVEL) / many)
    span = Contrast(f"{step} at {b.names[b1[j]]}", f"{step} at {b.names[b2[j]]}", e, wide)
    rows = (both_ABK[1:, 1:] - both_ABK[:1, 1:] - both_ABK[1:, :1] + both_ABK[:1, :1]).reshape(-1, len(means.mean_K))
    return Term(factors, span, means.test(rows), span, p=min(1.0, many * float(one.p)))


def _pairs_of(levels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of levels; of very many, each with the first and its neighbour."""
    low, high = np.triu_indices(levels, 1)
    if len(low) ** 2 * cells <= MOST_WEIGHTS:
        return low, high
    near = (low == 0) | (high == low + 1)
    return low[near], high[near]
