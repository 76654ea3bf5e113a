"""Numbers in words: the same in the terminal and in the page."""

import dataclasses
import math
from collections.abc import Sequence

from cnn_jax.stats import Analysis, Cell, Estimate, Metric

# States of runs that did not finish; the last two only in results of other tools.
UNFINISHED = ("diverged", "failed", "pruned", "running")


def percent(value: float) -> str:
    """0.98153 -> '98.15 %'; a dash if unknown."""
    return f"{100 * value:.2f} %" if math.isfinite(value) else "–"


def points(value: float) -> str:
    """A difference of accuracies in percentage points, signed: 0.012 -> '+1.20'."""
    return f"{100 * value:+.2f}".replace("-", "−") if math.isfinite(value) else "–"


def spread(value: float) -> str:
    """A standard deviation in percentage points, unsigned."""
    return f"{100 * value:.2f}" if math.isfinite(value) else "–"


@dataclasses.dataclass(frozen=True)
class Units:
    """Format of the values of a metric: accuracies in percent and points, plain numbers with their significant digits.

    Attributes:
        measured: The metric.
        decimals: Of a plain number.
    """

    measured: Metric
    decimals: int = 2

    @property
    def noun(self) -> str:
        """'validation accuracy'."""
        return self.measured.noun

    @property
    def points(self) -> str:
        """Unit after a difference: ' points', or ''."""
        return " points" if self.measured.share else ""

    @property
    def axis(self) -> str:
        """The title of an axis: 'validation accuracy, %'."""
        return f"{self.noun}, %" if self.measured.share else self.noun

    def number(self, value: float) -> str:
        """A value without its unit: '98.15', '0.1234'; a dash if unknown."""
        if not math.isfinite(value):
            return "–"
        if self.measured.share:
            return f"{100 * value:.2f}"
        value = 0.0 if round(value, self.decimals) == 0 and self.decimals <= 6 else value  # no minus before a zero
        small = value and abs(value) < 10 ** (3 - self.decimals) and self.decimals > 6
        return (f"{value:.3g}" if small or abs(value) >= 1e9 else f"{value:,.{self.decimals}f}").replace("-", "−")

    def value(self, value: float) -> str:
        """'98.15 %', '0.1234'."""
        return f"{self.number(value)} %" if self.measured.share and math.isfinite(value) else self.number(value)

    def difference(self, value: float) -> str:
        """A signed difference: '+1.20', '−0.0310'."""
        return f"+{self.number(value)}" if math.isfinite(value) and value >= 0 else self.number(value).replace("-", "−")

    def spread(self, value: float) -> str:
        """A standard deviation or a size of a difference, unsigned."""
        return self.number(value)

    def interval(self, e: Estimate) -> str:
        """'98.15 % (97.90 to 98.40)', or the reason why there is no interval."""
        if not e.known:
            return f"{self.value(e.value)} (one run: no interval)" if e.n == 1 else self.value(e.value)
        return f"{self.value(e.value)} ({self.number(e.low)} to {self.number(e.high)})"

    def tick(self, value: float) -> str:
        """A value as a tick of an axis: 0.9815 -> '98.15'."""
        return f"{100 * value:.4g}" if self.measured.share else f"{value:.6g}".replace("-", "−")

    def difference_tick(self, value: float) -> str:
        """A difference as a tick: '−0.5', '0', '+0.5'."""
        return "0" if not value else ("+" if value > 0 else "") + self.tick(value).replace("-", "−")


def units(analysis: Analysis) -> Units:
    """The units of a sweep's metric; plain numbers have two digits of their spread between runs, or three of their range."""
    if analysis.measured.share or not analysis.cells:
        return Units(analysis.measured)
    values = [float(v) for c in analysis.cells for v in c.values(analysis.metric)]
    fine = analysis.sd if analysis.sd > analysis.resolution else (max(values) - min(values)) / 100
    fine = max(fine, abs(max(values, key=abs)) * 1e-12)
    return Units(analysis.measured, min(12, max(0, 1 - math.floor(math.log10(fine)))) if fine > 0 else 2)


def count(n: int, noun: str) -> str:
    """'1 seed', '2 seeds'."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def join(names: Sequence[str], word: str = "and") -> str:
    """'a', 'a and b', 'a, b and c'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def level(factor: str, name: str) -> str:
    """A factor's level in a sentence: ('kernel_size', '5') -> '5x5', ('padding', 'same') -> 'padding same'."""
    if factor == "kernel_size" and name.isdecimal():
        return f"{name}x{name}"
    return f"{name} {factor}" if factor in ("filters", "epochs") else f"{factor} {name}"


def seeds(analysis: Analysis, cell: Cell) -> str:
    """'3 seeds'; with several splits '9 runs'."""
    runs = len(cell.values(analysis.metric))
    plain = len(analysis.design.splits) == 1 and analysis.measured.of_images
    return count(runs, "seed" if plain else "run")


def extent(low: int, high: int) -> str:
    """'3', or '6 to 28'."""
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def short(value: float) -> str:
    """A count in few characters: 54410 -> '54k', 1234567 -> '1.2M'."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def p_value(p: float) -> str:
    """A p-value to three decimals; a dash if nothing could be tested."""
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
