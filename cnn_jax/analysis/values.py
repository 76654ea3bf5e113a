"""Measured values, and measures.csv: a row per trial, layer and measure. No JAX."""

import csv
import dataclasses
import io
import math
import os
from collections.abc import Collection, Iterable, Sequence

from cnn_jax import stats
from cnn_jax.records import files, store

FILE = "inspect/measures.csv"  # in the folder of a sweep
MAX_BYTES = 2**28  # limit on the file


@dataclasses.dataclass(frozen=True)
class Value:
    """One measured value: `name` is given by the measure, `layer` is a layer or another key such as 'shift 1'.

    `epoch`: epoch of a snapshot; None: the evaluated parameters.
    """

    trial: str
    name: str
    layer: str
    value: float
    epoch: int | None = None


def to_csv(records: Sequence[stats.Record], values: Iterable[Value]) -> str:
    """Format measures.csv: each value with its trial's seed and factor levels, and its epoch if any."""
    design = stats.design(records)
    names = (*design.factors, *design.aliases)
    settings = {}
    for record in records:
        config = stats.flat(record["config"])
        levels = {name: stats.text(config.get(name)) for name in names}
        settings[record["trial"]] = {"trial": record["trial"], "seed": record["config"]["seed"]} | levels
    out = io.StringIO()
    values = list(values)
    of_epochs = any(v.epoch is not None for v in values)
    columns = ["trial", "seed", *names, *(["epoch"] if of_epochs else []), "layer", "measure", "value"]
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for v in values:
        row = settings[v.trial] | {"layer": v.layer, "measure": v.name, "value": v.value}
        writer.writerow(row | ({"epoch": v.epoch} if of_epochs else {}))
    return out.getvalue()


def read(dir: str | os.PathLike, trials: Collection[str]) -> list[Value]:
    """Read the values that `launch.py measure` wrote for some trials, in the order of the file.

    Empty without a readable file. The file is untrusted: malformed rows are skipped.
    """
    try:
        text = files.read_file(store.folder(dir) / FILE, MAX_BYTES).decode(errors="replace")
        rows = csv.DictReader(io.StringIO(text, newline=""))
        return [value for row in rows if (value := _value(row)) is not None and value.trial in trials]
    except (OSError, csv.Error):
        return []


def _value(row: dict[str, str]) -> Value | None:
    try:
        trial, name, layer, number = row["trial"], row["measure"], row["layer"], float(row["value"])
    except (KeyError, TypeError, ValueError):
        return None
    named = all(isinstance(text, str) and len(text) <= 200 for text in (trial, name, layer))
    return Value(trial, name, layer, number) if named and math.isfinite(number) else None
