"""Roles of the columns of a table, by the naming conventions of the tool that wrote it."""

import ast
import dataclasses
import json
import math
import re
from collections.abc import Sequence
from typing import Literal

from cnn_jax.aliases import JsonObject
from cnn_jax.imports.tables import Table, as_text

Role = Literal["parameter", "metric", "status", "name", "bookkeeping", "unknown"]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: its name in the file, its name without the tool's prefix, and its role."""

    name: str
    short: str
    role: Role


@dataclasses.dataclass(frozen=True)
class Export:
    """A table with the roles of its columns.

    Attributes:
        table: The table; columns of objects are expanded to a column per entry.
        tool: Name of the tool and its export, or 'a table'.
        columns: Columns of `table`, in order.
        notes: Sentences about limitations of the file.
    """

    table: Table
    tool: str
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()

    def of(self, *roles: Role) -> list[Column]:
        """Return the columns with one of the roles."""
        return [column for column in self.columns if column.role in roles]


# Prefixes of parameters and of metrics: trials_dataframe of Optuna, search_runs of MLflow, the results of Ray Tune, W&B.
_PREFIXES: tuple[tuple[str, Role], ...] = (
    ("params_", "parameter"), ("params.", "parameter"), ("params/", "parameter"), ("config/", "parameter"),
    ("config.", "parameter"), ("hparams/", "parameter"), ("hparams.", "parameter"), ("hparam/", "parameter"),
    ("metrics.", "metric"), ("metrics/", "metric"), ("summary.", "metric"), ("user_attrs_", "metric"), ("tags.", "bookkeeping"),
    ("system_attrs_", "bookkeeping"), ("intermediate_values_", "bookkeeping"), ("_wandb", "bookkeeping"),
)  # fmt: skip
_STATUS = ("state", "status")
_NAMES = (
    "name",
    "trial_id",
    "run_id",
    "run id",
    "trial",
    "run",
    "run_name",
    "number",
    "id",
    "experiment_id",
    "trial_name",
    "index",
)
# Columns of trackers other than parameters and metrics.
_BOOKKEEPING = frozenset(
    [
        "notes",
        "user",
        "tags",
        "created",
        "runtime",
        "sweep",
        "group",
        "jobtype",
        "hostname",
        "host",
        "description",
        "commit",
        "github",
        "updated",
        "createdat",
        "heartbeatat",
        "source",
        "username",
        "gpucount",
        "gputype",
        "oscpu",
        "artifact_uri",
        "start_time",
        "end_time",
        "starttime",
        "endtime",
        "duration",
        "source_type",
        "source_name",
        "source_version",
        "models",
        "date",
        "timestamp",
        "checkpoint_dir_name",
        "done",
        "training_iteration",
        "time_this_iter_s",
        "time_total_s",
        "pid",
        "node_ip",
        "time_since_restore",
        "iterations_since_restore",
        "logdir",
        "episodes_total",
        "should_checkpoint",
        "experiment_tag",
        "timesteps_total",
        "warmup_time",
        "datetime_start",
        "datetime_complete",
        "_step",
        "_runtime",
        "_timestamp",
        "step",
        "wall_time",
        "trial_id",
        "show_metrics",
        "run_name",
        "finished",
        "command",
        "device",
        "commit",
        "dirty",
        "jax",
        "reason",
        "data_checksum",
        "images_per_second",
    ]
)
_LENGTHS = ("training_iteration", "_step", "epoch", "step")


def export(table: Table) -> Export:
    """Determine the roles of a table's columns."""
    table, spread = _spread(table)
    known = set(table.columns)
    lower = {name.lower() for name in known}
    if any(name.startswith("params_") for name in known) and {"number", "state"} <= known:
        tool = "Optuna's trials_dataframe"
    elif "run_id" in known and any(name.startswith(("metrics.", "params.")) for name in known):
        tool = "MLflow's search_runs"
    elif {"run id", "start time"} <= lower:
        tool = "MLflow's table of runs"
    elif any(name.startswith("config/") for name in known):
        tool = "a results dataframe of Ray Tune"
    elif spread or ("state" in lower and lower & {"runtime", "sweep", "created"}):
        tool = "an export of W&B"
    else:
        tool = "a table"
    columns = tuple(_column(name, tool) for name in table.columns)
    notes = [*_missing_trials(table), *_unlike_lengths(table)]
    return Export(table, tool, columns, tuple(notes))


