"""Claims, their measurements, and the decision rule, which is the same for all data sets.

Every number is defined such that the sentence predicts a positive value. Its p-value is two-sided, and Holm-corrected over all
numbers of the page. With a corrected p of at most 5 %, it holds if the number is positive and does not hold if it is negative;
otherwise, and with one seed, it is undecided. A check is exact: it holds if all cases agree.

A sentence holds if all of its parts hold, does not hold if any part does not, and is undecided otherwise.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from cnn_jax import stats

Verdict = Literal["holds", "does not hold", "undecided"]


@dataclasses.dataclass(frozen=True)
class Number:
    """A measured number that a sentence predicts to be positive.

    Attributes:
      what: the difference in words.
      estimate: the number with its interval for new seeds (and new images, for accuracies); its p is uncorrected.
      beside: the terms of the difference, as 'trained 0.61, random 0.59'; or the reason for a missing number.
      share: whether it is a difference of shares, shown in percentage points.
      p: p-value corrected for all numbers of the page; nan without an interval.
    """

    what: str
    estimate: stats.Estimate
    beside: str = ""
    share: bool = True
    p: float = math.nan

    @property
    def verdict(self) -> Verdict:
        """Verdict of the number."""
        if not self.p <= 1 - stats.LEVEL:
            return "undecided"
        return "holds" if self.estimate.value > 0 else "does not hold"


@dataclasses.dataclass(frozen=True)
class Check:
    """Number of computed cases and of those that agree with a sentence; `shown` replaces these numbers in the output."""

    what: str
    agree: int
    cases: int
    beside: str = ""
    shown: str = ""

    @property
    def verdict(self) -> Verdict:
        """'undecided' without cases."""
        if not self.cases:
            return "undecided"
        return "holds" if self.agree == self.cases else "does not hold"


Part = Number | Check


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of the chapter with its measurements.

    Attributes:
      name: anchor on the page.
      sentence: sentence of the chapter.
      short: its short form, for a table of 80 columns.
      method: method of measurement.
      parts: measurements.
    """

    name: str
    sentence: str
    short: str
    method: str
    parts: tuple[Part, ...]

    @property
    def verdict(self) -> Verdict:
        """Combined verdict of the parts."""
        found = {part.verdict for part in self.parts}
        if "does not hold" in found:
            return "does not hold"
        return "holds" if found == {"holds"} else "undecided"


def corrected(claims: Sequence[Claim]) -> list[Claim]:
    """Return the claims with p-values Holm-corrected over all of their numbers."""
    p = [part.estimate.p if isinstance(part, Number) else math.nan for claim in claims for part in claim.parts]
    found = iter(stats.holm(np.array(p, float)))
    return [
        dataclasses.replace(
            claim,
            parts=tuple(
                dataclasses.replace(part, p=float(p)) if isinstance(part, Number) else part
                for part, p in zip(claim.parts, found, strict=False)
            ),
        )
        for claim in claims
    ]
