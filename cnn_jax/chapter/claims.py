"""Claims, what was measured of them, and the rule of the verdicts, which is the same for all data.

A number is written so that the sentence says it is above zero. Its p-value is two-sided, and corrected for all numbers of the
page (Holm). It holds where the corrected p is at most 5 % and the number is above zero; it does not hold where it is below
zero; it is undecided otherwise, and with one seed. A check is exact: it holds where every case agrees.

A sentence holds where all of its parts hold, does not hold where any part does not, and is undecided otherwise.
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
    """A measured number that a sentence says is above zero.

    Attributes:
      what: what is subtracted from what.
      estimate: with the interval for new seeds (and new images, for accuracies); its p is uncorrected.
      beside: the numbers that it is the difference of, as 'trained 0.61, random 0.59'; or why there is no number.
      share: whether it is a difference of shares, shown in points of a percent.
      p: corrected for all numbers of the page; nan where there is no interval.
    """

    what: str
    estimate: stats.Estimate
    beside: str = ""
    share: bool = True
    p: float = math.nan

    @property
    def verdict(self) -> Verdict:
        """What the number says."""
        if not self.p <= 1 - stats.LEVEL:
            return "undecided"
        return "holds" if self.estimate.value > 0 else "does not hold"


@dataclasses.dataclass(frozen=True)
class Check:
    """Cases that were computed, and how many of them agree with a sentence; `shown` stands in place of their number."""

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
    """A sentence of the chapter with what was measured.

    Attributes:
      name: anchor on the page.
      sentence: of the chapter.
      short: the same in a few words, for a table of 80 columns.
      method: how it is measured.
      parts: what was measured.
    """

    name: str
    sentence: str
    short: str
    method: str
    parts: tuple[Part, ...]

    @property
    def verdict(self) -> Verdict:
        """What the parts say together."""
        found = {part.verdict for part in self.parts}
        if "does not hold" in found:
            return "does not hold"
        return "holds" if found == {"holds"} else "undecided"


def corrected(claims: Sequence[Claim]) -> list[Claim]:
    """The claims with the p-values of their numbers corrected for all of them (Holm)."""
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
