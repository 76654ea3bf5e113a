"""A paper as data: its recipe, its published numbers, and the comparison with measurements.

Measurements are over the seeds of a sweep. Intervals are for new seeds on the same images.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy

from cnn_jax import stats

Verdict = Literal["agrees", "differs", "undecided"]
Measure = Callable[[Path, stats.Record], float | None]  # (folder of a sweep, one of its records) -> number


@dataclasses.dataclass(frozen=True)
class Published:
    """A published number with standard deviation `sd` between `runs` runs; None: not stated, and treated as exact."""

    value: float
    sd: float | None = None
    runs: int | None = None

    @property
    def variance(self) -> float:
        """Variance of the mean of its runs."""
        return 0.0 if self.sd is None or not self.runs else self.sd**2 / self.runs


@dataclasses.dataclass(frozen=True)
class Above:
    """A published claim without a number: greater than `bound`."""

    bound: float = 0.0


@dataclasses.dataclass(frozen=True)
class PerSeed:
    """A number computed from all trials of a seed, such as a difference between levels; its mean over seeds is compared."""

    function: Callable[[Path, Sequence[stats.Record]], float | None]


@dataclasses.dataclass(frozen=True)
class OfAll:
    """A number computed from all trials, such as a standard deviation over seeds: (folder, records, level) -> estimate."""

    function: Callable[[Path, Sequence[stats.Record], float], stats.Estimate]


@dataclasses.dataclass(frozen=True)
class Row:
    """One number of a paper's table, or a claim.

    Attributes:
      label: name in the table.
      where: levels of the measured trials, by flag.
      measure: per trial, a field of the record, a curve at an epoch such as 'val_accuracy@5', or a function; or a number
        computed from several trials.
      published: published number or claim.
      margin: largest difference that counts as agreement; None: that of the paper.
      share: whether the number is a fraction of 1, shown in percent.
    """

    label: str
    where: Mapping[str, Any]
    measure: str | Measure | PerSeed | OfAll
    published: Published | Above
    margin: float | None = None
    share: bool = True


@dataclasses.dataclass(frozen=True)
class Paper:
    """A published table.

    Attributes:
      title: title with authors and year.
      source: place of publication.
      recipe: name in `recipes.published`.
      rows: rows of the table.
      margin: largest difference that counts as agreement.
      seeds: number of seeds in the publication.
      quick: flags for a run of minutes.
      note: remark on the comparison.
    """

    title: str
    source: str
    recipe: str
    rows: tuple[Row, ...]
    margin: float
    seeds: int
    quick: Mapping[str, str]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Compared:
    """A row with its measurement.

    Attributes:
      row: row of the paper.
      ours: mean over seeds, with its interval.
      difference: ours minus published, with its interval, corrected for all rows.
      verdict: 'agrees' if the interval of the difference is within the margin; 'differs' if it is not and excludes 0;
        'undecided' otherwise, and with fewer than two seeds. For a claim: 'agrees' if the interval is above the bound,
        'differs' if it is below.
    """

    row: Row
    ours: stats.Estimate
    difference: stats.Estimate
    verdict: Verdict


def compare(paper: Paper, folder: Path, records: Sequence[stats.Record]) -> Iterator[Compared]:
    """Measure the rows of a paper one by one on the finished trials of a sweep."""
    level = 1 - (1 - stats.LEVEL) / len(paper.rows)
    for row in paper.rows:
        chosen = [r for r in records if r["status"] == "done" and _matches(row.where, r)]
        published = Published(row.published.bound) if isinstance(row.published, Above) else row.published
        if isinstance(row.measure, OfAll):
            ours = row.measure.function(folder, chosen, stats.LEVEL)
            difference = less(row.measure.function(folder, chosen, level), published, level)
        else:
            values, step = _values(row.measure, folder, chosen)
            ours, difference = interval(values, step, stats.LEVEL), interval(values, step, level, published)
        margin = paper.margin if row.margin is None else row.margin
        found = claim(difference) if isinstance(row.published, Above) else verdict(difference, margin)
        yield Compared(row, ours, difference, found)


def _values(measure: str | Measure | PerSeed, folder: Path, records: Sequence[stats.Record]) -> tuple[np.ndarray, float]:
    """Return a number per seed, and their resolution, the smallest possible difference."""
    if isinstance(measure, PerSeed):
        seeds: dict[int, list[stats.Record]] = {}
        for record in records:
            seeds.setdefault(record["config"]["seed"], []).append(record)
        found = [measure.function(folder, group) for _, group in sorted(seeds.items())]
    else:
        found = [measured(measure, folder, record) for record in records]
    step = max((1 / r["test_examples"] for r in records), default=0.0)
    return np.array([value for value in found if value is not None]), step


def _matches(where: Mapping[str, Any], record: stats.Record) -> bool:
    levels = stats.flat(record["config"])
    return all(levels.get(name) == level for name, level in where.items())


def measured(measure: str | Measure, folder: Path, record: stats.Record) -> float | None:
    """Return the number of one trial; None if the record does not have it."""
    if callable(measure):
        return measure(folder, record)
    name, _, epoch = measure.partition("@")
    if not epoch:
        return record[name]
    return next((row.get(name) for row in record["history"] if row["epoch"] == int(epoch)), None)


def interval(values: np.ndarray, step: float, level: float, published: Published | None = None) -> stats.Estimate:
    """Estimate the mean of the values, minus the published number if given, with Welch's interval.

    Args:
      values: a number per seed.
      step: smallest possible difference of two values; equal values may differ by less before rounding.
      level: confidence level.
      published: subtracted, with the variance of its mean.
    """
    n = len(values)
    center = (float(values.mean()) if n else math.nan) - (published.value if published else 0.0)
    if n < 2:
        return stats.Estimate(center, math.nan, math.nan, n)
    own = max(float(values.var(ddof=1)), step**2 / 6) / n
    theirs = published.variance if published else 0.0
    freedom = (own + theirs) ** 2 / (own**2 / (n - 1) + (theirs**2 / (published.runs - 1) if theirs and published.runs else 0))  # type: ignore[union-attr,operator]
    half = float(scipy.special.stdtrit(freedom, 0.5 + level / 2)) * math.sqrt(own + theirs)
    return stats.Estimate(center, center - half, center + half, n)


def less(found: stats.Estimate, published: Published, level: float) -> stats.Estimate:
    """Subtract a published number from an estimate.

    Half-widths are combined as the square root of the sum of squares (Zou and Donner 2008, Statistics in Medicine 27:
    "Construction of confidence limits about effect measures: a general approach").
    """
    theirs = 0.0
    if published.variance and published.runs and published.runs > 1:
        theirs = float(scipy.special.stdtrit(published.runs - 1, 0.5 + level / 2)) ** 2 * published.variance
    low, high = (math.sqrt((found.value - bound) ** 2 + theirs) for bound in (found.low, found.high))
    value = found.value - published.value
    return stats.Estimate(value, value - low, value + high, found.n)


def claim(difference: stats.Estimate) -> Verdict:
    """Return the verdict on the claim that a difference is positive."""
    if not difference.known:
        return "undecided"
    return "agrees" if difference.low > 0 else "differs" if difference.high < 0 else "undecided"


def verdict(difference: stats.Estimate, margin: float) -> Verdict:
    """Return the verdict on a difference; the margin itself counts as agreement."""
    if not difference.known:
        return "undecided"
    if max(-difference.low, difference.high) <= margin:
        return "agrees"
    return "differs" if difference.low > 0 or difference.high < 0 else "undecided"
