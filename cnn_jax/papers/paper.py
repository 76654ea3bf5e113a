"""A paper as data: the recipe that trains it, its published numbers, and the comparison with ours.

Measured numbers are those of the seeds of a sweep. Intervals speak of new seeds on these images.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import special

from cnn_jax import stats

Verdict = Literal["agrees", "differs", "undecided"]
Measure = Callable[[Path, stats.Record], float | None]  # of the folder of a sweep and one of its records


@dataclasses.dataclass(frozen=True)
class Published:
    """A published number. `sd` between `runs` runs; None where the paper does not say, and the number is taken as exact."""

    value: float
    sd: float | None = None
    runs: int | None = None

    @property
    def variance(self) -> float:
        """Of the mean of its runs."""
        return 0.0 if self.sd is None or not self.runs else self.sd**2 / self.runs


@dataclasses.dataclass(frozen=True)
class Above:
    """A published claim without a number: more than `bound`."""

    bound: float = 0.0


@dataclasses.dataclass(frozen=True)
class PerSeed:
    """A number of all trials of one seed together, such as a difference between two levels; its mean over seeds is compared."""

    function: Callable[[Path, Sequence[stats.Record]], float | None]


@dataclasses.dataclass(frozen=True)
class OfAll:
    """A number of all trials together, such as a spread over seeds: (folder, records, level) -> estimate with its interval."""

    function: Callable[[Path, Sequence[stats.Record], float], stats.Estimate]


@dataclasses.dataclass(frozen=True)
class Row:
    """One number of a paper's table, or a claim.

    Attributes:
      label: its place in the table.
      where: levels of the trials that it is measured on, by the names of the flags.
      measure: of each trial a field of the record, a curve at an epoch as 'val_accuracy@5', or a function; or a number of
        several trials together.
      published: what the paper says.
      margin: largest difference that counts as agreement; None: that of the paper.
      share: whether it is a fraction of 1, shown in percent.
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
      title: with authors and year.
      source: where it was published.
      recipe: name in `recipes.published`.
      rows: its numbers.
      margin: largest difference that counts as agreement.
      seeds: of the publication.
      quick: flags of a run of minutes.
      note: what to know of the comparison.
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
    """A row beside our measurement.

    Attributes:
      row: of the paper.
      ours: mean over seeds, with its interval.
      difference: ours minus published, with its interval, corrected for all rows.
      verdict: 'agrees' if the whole interval of the difference is within the margin; 'differs' if it is not and excludes 0;
        'undecided' otherwise, and with fewer than two seeds. Of a claim: 'agrees' if the interval is above the bound, 'differs'
        if it is below.
    """

    row: Row
    ours: stats.Estimate
    difference: stats.Estimate
    verdict: Verdict


def compare(paper: Paper, folder: Path, records: Sequence[stats.Record]) -> Iterator[Compared]:
    """Measure each row of a paper on the finished trials of a sweep, one after the other."""
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
    """A number per seed, and the smallest difference that two of them can have."""
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
    """The number of one trial; None where the record does not have it."""
    if callable(measure):
        return measure(folder, record)
    name, _, epoch = measure.partition("@")
    if not epoch:
        return record[name]
    return next((row.get(name) for row in record["history"] if row["epoch"] == int(epoch)), None)


def interval(values: np.ndarray, step: float, level: float, published: Published | None = None) -> stats.Estimate:
    """Mean of the values, less the published number if one is given, with Welch's interval.

    Args:
      values: a number per seed.
      step: smallest difference that two values can have: values that agree may differ by what rounding hides.
      level: of confidence.
      published: is subtracted, with the variance of its mean.
    """
    n = len(values)
    center = (float(values.mean()) if n else math.nan) - (published.value if published else 0.0)
    if n < 2:
        return stats.Estimate(center, math.nan, math.nan, n)
    own = max(float(values.var(ddof=1)), step**2 / 6) / n
    theirs = published.variance if published else 0.0
    freedom = (own + theirs) ** 2 / (own**2 / (n - 1) + (theirs**2 / (published.runs - 1) if theirs and published.runs else 0))  # type: ignore[union-attr,operator]
    half = float(special.stdtrit(freedom, 0.5 + level / 2)) * math.sqrt(own + theirs)
    return stats.Estimate(center, center - half, center + half, n)


def less(found: stats.Estimate, published: Published, level: float) -> stats.Estimate:
    """An estimate less a published number.

    The interval is the square root of the summed squares of both (Zou and Donner 2008, Statistics in Medicine 27: "Construction
    of confidence limits about effect measures: a general approach").
    """
    theirs = 0.0
    if published.variance and published.runs and published.runs > 1:
        theirs = float(special.stdtrit(published.runs - 1, 0.5 + level / 2)) ** 2 * published.variance
    low, high = (math.sqrt((found.value - bound) ** 2 + theirs) for bound in (found.low, found.high))
    value = found.value - published.value
    return stats.Estimate(value, value - low, value + high, found.n)


def claim(difference: stats.Estimate) -> Verdict:
    """What the interval of a difference says of the claim that it is positive."""
    if not difference.known:
        return "undecided"
    return "agrees" if difference.low > 0 else "differs" if difference.high < 0 else "undecided"


def verdict(difference: stats.Estimate, margin: float) -> Verdict:
    """What the interval of a difference says; the margin itself belongs to agreement."""
    if not difference.known:
        return "undecided"
    if max(-difference.low, difference.high) <= margin:
        return "agrees"
    return "differs" if difference.low > 0 or difference.high < 0 else "undecided"
