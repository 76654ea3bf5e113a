"""launch.py paper: train the networks of a paper, and print its table beside the measured one."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl import flags as absl_flags

from cnn_jax.cli import flags
from cnn_jax.cli.spelling import did_you_mean
from cnn_jax.console import Column, Console, Row, print_table
from cnn_jax.errors import UsageError
from cnn_jax.papers import PAPERS, Above, Compared, Paper, compare
from cnn_jax.records import store
from cnn_jax.stats import Estimate

USAGE = """python launch.py paper NAME [--quick] [--flags of a sweep]

Train the networks of a paper by its recipe, and print the published table beside the measured one, with intervals.

agrees: the interval of the difference, corrected for all rows, is within the paper's margin.
differs: it is not, and excludes 0. Of a claim without a number: the interval is above, or below.
"""


def paper(words: Sequence[str]) -> int:
    """Train the networks of a paper, and print its table beside the measured one."""
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
    rows = [_row(found, one) for found in compare(one, out, records)]
    console.print(f"\n{one.title}\n{one.source}", highlight=False, markup=False)
    columns = [Column("row", left=True), Column("published"), Column("ours"), Column("seeds", optional=True)]
    columns += [Column("difference"), Column("margin", optional=True), Column("verdict", left=True)]
    print_table(console, columns, rows)
    shares = "Accuracies are in percent. " if any(row.share for row in one.rows) else ""
    notes = f"{shares}Agreement: within the margin. Intervals refer to new seeds."
    console.print(f"{notes} {one.note}", highlight=False, markup=False)


def _row(found: Compared, one: Paper) -> Row:
    row, published = found.row, found.row.published
    scale, digits = (100.0, 2) if row.share else (1.0, 3)

    def number(value: float, sign: str = "-") -> str:
        return f"{scale * value:{sign}.{digits}f}"

    def estimate(e: Estimate, sign: str = "-") -> str:
        if not e.n:
            return "–"
        return number(e.value, sign) + (f" ({number(e.low, sign)} to {number(e.high, sign)})" if e.known else "")

    if isinstance(published, Above):
        theirs, margin = f"above {scale * published.bound:g}", ""
    else:
        theirs = number(published.value) + (f" ± {number(published.sd)}" if published.sd is not None else "")
        margin = f"{scale * (one.margin if row.margin is None else row.margin):g}"
    ours = found.ours
    if row.share and ours.known and not isinstance(published, Above):  # what is claimed is a difference
        ours = dataclasses.replace(ours, low=max(0.0, ours.low), high=min(1.0, ours.high))
    return Row([row.label, theirs, estimate(ours), str(ours.n), estimate(found.difference, "+"), margin, found.verdict])
