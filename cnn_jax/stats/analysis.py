"""Statistical analysis of a sweep on one data set, as reported."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import scipy

from cnn_jax.stats.cells import Cell, Design, Record, compared_on, design, one_image
from cnn_jax.stats.comparisons import Comparison, against_best, cells_p
from cnn_jax.stats.effects import Effects, effects
from cnn_jax.stats.image_variance import Images
from cnn_jax.stats.images import Noise, answers, noise
from cnn_jax.stats.intervals import LEVEL, Estimate, expected_best, smallest_difference
from cnn_jax.stats.means import Means
from cnn_jax.stats.metric import ACCURACIES, TEST, VALIDATION, Metric
from cnn_jax.stats.sequential import Decision, decide
from cnn_jax.stats.simultaneous import range_critical
from cnn_jax.stats.splits import within_splits


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Analysis of a sweep.

    Attributes:
        design: Cells and factors.
        measured: The metric on which cells are compared.
        cells: Those with a finished run, best first.
        means: Their means of `metric`, adjusted for splits.
        effects: The effects of the factors on `metric`.
        p_cells: Corrected p-value of no difference between any two cells; nan if the terms of `effects` cover it.
        comparisons: Every cell but the best against the best, in the order of `cells`.
        resolution: The step between two values.
        noise: Variation between seeds alone; None if no answers per image were recorded.
        on_test: The same effects on the test set, on which no choice was based; None where `measured` is the test
            accuracy itself, or not an accuracy of this package.
        decisions: Decisions of the sequential rule by which seeds were added, in place of `comparisons`. Empty for a sweep of
            fixed size.
    """

    design: Design
    measured: Metric
    cells: tuple[Cell, ...]
    means: Means
    effects: Effects
    p_cells: float
    comparisons: tuple[Comparison, ...]
    resolution: float
    noise: Noise | None = None
    on_test: Effects | None = None
    decisions: tuple[Decision, ...] = ()

    @property
    def metric(self) -> str:
        """The key of `measured` in a record."""
        return self.measured.name

    @property
    def validated(self) -> bool:
        """Whether cells are compared on held-out training images, so that the test set does not influence the choice."""
        return self.measured == VALIDATION

    @property
    def best(self) -> Cell | None:
        """The cell of highest mean; None if nothing finished."""
        return self.cells[0] if self.cells else None

    @property
    def ties(self) -> tuple[Cell, ...]:
        """Cells that cannot be distinguished from the best. With the best they are a 95 % confidence set for the best cell."""
        if self.decisions:
            return tuple(d.cell for d in self.decisions if d.verdict != "worse")
        return tuple(c.cell for c in self.comparisons if not c.distinguishable)

    @property
    def population(self) -> str:
        """The population that intervals refer to, as new draws of these."""
        if len(self.design.splits) > 1:
            return "new seeds and new validation splits"
        if self.means.images:
            return "new seeds and new images"
        return "new seeds on these images" if self.measured.of_images else "new runs of the same cells"

    @property
    def sd(self) -> float:
        """The metric's spread between seeds, over all cells; nan where every cell has a single run."""
        return self.means.pooled_sd

    @property
    def runs(self) -> tuple[int, int]:
        """Finished runs per cell: fewest and most."""
        return (int(self.means.runs_K.min()), int(self.means.runs_K.max())) if self.cells else (0, 0)

    @property
    def seeds(self) -> int:
        """The number of finished runs of most cells."""
        return int(np.bincount(self.means.runs_K).argmax()) if self.cells else 0

    def detectable(self, seeds: int) -> float:
        """The difference between two cells that is claimed with probability 0.8 given this many seeds; nan if unknown."""
        cells = len(self.cells)
        if cells < 2 or not self.sd > 0 or seeds < 2:
            return math.nan
        family, df = self.effects.family, float(cells * (seeds - 1))
        critical = range_critical((1 - LEVEL) / family, df, cells)
        return smallest_difference(math.sqrt(2 * self.sd**2 / seeds + self._variance_of_images), df, critical)

    @functools.cached_property
    def _variance_of_images(self) -> float:
        """Variance that new images add to a difference between two cells: the median over pairs with the best."""
        others = np.arange(1, min(len(self.cells), 100))
        if not self.means.images or not len(others):
            return 0.0
        return float(np.median(self.means.images.pair_variance(np.zeros_like(others), others)))

    @property
    def smallest(self) -> float:
        """`detectable` at the seeds of this sweep."""
        return self.detectable(self.seeds)

    @property
    def curse(self) -> float:
        """Expected overestimate of the best cell's mean if all cells were equal; nan where the spread is unknown."""
        return expected_best(len(self.cells)) * self.sd / math.sqrt(self.seeds) if len(self.cells) > 1 else math.nan

    @functools.cached_property
    def _raw(self) -> dict[str, Means]:
        """Means without adjustment for splits, by metric."""
        out = {}
        for metric in dict.fromkeys((self.metric, *ACCURACIES)):
            values = [c.values(metric) for c in self.cells]
            if values and all(v.size for v in values):
                images = answers(self.cells, metric) if metric in ACCURACIES else None
                out[metric] = Means.of(values, self.resolution_of(metric), images)
        return out

    def resolution_of(self, metric: str) -> float:
        """The step between two values of a metric."""
        if metric == self.metric:
            return self.resolution
        return max((one_image(r, metric) for c in self.cells for r in c.done), default=0.0)

    def interval(self, cell: Cell, metric: str = "") -> Estimate:
        """A cell's mean with its interval, by default of the compared metric; accuracies within 0 and 1."""
        means = self._raw.get(metric or self.metric)
        at = next((i for i, c in enumerate(self.cells) if c is cell), None)
        if means is None or at is None:
            return Estimate(cell.mean(metric or self.metric), math.nan, math.nan, len(cell.values(metric or self.metric)))
        if not self.measured.share:
            return means.only(at).contrast(np.ones(1))
        return accuracy_interval(means, at)

    def count(self, status: str) -> int:
        """Number of trials with this status: done, diverged or failed."""
        return sum(c.count(status) for c in self.design.cells)


