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
class Row:
    """One number of a paper's table.

    Attributes:
      label: its place in the table.
      where: levels of the trials that it is measured on, by the names of the flags.
      measure: a field of a record, a curve at an epoch as 'val_accuracy@5', or a function.
      published: what the paper says.
    """

    label: str
    where: Mapping[str, Any]
    measure: str | Measure
    published: Published


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
        'undecided' otherwise, and with fewer than two seeds.
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
        values = np.array([v for r in chosen if (v := measured(row.measure, folder, r)) is not None])
        step = max((1 / r["test_examples"] for r in chosen), default=0.0)
        ours = interval(values, step, stats.LEVEL)
        difference = interval(values, step, level, row.published)
        yield Compared(row, ours, difference, verdict(difference, paper.margin))


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


def verdict(difference: stats.Estimate, margin: float) -> Verdict:
    """What the interval of a difference says; the margin itself belongs to agreement."""
    if not difference.known:
        return "undecided"
    if max(-difference.low, difference.high) <= margin:
        return "agrees"
    return "differs" if difference.low > 0 or difference.high < 0 else "undecided"
