"""Conversion of a table to runs, with levels, seed, status and value."""

import collections
import dataclasses
import math
import re
from pathlib import Path
from typing import Literal

from cnn_jax.errors import UsageError
from cnn_jax.imports import guess, tables, trackers
from cnn_jax.imports.guess import Choice
from cnn_jax.imports.trackers import Export, listed
from cnn_jax.imports.wanted import Wanted

Status = Literal["done", "diverged", "failed", "pruned", "running"]
Level = int | float | str

_STATUSES: dict[str, Status] = {
    **dict.fromkeys(("finished", "complete", "completed", "done", "success", "succeeded", "terminated", "ok"), "done"),
    **dict.fromkeys(("failed", "fail", "crashed", "error", "errored", "killed", "preempted", "cancelled", "timeout"), "failed"),
    **dict.fromkeys(("diverged", "nan"), "diverged"),
    **dict.fromkeys(("pruned", "stopped", "early_stopped"), "pruned"),
    **dict.fromkeys(("running", "waiting", "scheduled", "pending", "queued", "paused"), "running"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """A row of the table.

    Attributes:
        name: Name given by the tool, or else the row number.
        levels: Level of each factor, by the factor's short name.
        seed: Distinguishes the runs of a cell.
        status: Status of the run.
        value: Value of the metric, as a fraction of 1 for shares; None unless it is done.
        reason: Reason if it is not done.
    """

    name: str
    levels: dict[str, Level]
    seed: int
    status: Status
    value: float | None
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Results:
    """The runs of a file and the properties of their metric.

    Attributes:
        path: The file.
        sha256: Checksum of the file.
        tool: Tool that wrote it, inferred from the columns.
        metric: Short name of the metric.
        share: Whether values are fractions of 1.
        lower_is_better: Whether a lower mean is better.
        resolution: Rounding step of the values; 0 if they are not rounded.
        runs: In the order of the rows.
        fixed: Parameters with the same value in all runs.
        said: Sentences about guesses.
        notes: Sentences about problems of the runs.
    """

    path: Path
    sha256: str
    tool: str
    metric: str
    share: bool
    lower_is_better: bool
    resolution: float
    runs: tuple[Run, ...]
    fixed: dict[str, Level]
    said: tuple[str, ...]
    notes: tuple[str, ...]


def load(path: Path, wanted: Wanted) -> Results:
    """Read the runs of a file.

    Raises:
        UsageError: The file cannot be read, a requested column is missing, or no run has a value.
    """
    export = trackers.export(tables.read(path, wanted.study))
    choice = guess.choose(export, wanted)
    texts = export.table.column(choice.metric.name)
    finite = [v for text in texts if (v := guess.number(text)) is not None and math.isfinite(v)]
    if not finite:
        raise UsageError(f"--metric: column {choice.metric.name} of {path} has no numbers")
    said = [f"Read as {export.tool}: {len(texts)} row{'s' if len(texts) > 1 else ''}.", *choice.said]
    divisor = guess.is_share(choice.metric.short, finite)
    if divisor == 100:
        said.append(f"{choice.metric.name}: read as percent, as its values reach {max(finite):g}.")
    runs, unknown = _runs(export, choice, divisor or 1.0)
    if unknown:
        said.append(f"Status {listed(sorted(unknown))}: unknown, counted as failed.")
    runs, notes = _distinct(runs, choice)
    fixed = {
        c.short: level(values[0])
        for c in export.of("parameter") or [c for c in export.of("unknown") if not guess.is_result(c)]
        if len(set(values := export.table.column(c.name))) == 1 and values[0]
    }
    names = [c.short for c in choice.factors]
    if len(set(names)) < len(names):
        raise UsageError(f"--factors: two columns of the file are both {max(names, key=names.count)!r} without their prefix")
    return Results(
        path, export.table.sha256, export.tool, choice.metric.short, divisor is not None, choice.lower_is_better,
        _resolution(texts) / (divisor or 1.0), tuple(runs), fixed, tuple(said), (*export.notes, *notes),
    )  # fmt: skip


def level(text: str) -> Level:
    """Convert a cell to a level of a factor: a number if possible, so that levels are ordered."""
    if re.fullmatch(r"[+-]?\d{1,15}", text):
        return int(text)
    value = guess.number(text)
    if value is None or not math.isfinite(value):
        return text or "(empty)"
    return int(value) if value == round(value) and abs(value) < 1e15 else value


def _runs(export: Export, choice: Choice, divisor: float) -> tuple[list[Run], set[str]]:
    table = export.table
    metric = table.column(choice.metric.name)
    statuses = [table.column(c.name) for c in export.of("status")]
    names = [table.column(c.name) for c in export.of("name")]
    factors = {c.short: [level(text) for text in table.column(c.name)] for c in choice.factors}
    seeds = _seeds(table.column(choice.seed.name)) if choice.seed else None
    unique = next((column for column in names if len(set(column)) == len(column) and not _counts(column)), None)
    out, unknown = [], set()
    taken: collections.Counter[tuple[Level, ...]] = collections.Counter()
    for at, text in enumerate(metric):
        value = guess.number(text)
        words = [column[at].lower().replace(" ", "_") for column in statuses if column[at]]
        found = [_STATUSES.get(word) for word in words]
        unknown |= {word for word, status in zip(words, found, strict=True) if status is None}
        status: Status = next((s or "failed" for s in found if s != "done"), "done")
        reason = None if status == "done" else f"status {words[0]}"
        if status == "done" and value is None:
            status, reason = "failed", f"no value of {choice.metric.name}"
        elif status == "done" and value is not None and not math.isfinite(value):
            status, reason = "diverged", f"{choice.metric.name} is {text.lower()}"
        levels = {name: column[at] for name, column in factors.items()}
        cell = tuple(levels.values())
        seed = seeds[at] if seeds else taken[cell]
        taken[cell] += 1
        done = value / divisor if status == "done" and value is not None else None
        out.append(Run(unique[at] if unique else _name(export, at), levels, seed, status, done, reason))
    return out, unknown


def _name(export: Export, at: int) -> str:
    """Name a run: 'trial 3' if trials are numbered, else by the row of the file."""
    return f"trial {export.table.column('number')[at]}" if "number" in export.table.columns else f"row {at + 2}"


def _counts(column: list[str]) -> bool:
    """Whether names of runs are just row numbers, like pandas' index."""
    return all(text.isdecimal() for text in column)


def _seeds(texts: list[str]) -> list[int]:
    """Convert seeds to integers; text is numbered in order of appearance."""
    levels = [level(text) for text in texts]
    if all(isinstance(one, int) for one in levels):
        return [int(one) for one in levels]
    order = {one: at for at, one in enumerate(dict.fromkeys(levels))}
    return [order[one] for one in levels]


def _distinct(runs: list[Run], choice: Choice) -> tuple[list[Run], list[str]]:
    """Drop finished rows that duplicate a run and its value; count those that duplicate only cell and seed."""
    if choice.seed is None:
        return runs, []
    seen: dict[tuple, set[float]] = collections.defaultdict(set)
    out, copies, repeated = [], 0, 0
    for run in runs:
        if run.value is not None:
            values = seen[(*run.levels.values(), run.seed)]
            if run.value in values:
                copies += 1
                continue
            repeated += bool(values)
            values.add(run.value)
        out.append(run)
    notes = []
    if copies:
        which = "1 row repeats" if copies == 1 else f"{copies} rows repeat"
        notes.append(f"{which} the factors, seed and value of another row: each such run counts once.")
    if repeated:
        which = "1 run shares" if repeated == 1 else f"{repeated} runs share"
        notes.append(
            f"{which} factors and seed with another run and differ{'s' if repeated == 1 else ''} in value: something that is "
            "not among the factors changed; the difference counts as variation between runs."
        )
    return out, notes


def _resolution(texts: list[str]) -> float:
    """Return the rounding step of values with at most six decimals; 0 if any value has more."""
    decimals = 0
    for text in texts:
        if guess.number(text) is None or not math.isfinite(float(text)):
            continue
        plain = re.fullmatch(r"[+-]?\d+(?:\.(\d+))?", text)
        if not plain or len(digits := (plain[1] or "").rstrip("0")) > 6:
            return 0.0
        decimals = max(decimals, len(digits))
    return 10.0**-decimals