def accuracy_interval(means: Means, cell: int) -> Estimate:
    """A cell's mean accuracy with its 95 % interval, within 0 and 1.

    Near 0 and 1 the distribution over images is skewed: its part of the interval is Wilson's, with the effective number of
    images (Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data"). The parts are combined as in Zou and Donner 2008, "Construction of confidence limits about
    effect measures".
    """
    one = means.only(cell)
    seeds = one.on_these_images.contrast(np.ones(1))
    if not seeds.known:
        return seeds
    below = above = seeds.high - seeds.value
    if one.images:
        low, high = _wilson(seeds.value, one.images)
        below, above = math.hypot(below, seeds.value - low), math.hypot(above, high - seeds.value)
    return dataclasses.replace(seeds, low=max(0.0, seeds.value - below), high=min(1.0, seeds.value + above))


def _wilson(p: float, images: Images) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, for as many independent images as have the variance of these."""
    variance = float(images.variance(np.ones((1, 1)))[0])
    n = max(images.count, p * (1 - p) / variance) if variance > 0 else images.count
    z2 = float(scipy.special.ndtri((1 + LEVEL) / 2)) ** 2
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n)))
    return (p + z2 / (2 * n) - half) / (1 + z2 / n), (p + z2 / (2 * n) + half) / (1 + z2 / n)


def analyse(records: Sequence[Record], resolve: float | None = None) -> Analysis:
    """Compare cells on validation accuracy, or on test accuracy if nothing was held out (see `compared_on`).

    Claims are "this factor matters", "these factors interact" and "some cells differ". All p-values are corrected for the
    number of such claims, so the chance that a report on a sweep without effects claims any is at most 5 %. The
    cells that may be the best are a separate confidence set (see `against_best`), reported only if some claim is made.

    Args:
        records: Of one data set.
        resolve: The difference, a fraction of 1, for which seeds were added. The number of runs then depends on their
            results, so cells are compared by the sequential rule that determined it (see `decide`).
    """
    measured, whole = ACCURACIES[compared_on(records)], design(records)
    cells = _ranked(whole, measured)
    if not cells:
        return _compared(whole, measured, (), _NOTHING, 0.0)
    resolution = max(one_image(r, measured.name) for c in cells for r in c.done)
    found = _compared(whole, measured, cells, _means(whole, cells, measured.name, resolution), resolution)
    on_test = None
    if measured != TEST and all(r["test_accuracy"] is not None for c in cells for r in c.done):
        step = max(one_image(r, "test_accuracy") for c in cells for r in c.done)
        on_test = effects(whole, cells, _means(whole, cells, "test_accuracy", step), step)
    decisions = decide(records, resolve)[1] if resolve else ()
    return dataclasses.replace(found, noise=noise(cells), on_test=on_test, decisions=decisions)


def analyse_numbers(whole: Design, measured: Metric, resolution: float) -> Analysis:
    """Compare cells on any number per run. Intervals refer to new runs.

    Args:
        whole: Cells of runs that differ by seed alone.
        measured: The number.
        resolution: The step between two written values: equal values may differ by the rounding error.
    """
    cells = _ranked(whole, measured)
    means = Means.of([c.values(measured.name) for c in cells], resolution) if cells else _NOTHING
    return _compared(whole, measured, cells, means, resolution)


_NOTHING = Means(np.zeros(0), np.zeros(0, dtype=int), np.zeros(0), np.zeros(0), np.zeros(0), 0.0)


def _ranked(whole: Design, measured: Metric) -> tuple[Cell, ...]:
    """The cells with a finished run, best first."""
    cells = (c for c in whole.cells if c.values(measured.name).size)
    return tuple(sorted(cells, key=lambda c: -measured.sign * c.mean(measured.name)))


def _compared(whole: Design, measured: Metric, cells: tuple[Cell, ...], means: Means, resolution: float) -> Analysis:
    """Effects and comparisons from the means of ranked cells."""
    if not cells:
        return Analysis(whole, measured, (), means, Effects(()), math.nan, (), 0.0)
    found = effects(whole, cells, means, resolution)
    p_cells = math.nan
    if found.family > len(found.terms):
        p_cells = min(1.0, found.family * cells_p(means)) if means.df and len(cells) > 1 else math.nan
    gate = min((p for p in (p_cells, *(t.p for t in found.terms)) if not math.isnan(p)), default=math.nan)
    _, comparisons = against_best(cells, means, measured, gate=gate, family=found.family)
    if measured.share:  # differences of accuracies are between -1 and 1, differences of those between -2 and 2
        found = dataclasses.replace(found, terms=tuple(term.within(float(len(term.factors))) for term in found.terms))
        comparisons = tuple(c.within(1.0) for c in comparisons)
    return Analysis(whole, measured, cells, means, found, p_cells, comparisons, resolution)


def _means(whole: Design, cells: Sequence[Cell], metric: str, resolution: float) -> Means:
    if len(whole.splits) > 1:
        return within_splits(cells, metric, resolution)
    return Means.of([c.values(metric) for c in cells], resolution, answers(cells, metric))
