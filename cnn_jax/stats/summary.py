"""All that a report says about a sweep, computed once."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from cnn_jax.stats.cells import Cell, Design, Record, compared_on, design, one_image
from cnn_jax.stats.comparisons import Comparison, against_best, holm
from cnn_jax.stats.effects import Effects, effects
from cnn_jax.stats.images import Noise, noise
from cnn_jax.stats.intervals import Estimate, expected_best, mean_interval, smallest_difference
from cnn_jax.stats.means import Means


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What can be said of a sweep.

    `metric` is what cells are compared on; `cells` are those with a finished run, best first; `comparisons` hold the first
    of them against each other one, in the same order. `on_test` are the same effects on the test set, which none of the choices
    looked at; None where the metric is the test accuracy itself.
    """

    design: Design
    metric: str
    cells: tuple[Cell, ...]
    means: Means
    effects: Effects
    comparisons: tuple[Comparison, ...]
    noise: Noise | None
    on_test: Effects | None = None

    @property
    def validated(self) -> bool:
        """Whether cells are compared on held-out training images, so that the test set stays out of the choice."""
        return self.metric == "val_accuracy"

    @property
    def best(self) -> Cell | None:
        """The cell of highest mean; None if nothing finished."""
        return self.cells[0] if self.cells else None

    @property
    def ties(self) -> tuple[Cell, ...]:
        """The cells that cannot be told from the best. The answer is the best together with these."""
        return tuple(c.cell for c in self.comparisons if not c.distinguishable)

    @functools.cached_property
    def sd(self) -> float:
        """The metric's spread between seeds, over all cells; nan where every cell has a single run."""
        return self.means.pooled_sd

    @property
    def seeds(self) -> int:
        """The number of finished runs of most cells."""
        return int(np.bincount(self.means.runs_K).argmax()) if self.cells else 0

    @property
    def resolution(self) -> float:
        """The smallest difference that these seeds find between two given cells with probability 0.8; nan if unknown."""
        return smallest_difference(self.sd, self.seeds)

    @property
    def curse(self) -> float:
        """How much too good the best cell would look on average if all cells were equal; nan where the spread is unknown."""
        return expected_best(len(self.cells)) * self.sd / math.sqrt(self.seeds) if len(self.cells) > 1 else math.nan

    def interval(self, cell: Cell, metric: str = "") -> Estimate:
        """A cell's mean accuracy with its own interval, by default of the metric that cells are compared on; within 0 and 1."""
        metric = metric or self.metric
        e = mean_interval(cell.values(metric), step=max((one_image(r, metric) for r in cell.done), default=0.0))
        return dataclasses.replace(e, low=max(0.0, e.low), high=min(1.0, e.high)) if e.known else e

    def count(self, status: str) -> int:
        """How many trials ended as `status`: done, diverged or failed."""
        return sum(c.count(status) for c in self.design.cells)


def analyse(records: Sequence[Record]) -> Analysis:
    """Compares cells on validation accuracy, or on test accuracy if nothing was held out (see `compared_on`).

    Two families of claims are made, "this factor matters" and "this cell is worse than the best". Each is corrected by Holm
    and then for there being two, so the chance that a report makes any false claim is at most 5 %.
    """
    done = [r for r in records if r["status"] == "done"]
    metric = compared_on(records)
    whole = design(records)
    cells = sorted((c for c in whole.cells if c.values(metric).size), key=lambda c: -c.mean(metric))
    if not cells:
        nothing = Means(np.zeros(0), np.zeros(0, dtype=int), np.zeros(0), np.zeros(0), 0.0)
        return Analysis(whole, metric, (), nothing, Effects((), True), (), None)
    means = Means.of([c.values(metric) for c in cells], max(one_image(r, metric) for r in done))
    found = effects(whole, cells, means)
    _, comparisons = against_best(cells, means, metric)
    # Two cells are one pair and one factor: the same claim twice.
    families = 2 if found.terms and len(cells) > 2 else 1
    p_terms = holm(np.array([t.test.p if t.test else math.nan for t in found.terms]))
    terms = [dataclasses.replace(t, p=min(1.0, families * float(p))) for t, p in zip(found.terms, p_terms, strict=True)]
    corrected = [dataclasses.replace(c, p=min(1.0, families * c.p)) for c in comparisons]
    found = dataclasses.replace(found, terms=tuple(terms))
    on_test = None
    if metric != "test_accuracy" and all(r["test_accuracy"] is not None for r in done):
        on_test = effects(whole, cells, Means.of([c.values("test_accuracy") for c in cells]))
    return Analysis(whole, metric, tuple(cells), means, found, tuple(corrected), noise(cells), on_test)
