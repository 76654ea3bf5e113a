"""Numbers in words: the same in the terminal and in the page."""

import math
from collections.abc import Sequence

from cnn_jax.stats import Analysis, Cell, Estimate

METRICS = {"val_accuracy": "validation accuracy", "test_accuracy": "test accuracy"}


def percent(value: float) -> str:
    """0.98153 -> '98.15 %'; a dash for what is not known."""
    return f"{100 * value:.2f} %" if math.isfinite(value) else "–"


def points(value: float) -> str:
    """A difference of accuracies in percentage points, signed: 0.012 -> '+1.20'."""
    return f"{100 * value:+.2f}".replace("-", "−") if math.isfinite(value) else "–"


def spread(value: float) -> str:
    """A standard deviation in percentage points, unsigned."""
    return f"{100 * value:.2f}" if math.isfinite(value) else "–"


def interval(e: Estimate) -> str:
    """'98.15 % (97.90 to 98.40)', or why there is no interval."""
    if not e.known:
        return f"{percent(e.value)} (one run: no interval)" if e.n == 1 else percent(e.value)
    return f"{percent(e.value)} ({100 * e.low:.2f} to {100 * e.high:.2f})"


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
    return count(runs, "run" if len(analysis.design.splits) > 1 else "seed")


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
    """A p-value to three decimals; a dash where nothing could be tested."""
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