def _column(name: str, tool: str) -> Column:
    lower = name.lower()
    for prefix, role in _PREFIXES:
        if lower.startswith(prefix):
            short = name[len(prefix) :] or name
            return Column(name, short, "bookkeeping" if short.startswith("_") else role)
    if tool.startswith("Optuna") and re.fullmatch(r"values?(_.+)?", lower):
        return Column(name, name, "metric")
    plain = lower.replace(" ", "_")
    if lower in _STATUS:
        return Column(name, name, "status")
    if lower in _NAMES:
        return Column(name, name, "name")
    if plain in _BOOKKEEPING or lower.startswith("_") or plain.replace("_", "") in _BOOKKEEPING:
        return Column(name, name, "bookkeeping")
    return Column(name, name, "metric" if tool.startswith("a results") else "unknown")


# ------------------------------------------------------------------------------------------------- W&B: objects in cells


def _spread(table: Table) -> tuple[Table, bool]:
    """Expand the objects in columns `config` and `summary`, written by the export script in W&B's docs, to columns."""
    objects = {name: table.column(name) for name in ("config", "summary") if name in table.columns}
    parsed = {name: [_object(text) for text in texts] for name, texts in objects.items()}
    parsed = {name: found for name, found in parsed.items() if any(found)}
    if not parsed:
        return table, False
    entries = {f"{name}.{key}": None for name, found in parsed.items() for row in found for key in row}
    kept = [name for name in table.columns if name not in parsed]
    rows = []
    for at in range(len(table.rows)):
        values = {f"{name}.{key}": value for name, found in parsed.items() for key, value in found[at].items()}
        old = [table.rows[at][table.columns.index(name)] for name in kept]
        rows.append((*old, *(as_text(values.get(entry)) for entry in entries)))
    return dataclasses.replace(table, columns=(*kept, *entries), rows=tuple(rows)), True


def _object(text: str) -> JsonObject:
    """Parse a Python or JSON dict of plain values, with nested names joined by '.'; {} for other text."""
    if not text.startswith("{") or len(text) > 10**6:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(_Constants().visit(ast.parse(text, mode="eval")))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return {}
    return _flat(found) if isinstance(found, dict) else {}


class _Constants(ast.NodeTransformer):
    """Replace the names nan and inf, as printed by Python."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        numbers = {"nan": math.nan, "inf": math.inf, "NaN": math.nan, "Infinity": math.inf}
        return ast.Constant(numbers[node.id]) if node.id in numbers else node


def _flat(found: JsonObject, prefix: str = "") -> JsonObject:
    out: JsonObject = {}
    for key, value in found.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            out |= _flat(value, f"{name}.")
        else:
            out[name] = value
    return out


# ---------------------------------------------------------------------------------------------- limitations of a file


def _missing_trials(table: Table) -> list[str]:
    """Report gaps in Ray Tune's trial numbers: its dataframe has no row for trials that failed before reporting."""
    if "trial_id" not in table.columns or not any(name.startswith("config/") for name in table.columns):
        return []
    numbers: dict[str, set[int]] = {}
    for text in table.column("trial_id"):
        if found := re.fullmatch(r"(.+)_(\d{5})", text):
            numbers.setdefault(found[1], set()).add(int(found[2]))
    missing = sum(max(found) + 1 - len(found) for found in numbers.values())
    if not missing:
        return []
    trials = "1 trial is" if missing == 1 else f"{missing} trials are"
    return [f"{trials} missing by the numbers in trial_id: Ray Tune has no row for a trial that failed before reporting."]


def _unlike_lengths(table: Table) -> list[str]:
    """Report trials that a scheduler stopped early: their metrics are not those of complete runs."""
    for name in _LENGTHS:
        if name in table.columns:
            steps = {float(text) for text in table.column(name) if re.fullmatch(r"\d+(\.0)?", text)}
            if len(steps) > 1:
                return [f"Runs have different lengths: {name} is {min(steps):g} to {max(steps):g}. Final values are used."]
    return []


def listed(names: Sequence[str], most: int = 12) -> str:
    """Join names: 'a, b and 3 more'."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
