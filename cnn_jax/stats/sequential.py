"""Sequential addition of seeds where comparisons are undecided, by a rule that is valid under any number of looks."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from cnn_jax.stats.cells import Cell, Record, compared_on, design, one_image, place
from cnn_jax.stats.intervals import LEVEL, Estimate

# Prior variance of the true difference in units of the runs' variance: any is valid, this one is narrow at 7 to 100 seeds.
PRIOR = 10.0


def confidence_sequence(differences: np.ndarray, alpha: float = 1 - LEVEL, step: float = 0.0) -> Estimate:
    """An interval for the mean of normal differences that covers at all n at once with probability 1 - alpha.

    Inverts the t test's Gaussian mixture: with t the usual statistic, v = n - 1 and G = 1 + `PRIOR` n, the Bayes factor
    [(1 + t^2 / v) / (1 + t^2 / (v G))]^(n/2) / sqrt(G) is a nonnegative martingale of mean 1 under the null, so by Ville's
    inequality it ever exceeds 1 / alpha with probability alpha at most (Wang and Ramdas 2025, "Anytime-valid t-tests and
    confidence sequences for Gaussian means with unknown variance"). It needs about seven runs to exclude anything.
    `step` is one image's worth of accuracy: equal accuracies may still differ by the rounding error.
    """
    n = len(differences)
    mean = float(differences.mean()) if n else math.nan
    sd = max(float(np.std(differences, ddof=1)), step / math.sqrt(6)) if n > 1 else math.nan
    half = _half_width(sd, n, alpha)
    return Estimate(mean, mean - half, mean + half, n)


def _half_width(sd: float, n: int, alpha: float) -> float:
    growth = 1 + PRIOR * n
    ratio = (math.sqrt(growth) / alpha) ** (2 / max(n, 1))
    if n < 2 or ratio >= growth:
        return math.inf
    return sd * math.sqrt((n - 1) * (ratio - 1) / (1 - ratio / growth) / n)


@dataclasses.dataclass(frozen=True)
class Decision:
    """Decision on a cell in comparison with the leading one.

    Attributes:
        cell: The cell.
        difference: Leading cell minus this one, with its confidence sequence at the seeds so far, corrected for all pairs.
        verdict: 'worse' than the leading cell, 'close' to it (within the difference to resolve), or 'open'.
    """

    cell: Cell
    difference: Estimate
    verdict: str


def decide(records: Sequence[Record], resolve: float) -> tuple[Cell | None, tuple[Decision, ...]]:
    """Return the cell of highest mean and a decision on each other cell, by decreasing mean.

    `resolve` is a fraction of 1, like accuracies. It may be called after every round of new seeds: the probability that a
    decision is ever wrong stays below 5 % over all pairs of cells together. That holds because a seed gives a cell the same
    result whenever it is run: a pair's differences by seed are one fixed sequence, of which only the length is chosen. Seeds
    that diverged in either cell are left out. Decisions refer to new seeds on these images.
    """
    metric = compared_on(records)
    cells = sorted((c for c in design(records).cells if c.values(metric).size), key=lambda c: -c.mean(metric))
    if len(cells) < 2:
        return (cells[0] if cells else None), ()
    alpha, step = (1 - LEVEL) / math.comb(len(cells), 2), max(one_image(r, metric) for c in cells for r in c.done)
    leader, *others = cells
    out = []
    for cell in others:
        e = confidence_sequence(_by_place(leader, cell, metric), alpha, step)
        verdict = "worse" if e.low > 0 else "close" if max(-e.low, e.high) < resolve else "open"
        out.append(Decision(cell, e, verdict))
    return leader, tuple(out)


def open_cells(records: Sequence[Record], resolve: float) -> list[Cell]:
    """The cells that need more seeds by `decide`: the open ones, after the leading cell; empty if none is open."""
    leader, decisions = decide(records, resolve)
    still = [d.cell for d in decisions if d.verdict == "open"]
    return [leader, *still] if leader and still else []


def _by_place(a: Cell, b: Cell, metric: str) -> np.ndarray:
    """Differences of the runs that share split and seed, in their order."""
    values_a, values_b = ({place(r): r[metric] for r in c.runs(metric)} for c in (a, b))
    return np.array([values_a[at] - values_b[at] for at in sorted(values_a.keys() & values_b.keys())])


def expected_seeds(sd: float, difference: float, cells: int) -> int:
    """Seeds per cell until `open_cells` decides on two cells of spread `sd` whose true difference is 0 or `difference` or more.

    The number at which the sequence's half width falls below `difference`, for runs that are independent between cells.
    """
    alpha = (1 - LEVEL) / math.comb(max(cells, 2), 2)
    low, high = 1, 2
    while _half_width(sd * math.sqrt(2), high, alpha) >= difference:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _half_width(sd * math.sqrt(2), middle, alpha) >= difference else (low, middle)
    return high
