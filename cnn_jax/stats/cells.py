"""Cells and factors: the design of a list of records. A cell is a trial's configuration without its seed."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence

import numpy as np

from cnn_jax.aliases import JsonObject, Value
from cnn_jax.nn import ACTIVATIONS, PADDINGS
from cnn_jax.trial import OPTIMIZERS, DataConfig, ModelConfig, TrainConfig, added_defaults

Record = JsonObject  # one trial's record, as `store.read` returns it
Level = Value  # a value of a factor: int, float, str, None (the model's default) or a stack (16, 32)


def flat(config: JsonObject) -> dict[str, Level]:
    """A trial's configuration by the names of flags, without its seed; options of the model by their own names.

    A stack of one becomes its only entry, [3] -> 3, as on the command line.
    """
    out = {"model": config["model"]["name"]}
    for section in ("model", "data", "train"):
        # A section that the caller does not need is empty.
        for key, value in ((_ADDED[section] if config[section] else {}) | config[section]).items():
            if key == "options":
                out |= {name: _level(v) for name, v in value}
            elif key != "name":
                out[key] = _level(value)
    return out


# Fields that a configuration leaves out at their defaults, by section.
_ADDED = {
    section: added_defaults(part) for section, part in (("model", ModelConfig), ("data", DataConfig), ("train", TrainConfig))
}


def _level(value: Value) -> Level:
    if isinstance(value, (list, tuple)):
        return value[0] if len(value) == 1 else tuple(value)
    return value


def text(level: Level) -> str:
    """A level as the command line spells it: (16, 32) -> '16-32', None -> 'default'."""
    if level is None:
        return "default"
    if isinstance(level, tuple):
        return "-".join(map(str, level))
    return f"{level:g}" if isinstance(level, float) else str(level)


def numeric(levels: Iterable[Level]) -> bool:
    """Whether levels are ordered: numbers, or stacks of numbers."""
    return all(isinstance(x, (int, float)) for level in levels for x in (level if isinstance(level, tuple) else (level,)))


def compared_on(records: Iterable[Record]) -> str:
    """The metric to compare runs on: validation accuracy, or test accuracy if some finished run has no validation images."""
    done = [r for r in records if r["status"] == "done"]
    return "val_accuracy" if done and all(r["val_accuracy"] is not None for r in done) else "test_accuracy"


def one_image(record: Record, metric: str) -> float:
    """The step between two accuracies that a run can have: one image of the set that `metric` is measured on."""
    images = record["data"]["validation"] if metric == "val_accuracy" else record["test_examples"]
    return 1 / images if images else 0.0


_WORDS = {word: place for place, word in enumerate((*PADDINGS, *ACTIVATIONS, *OPTIMIZERS))}


def _in_order(levels: Sequence[Level]) -> tuple[Level, ...]:
    """Sort key: numbers by size, words in the order of the vocabulary, so that 'valid' is the baseline of the paddings."""
    unique = list(dict.fromkeys(levels))
    if numeric(unique):
        return tuple(sorted(unique, key=lambda v: v if isinstance(v, tuple) else (v,)))
    return tuple(sorted(unique, key=lambda v: (_WORDS.get(text(v), len(_WORDS)), text(v))))


@dataclasses.dataclass(frozen=True)
class Cell:
    """The runs that share one configuration and differ by seed. `levels` holds the design's factors only."""

    levels: dict[str, Level]
    records: tuple[Record, ...]

    @property
    def label(self) -> str:
        """The cell's levels, readable: 'filters=32 padding=same'."""
        return " ".join(f"{k}={text(v)}" for k, v in self.levels.items()) or text(self.config["model"]["name"])

    @property
    def config(self) -> JsonObject:
        """The configuration without its seed."""
        return {k: v for k, v in self.records[0]["config"].items() if k != "seed"}

    @functools.cached_property
    def done(self) -> tuple[Record, ...]:
        """The runs that finished."""
        return tuple(r for r in self.records if r["status"] == "done")

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds, including those of failed runs."""
        return tuple(sorted(r["config"]["seed"] for r in self.records))

    def count(self, status: str) -> int:
        """Number of runs with this status: done, diverged or failed."""
        return sum(r["status"] == status for r in self.records)

    def runs(self, metric: str) -> tuple[Record, ...]:
        """The finished runs that have the metric, in order of split and seed."""
        return tuple(r for r in sorted(self.done, key=place) if r.get(metric) is not None)

    def values(self, metric: str) -> np.ndarray:
        """(n,) the metric of `runs`, in their order."""
        return np.array([r[metric] for r in self.runs(metric)], dtype=float)

    def mean(self, metric: str) -> float:
        """Mean of the metric over the runs that have it; nan without any."""
        values = self.values(metric)
        return float(values.mean()) if values.size else float("nan")

    def fact(self, name: str) -> Value:
        """A recorded value that all runs of a cell share: params, macs or receptive_field; None if no run has it."""
        return next((r[name] for r in self.records if r.get(name) is not None), None)


@dataclasses.dataclass(frozen=True)
class Design:
    """The cells of a sweep and its factors.

    Attributes:
        cells: In order of appearance.
        factors: Entries of the configuration that differ between cells, each with its levels in order.
        aliases: Entry that another factor determines (epochs that follow from the data set) -> that factor: their effects
            cannot be told apart, and the report says so.
        fixed: Entries that all cells share.
        splits: The seeds of the validation splits. Splits are blocks: cells are compared within them.
    """

    cells: tuple[Cell, ...]
    factors: dict[str, tuple[Level, ...]]
    aliases: dict[str, str]
    fixed: dict[str, Level]
    splits: tuple[int, ...]

    @property
    def iso(self) -> str | None:
        """'params' or 'macs' if the filters were solved for equal cost of all cells."""
        found = self.fixed.get("iso")
        return found if found in ("params", "macs") else None


def key(config: JsonObject) -> str:
    """Key of a cell: the configuration without the seeds of the run and of the split."""
    data = {k: v for k, v in config["data"].items() if k != "split_seed"}
    return json.dumps({k: v for k, v in config.items() if k != "seed"} | {"data": data}, sort_keys=True)


def place(record: Record) -> tuple[int, int]:
    """The split and the seed of a run: its place within its cell."""
    return record["config"]["data"]["split_seed"], record["config"]["seed"]


def design(records: Sequence[Record]) -> Design:
    """Group records into cells, in order of appearance, and find the factors: entries with more than one value."""
    runs: dict[str, list[Record]] = {}
    for record in records:
        runs.setdefault(key(record["config"]), []).append(record)
    defaults = option_defaults(records)
    configs = [defaults.get(group[0]["config"]["model"]["name"], {}) | _levels(group[0]["config"]) for group in runs.values()]
    names = sorted(dict.fromkeys(name for config in configs for name in config), key=_place_of_name)
    return crossing(
        [({name: config.get(name) for name in names}, group) for config, group in zip(configs, runs.values(), strict=True)]
    )


def crossing(groups: Sequence[tuple[dict[str, Level], Sequence[Record]]]) -> Design:
    """Build the design of cells from their levels, with the same names in the same order, and their runs."""
    configs = [config for config, _ in groups]
    names = list(dict.fromkeys(name for config in configs for name in config))
    columns = {name: [config.get(name) for config in configs] for name in names}
    varied = {name: column for name, column in columns.items() if len(set(column)) > 1}
    aliases: dict[str, str] = {}
    for name, column in reversed(varied.items()):
        for other, finer in varied.items():
            determines = len(set(zip(finer, column, strict=True))) == len(set(finer))
            # Numbers drawn at random differ in every cell, so each would determine all other entries.
            by_chance = len(set(finer)) == len(configs) and numeric(finer)
            if other != name and other not in aliases and determines and not by_chance:
                aliases[name] = other
                break
    factors = {name: _in_order(column) for name, column in varied.items() if name not in aliases}
    cells = tuple(Cell({name: config.get(name) for name in factors}, tuple(group)) for config, group in groups)
    fixed = {name: column[0] for name, column in columns.items() if name not in varied}
    return Design(cells, factors, aliases, fixed, tuple(sorted({place(r)[0] for _, group in groups for r in group})))


def option_defaults(records: Iterable[Record]) -> dict[str, dict[str, Level]]:
    """Defaults of models' options that some records set and others leave out, by model and option."""
    known: dict[str, dict[str, Level]] = {}
    given: dict[str, set[str]] = {}
    for record in records:
        model = record["config"]["model"]
        known.setdefault(model["name"], {}).update(record.get("model_defaults") or {})
        given.setdefault(model["name"], set()).update(name for name, _ in model["options"])
    return {model: {name: value for name, value in known[model].items() if name in given[model]} for model in known}


_ORDER = [field.name for part in (ModelConfig, DataConfig, TrainConfig) for field in dataclasses.fields(part)]


def _place_of_name(name: str) -> int:
    """The model first, then its settings, those of the data and of training; options that only one model has come last."""
    return -1 if name == "model" else _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _levels(config: JsonObject) -> dict[str, Level]:
    """A cell's levels. Filters solved for equal cost are replaced by the filters that they were solved from."""
    out = flat(config)
    del out["split_seed"]
    if out.get("iso"):
        out["iso"], _, reference = out["iso"].partition("@")
        if reference:
            out["filters"] = _level([int(part) for part in reference.split("-")])
    return out


def datasets(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by data set: accuracies on different images are not compared."""
    out: dict[str, list[Record]] = {}
    for record in records:
        out.setdefault(record["config"]["data"]["dataset"], []).append(record)
    return out
