"""What a picture is: SVGs under a title, with the rows behind them; and how cells and numbers are written in all of them."""

import dataclasses
from typing import Any

from cnn_jax import stats
from cnn_jax.report import svg

DOTS_WITH_TITLES = 600  # more are drawn as one path
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Figure:
    """Pictures under one title. `rows` is the data behind them; `note` says how to read them."""

    name: str
    title: str
    note: str
    pictures: list[str]
    rows: list[Row]
    size: str = ""  # class of the container: "" for panels side by side, "wide", "small"


def percent(value: float) -> str:
    """A fraction of 1 as a tick: 0.9815 -> '98.15'."""
    return f"{100 * value:.4g}"


def colour(i: int) -> str:
    """The class of the i-th colour, around and around."""
    return f"c{i % svg.COLOURS}"


def levels_of(cell: stats.Cell) -> Row:
    """A cell's levels as columns of a CSV."""
    return {name: stats.text(level) for name, level in cell.levels.items()}


def within(e: stats.Estimate) -> stats.Estimate:
    """An estimate of an accuracy with its interval cut to 0 and 1."""
    return dataclasses.replace(e, low=max(0.0, e.low), high=min(1.0, e.high)) if e.known else e


def seeds(cell: stats.Cell, metric: str) -> list[int]:
    """The seeds of `cell.values(metric)`, in the same order."""
    return [r["config"]["seed"] for r in cell.runs(metric)]


def shorten(name: str, levels: int) -> str:
    """A tick's name, cut so that this many stand side by side in a panel."""
    room = max(3, 46 // max(levels, 1))
    return name if len(name) <= room else name[: room - 1] + "…"


def clip(name: str, room: int) -> str:
    """The last `room` characters of a name: where cells differ is more often at the end."""
    return name if len(name) <= room else "…" + name[-room + 1 :]
