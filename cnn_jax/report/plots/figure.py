"""A picture: SVGs under a title, with the rows behind them; and the format of cells and numbers in all of them."""

import dataclasses
from collections.abc import Sequence

from cnn_jax import stats
from cnn_jax.aliases import JsonObject
from cnn_jax.report import svg

DOTS_WITH_TITLES = 600  # more are drawn as one path
Row = JsonObject


@dataclasses.dataclass(frozen=True)
class Figure:
    """Pictures under one title. `rows` is the data behind them; `note` explains them."""

    name: str
    title: str
    note: str
    pictures: list[str]
    rows: list[Row]
    size: str = ""  # class of the container: "" for panels side by side, "wide", "small"
    legend: str = ""  # markup between the note and the pictures


def percent(value: float) -> str:
    """A fraction of 1 as a tick: 0.9815 -> '98.15'."""
    return f"{100 * value:.4g}"


def in_heat(opacity: float) -> str:
    """The class of a number in a blue square: white where that is read better on paper."""
    return "in-heat dark" if opacity > 0.85 else "in-heat"


def colour(i: int) -> str:
    """The class of the i-th colour, cyclic."""
    return f"c{i % svg.COLOURS}"


def levels_of(cell: stats.Cell) -> Row:
    """A cell's levels as columns of a CSV."""
    return {name: stats.text(level) for name, level in cell.levels.items()}


def within(e: stats.Estimate, measured: stats.Metric) -> stats.Estimate:
    """An estimate with its interval cut to 0 and 1 if it is of an accuracy."""
    return dataclasses.replace(e, low=max(0.0, e.low), high=min(1.0, e.high)) if e.known and measured.share else e


def run_title(cell: stats.Cell, record: stats.Record, value: str) -> str:
    """Tooltip of the mark of one run: cell, seed, value, trial."""
    return f"{cell.label}, seed {record['config']['seed']}: {value} (trial {record['trial']})"


def level_ticks(names: Sequence[str], xs: Sequence[float], y: float, room: int = 46) -> tuple[list[str], float]:
    """Names of levels below their places along x, and by how much the picture must grow for them.

    Names that do not fit side by side, in `room` characters, are rotated, so that none is cut.
    """
    longest = max(map(len, names), default=0)
    if longest * len(names) <= room:
        return [svg.text(x, y, name, anchor="middle", class_="tick strong") for x, name in zip(xs, names, strict=True)], 0.0
    shown = [clip(name, 28) for name in names]
    turned = [
        svg.text(x + 4, y - 8, name, anchor="end", class_="tick strong", transform=f"rotate(-90 {x + 4:.6g} {y - 8:.6g})")
        for x, name in zip(xs, shown, strict=True)
    ]
    return turned, 6.8 * max(map(len, shown)) - 10


def clip(name: str, room: int) -> str:
    """The last `room` characters of a name: cells more often differ at the end."""
    return name if len(name) <= room else "…" + name[-room + 1 :]
