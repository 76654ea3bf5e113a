"""Tables, plots and one HTML file, from recorded results only. Everything here reads files; nothing imports JAX."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cnn_jax import console as _console
from cnn_jax import stats, store
from cnn_jax.config import Trial
from cnn_jax.report import comparison, pictures, table, tensorboard
from cnn_jax.report import html as _html
from cnn_jax.report import terminal as _terminal
from cnn_jax.report.notebook import Page as Page


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What the folders of one or more sweeps hold, each trial once."""

    records: list[stats.Record]
    plan: list[Trial]
    commands: list[dict[str, Any]]
    damaged: list[str]
    images: dict[str, pictures.Images] = dataclasses.field(default_factory=dict)  # by checksum of the data set

    @property
    def missing(self) -> list[Trial]:
        """Planned trials without a record."""
        known = {r["trial"] for r in self.records}
        return [t for t in self.plan if t.id not in known]


def load(dirs: Sequence[str | Path]) -> Sweep:
    """Reads folders that `store` wrote. A trial in several of them counts once, finished rather than failed.

    Raises UsageError naming a folder that holds no sweep.
    """
    records: dict[str, stats.Record] = {}
    for record in (r for d in dirs for r in store.read(d)):
        if record["trial"] not in records or records[record["trial"]]["status"] != "done":
            records[record["trial"]] = record
    plan = {t.id: t for d in dirs for t in store.plan(d)}
    return Sweep(
        list(records.values()),
        list(plan.values()),
        [command for d in dirs for command in store.commands(d)],
        [f"{d}/records/{line}" for d in map(str, dirs) for line in store.damaged(d)],
        pictures.load(dirs, records.values()),
    )


def write_results(dir: str | Path) -> Path:
    """Writes DIR/results.csv alone, a row per trial, and returns its path: cheap enough for the end of every sweep."""
    return _replace(store.folder(dir) / "results.csv", table.results_csv(store.read(dir)))


def write(dir: str | Path) -> Path:
    """Writes DIR/results.csv, results.parquet if pyarrow is installed, and report.html; returns the last one's path."""
    return merge([dir], dir)


def merge(dirs: Sequence[str | Path], out: str | Path) -> Path:
    """Writes the results and the report of several sweeps together into `out`, and returns the report's path."""
    sweep = load(dirs)
    folder = store.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "results.csv", table.results_csv(sweep.records))
    if parquet := table.results_parquet(sweep.records):
        _replace(folder / "results.parquet", parquet)
    return _replace(folder / "report.html", _html.page(sweep, stats.analyse(sweep.records)))


def terminal(dirs: Sequence[str | Path], console: Console | None = None) -> None:
    """Prints the answer of one or more sweeps and a table of the cells: mean, spread, n; one screen."""
    sweep = load(dirs)
    _terminal.show(stats.analyse(sweep.records), len(sweep.missing), console or _console.Console())


def compare(a: str | Path, b: str | Path, console: Console | None = None) -> None:
    """Prints two sweeps cell by cell, b minus a with intervals. Raises UsageError if they share no cell."""
    comparison.show(store.read(a), store.read(b), console or _console.Console())


def write_tensorboard(dir: str | Path) -> Path:
    """Writes every trial's learning curve as TensorBoard event files under DIR/tensorboard, and returns that folder."""
    out = store.folder(dir) / "tensorboard"
    tensorboard.write(store.read(dir), out)
    return out


def _replace(path: Path, content: str | bytes) -> Path:
    # A path that is not UTF-8 stands in it with escapes.
    store.replace(path, content.encode(errors="backslashreplace") if isinstance(content, str) else content)
    return path
