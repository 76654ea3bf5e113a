"""launch.py paper: train what a paper trained, and print its table beside ours."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags as absl_flags

from cnn_jax.cli import flags
from cnn_jax.cli.spelling import did_you_mean
from cnn_jax.console import Column, Console, Row, print_table
from cnn_jax.errors import UsageError
from cnn_jax.papers import PAPERS, Compared, Paper, compare
from cnn_jax.records import store
from cnn_jax.stats import Estimate

USAGE = """python launch.py paper NAME [--quick] [--flags of a sweep]

Train what a paper trained, as its recipe says, and print the published table beside ours, with intervals.

agrees: the interval of the difference, corrected for all rows, is within the paper's margin.
differs: it is not, and excludes 0.
"""


def paper(words: Sequence[str]) -> int:
    """Train what a paper trained, and print its table beside ours."""
    from cnn_jax import cli

    values = absl_flags.FlagValues()
    flags.define_sweep_flags(values)
    absl_flags.DEFINE_boolean("quick", False, "fewer seeds and epochs: minutes", flag_values=values)
    named = flags.parse(values, ["paper", *words], USAGE + "\npapers:\n" + _list())
    if len(named) != 1:
        raise UsageError(f"paper: name one of {', '.join(PAPERS)}")
    (name,) = named
    if name not in PAPERS:
        meant = did_you_mean(name, list(PAPERS))
        raise UsageError(f"unknown paper {name!r}: {meant}{'One' if meant else 'one'} of {', '.join(PAPERS)}")
    one = PAPERS[name]
    given = [word for word in words if word not in (name, "--quick", "--quick=true")]
    defaults = {"seeds": str(one.seeds), "out": f"runs/paper-{name}"} | (dict(one.quick) if values.quick else {})
    added = [f"--{flag}={value}" for flag, value in defaults.items() if values[flag].value is None]
    out = store.folder(values.out or defaults["out"])
    status = cli.launch(["launch.py", "--recipe=" + one.recipe, *added, *given])
    if status in (0, 1) and not values.dry_run:
        _print(one, out, Console())
    return status


def _list() -> str:
    return "\n".join(f"  {name}: {one.title}, {one.source}" for name, one in PAPERS.items())


def _print(one: Paper, out: Path, console: Console) -> None:
    records = store.read(out)
    rows = [_row(found) for found in compare(one, out, records)]
    console.print(f"\n{one.title}\n{one.source}", highlight=False, markup=False)
    columns = [Column("row", left=True), Column("published"), Column("ours"), Column("seeds", optional=True)]
    print_table(console, [*columns, Column("difference"), Column("verdict", left=True)], rows)
    notes = f"Points of accuracy in percent. Agreement: within {100 * one.margin:g} points. Intervals speak of new seeds."
    console.print(f"{notes} {one.note}", highlight=False, markup=False)


def _row(found: Compared) -> Row:
    published = found.row.published
    theirs = f"{100 * published.value:.2f}" + (f" ± {100 * published.sd:.2f}" if published.sd is not None else "")
    ours, difference = _percent(found.ours), _percent(found.difference, signed=True)
    return Row([found.row.label, theirs, ours, str(found.ours.n), difference, found.verdict])


def _percent(found: Estimate, *, signed: bool = False) -> str:
    if not found.n:
        return "–"
    sign = "+" if signed else ""
    text = f"{100 * found.value:{sign}.2f}"
    low, high = (100 * bound if signed else min(100.0, max(0.0, 100 * bound)) for bound in (found.low, found.high))
    return f"{text} ({low:{sign}.2f} to {high:{sign}.2f})" if found.known else text
