"""Parsers of values on the command line: from the text of one value to the value, or a ValueError with the legal values."""

import math
import re
from collections.abc import Callable, Iterable
from decimal import Decimal

import numpy as np

from cnn_jax.aliases import Value
from cnn_jax.recipes.names import is_attribute

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?::(log)?({_NUMBER}))?")
MOST_VALUES = 1000  # of a range


def expand(text: str) -> list[str]:
    """The values of a range as text: '1..5' -> 1 to 5, '1..9:4' -> 1, 5, 9, '8..64:log2' -> 8, 16, 32, 64; else the text.

    Numbers are decimal, so that '0..0.3:0.1' ends with 0.3.

    Raises:
      ValueError: a range that ends before it starts, has no step forward, or too many values.
    """
    match = _RANGE.fullmatch(text)
    if match is None:
        return [text]
    low, high, step = Decimal(match[1]), Decimal(match[2]), Decimal(match[4] or 1)
    if low > high or (low <= 0 or step <= 1 if match[3] else step <= 0):
        raise ValueError("a range LOW..HIGH, LOW..HIGH:STEP or LOW..HIGH:logBASE, as 1..5, 0..0.5:0.1 or 8..64:log2")
    values = []
    while low <= high:
        values.append(f"{low.normalize():f}")
        low = low * step if match[3] else low + step
        if len(values) > MOST_VALUES:
            raise ValueError(f"a range of at most {MOST_VALUES} values")
    return values


def positive_int(text: str) -> int:
    """'32' -> 32."""
    if not text.isascii() or not text.isdigit() or int(text) < 1 or len(text) > 9:
        raise ValueError("an integer of at least 1")
    return int(text)


def non_negative_int(text: str) -> int:
    """'0' -> 0."""
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValueError("an integer of at least 0")
    return int(text)


def stack(text: str) -> tuple[int, ...]:
    """'32' -> (32,), '16-32' -> (16, 32): a value per conv block."""
    try:
        return tuple(positive_int(part) for part in text.split("-"))
    except ValueError:
        raise ValueError("integers of at least 1, a stack of layers joined by '-' as in 16-32") from None


def number(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A parser of finite numbers in [low, high), or in (low, high) if `above`."""
    bounds = _bounds(low, high, above)

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(bounds) from None
        if not (low < value if above else low <= value) or not value < high or not math.isfinite(value):
            raise ValueError(bounds)
        return value

    return parse


def float32(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A parser as `number`, of values that compiled programs hold in float32: rounding must keep them in the interval.

    Values below float32's smallest normal number, 1.2e-38, are illegal except 0: XLA flushes them to 0.
    """
    parse_number, limits = number(low, high, above=above), np.finfo(np.float32)

    def parse(text: str) -> float:
        value = parse_number(text)
        with np.errstate(over="ignore", under="ignore"):
            rounded = float(np.float32(value))
        if (value and abs(rounded) < limits.tiny) or not rounded < high or not math.isfinite(rounded):
            raise ValueError(f"{_bounds(low, high, above)} in float32, whose range is {limits.tiny:.2g} to {limits.max:.2g}")
        return value

    return parse


def _bounds(low: float, high: float, above: bool) -> str:
    """'a number above 0 and below 1'."""
    return f"a number {'above' if above else 'of at least'} {low:g}" + ("" if math.isinf(high) else f" and below {high:g}")


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """A parser of the given names."""
    legal = tuple(names)

    def parse(text: str) -> str:
        if text not in legal:
            raise ValueError(f"one of {', '.join(legal)}")
        return text

    return parse


def optional(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """A parser of 'none' (None), or of what `parse` reads."""

    def parse_optional(text: str) -> Value:
        if text == "none":
            return None
        try:
            return parse(text)
        except ValueError as error:
            raise ValueError(f"none, or {error}") from None

    return parse_optional


def attributes(text: str) -> tuple[str, ...]:
    """'a.b:c+a.b:d' -> ('a.b:c', 'a.b:d'), 'none' -> ()."""
    names = () if text == "none" else tuple(text.split("+"))
    if not all(map(is_attribute, names)):
        raise ValueError("none, or package.module:attribute joined by '+'")
    return names


def word(text: str) -> str:
    """A name: nonempty text, resolved and checked later."""
    if not text:
        raise ValueError("a name")
    return text


def scalar(text: str) -> int | float | str:
    """'3' -> 3, '0.5' -> 0.5, 'A' -> 'A': the value of a model's own option."""
    for convert in (int, float):
        try:
            value = convert(text)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    return word(text)
