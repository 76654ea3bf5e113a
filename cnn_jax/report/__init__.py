"""Tables, plots and one HTML file, from recorded results only. Everything here reads files; nothing imports JAX."""

from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console

from cnn_jax import console as _console
from cnn_jax import imports
from cnn_jax.program import PROGRAM
from cnn_jax.records import store
from cnn_jax.report import card, chart_files, comparison, imported, joined, pictures, table, tensorboard, words
from cnn_jax.report import html as _html
from cnn_jax.report import terminal as _terminal
from cnn_jax.report.notebook import Page as Page
from cnn_jax.report.sweep import Sweep
from cnn_jax.trial import Trial


def load(dirs: Sequence[str | Path], scope: Collection[Trial] | None = None, *, running: bool = False) -> Sweep:
    """Read folders that `store` wrote. A trial in several of them counts once, a finished one before a failed one.

    Args:
      scope: the trials of the reported command; None: all trials of the folders.
      running: whether that command is still training.

    Raises:
      UsageError: a folder holds no sweep, or the folders hold results of different data under one name.
    """
    records, differing = joined.records([(str(d), store.read(d)) for d in dirs])
    plans = [(d, command, trials) for d in dirs for command, trials in store.plans(d).items()]
    commands = [command for d in dirs for command in store.commands(d)]
    notes = [joined.differing(differing)] if differing else []
    notes += [f"{d}: {sentence}." for d in dirs for sentence in store.later(d)]
    if scope is None:
        known = {r["trial"] for r in records}
        for _, command, trials in plans:
            if missing := sum(t.id not in known for t in trials):
                which = f"of the command {command}" if command else "of an unknown command"
                notes.append(f"{words.count(missing, 'planned trial')} {which} not run yet: rerun it to complete the sweep.")
        plan = list({t.id: t for _, _, trials in plans for t in trials}.values())
    else:
        asked = {t.id: t for t in scope}
        plan = list(asked.values())
        own = {command for _, command, trials in plans if any(t.id in asked for t in trials)}
        commands = [command for command in commands if command["command"] in own]
        if others := sum(r["trial"] not in asked for r in records):
            folder = " ".join(map(str, dirs))
            notes.append(
                f"{folder} also holds {words.count(others, 'trial')} of other commands, which are in results.csv: "
                f"`{PROGRAM} report {folder}` reports on all of them together."
            )
        records = [r for r in records if r["trial"] in asked]
        if running:
            notes.append(
                f"{len(records):,} of {words.count(len(plan), 'trial')} so far: this page is updated while the sweep runs. "
                "With #live at the end of its address it reloads itself."
            )
        elif missing := len(plan) - len(records):
            notes.append(f"{words.count(missing, 'planned trial')} not run yet: rerun the same command to complete the sweep.")
    damaged = [f"{d}/records/{line}" for d in map(str, dirs) for line in store.damaged(d)]
    return Sweep(records, plan, commands, damaged, notes, pictures.load(dirs, records), tuple(map(Path, dirs)), running)


def write_card(dir: str | Path, out: str | Path | None = None) -> Path:
    """Write a sweep's answer as a PNG of 1200 x 630 pixels, by default DIR/card.png, and return its path.

    Of several data sets it shows the first.

    Raises:
      UsageError: the folder holds no sweep.
    """
    sweep = load([dir])
    analysis = sweep.parts[0][1]
    name = sweep.parts[0][0].records[0]["config"]["data"]["dataset"] if sweep.records else ""
    path = store.folder(out) if out is not None else store.folder(dir) / "card.png"
    return _replace(path, card.png(analysis, name))


def write_charts(dirs: Sequence[str | Path], out: str | Path, kinds: Sequence[str]) -> list[Path]:
    """Write every chart of a report into OUT/charts, a file for each of `kinds`: svg, png; return their paths."""
    return chart_files.write(load(dirs), store.folder(out), kinds)


def write_results(dir: str | Path) -> Path:
    """Write DIR/results.csv alone, a row per trial of the folder, and return its path: it takes little time."""
    return _replace(store.folder(dir) / "results.csv", table.results_csv(store.read(dir)))


def write(dir: str | Path, scope: Collection[Trial] | None = None, *, running: bool = False) -> Path:
    """Write DIR/results.csv, results.parquet if pyarrow is installed, and report.html; return the last one's path.

    Args:
      scope: the trials that report.html covers; None: all. The tables always hold every trial of the folder.
      running: whether they are still being trained: the page then states how many are done.
    """
    return merge([dir], dir, scope, running=running)


def merge(
    dirs: Sequence[str | Path], out: str | Path, scope: Collection[Trial] | None = None, *, running: bool = False
) -> Path:
    """Write the tables and the report of several sweeps together into `out`, and return the report's path.

    Args:
      scope, running: as in `write`.
    """
    every = load(dirs)
    sweep = every if scope is None else load(dirs, scope, running=running)
    folder = store.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "results.csv", table.results_csv(every.records))
    if parquet := table.results_parquet(every.records):
        _replace(folder / "results.parquet", parquet)
    return _replace(folder / "report.html", _html.page(sweep))


def terminal(dirs: Sequence[str | Path], console: Console | None = None, scope: Collection[Trial] | None = None) -> None:
    """Print the answer of one or more sweeps and a table of the cells: mean, spread, n; one screen.

    Args:
      scope: the reported trials; None: all.
    """
    sweep, console = load(dirs, scope), console or _console.Console()
    for part, analysis in sweep.parts:
        if len(sweep.parts) > 1:
            console.print(f"\n{part.records[0]['config']['data']['dataset']}", style="bold underline")
        _terminal.show(analysis, console)
    for sentence in sweep.notes:
        console.print(sentence, style="yellow")


def write_imported(results: imports.Results, out: str | Path, console: Console | None = None) -> Path:
    """Write the report on results of other tools into `out`, print its answer, and return the report's path."""
    page = imported.write(results, store.folder(out))
    console = console or _console.Console()
    for sentence in results.said:
        console.print(sentence, style="dim", highlight=False, markup=False)
    for _, analysis in imported.Imported.of(results).parts:
        _terminal.show(analysis, console)
    for sentence in results.notes:
        console.print(sentence, style="yellow", highlight=False, markup=False)
    return page


def compare(a: str | Path, b: str | Path, console: Console | None = None) -> None:
    """Print two sweeps cell by cell, b minus a with intervals, and the mean difference.

    Raises:
      UsageError: they share no cell, or hold results of different data under one name.
    """
    first, second = store.read(a), store.read(b)
    joined.records([(str(a), first), (str(b), second)])
    comparison.show(first, second, console or _console.Console())


def write_tensorboard(dir: str | Path) -> Path:
    """Write every trial's learning curve as TensorBoard event files under DIR/tensorboard, and return that folder.

    Raises:
      UsageError: tensorboardX is not installed.
    """
    tensorboard.check_available()
    out = store.folder(dir) / "tensorboard"
    tensorboard.write(store.read(dir), out)
    return out


def _replace(path: Path, content: str | bytes) -> Path:
    # A path that is not UTF-8 is escaped.
    store.replace(path, content.encode(errors="backslashreplace") if isinstance(content, str) else content)
    return path
