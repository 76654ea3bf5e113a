"""Preflight: networks and costs of a sweep, without JAX and before anything is written. An impossible cell is an error here."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from rich.console import Console

from cnn_jax import data, description, sweep, zoo
from cnn_jax.console import Column, Row, print_table
from cnn_jax.errors import UsageError
from cnn_jax.nn import Description
from cnn_jax.nn.spec import flat
from cnn_jax.recipes import names
from cnn_jax.records import store
from cnn_jax.sweep.equal_cost import match
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial, added_defaults, format_stack

MOST_ROWS = 60  # cells that are listed; the rest are counted


@dataclasses.dataclass(frozen=True)
class Plan:
    """The trials of a sweep with their networks and costs."""

    trials: tuple[Trial, ...]
    info: dict[DataConfig, data.DatasetInfo]
    shapes: dict[tuple[ModelConfig, DataConfig], Description]

    def shape(self, trial: Trial) -> Description:
        """Layers, parameters and MACs of a trial's network."""
        return self.shapes[trial.model, trial.data]

    def training_images(self, trial: Trial) -> int:
        """Images that its network will see in training, over all epochs."""
        return self.info[trial.data].train_examples * trial.train.epochs

    @property
    def units(self) -> list[str]:
        """Libraries of `ops.native` that training calls on CPU; a linen module of a fork may call others."""
        specs = (zoo.spec(model, self.info[config].input_shape, self.info[config].num_classes) for model, config in self.shapes)
        found = {unit for spec in specs if isinstance(spec, tuple) for layer in flat(spec) if (unit := layer.unit)}
        half = {"half"} if any(trial.train.precision == "bfloat16" for trial in self.trials) else set()
        return sorted({"conv"} | found | half)

    def warnings(self) -> list[str]:
        """Sentences of `data.warnings` on the data sets, without repeats. Complete after `data.prepare`."""
        return list(dict.fromkeys(line for config in self.info for line in data.warnings(config)))

    def cost(self, trial: Trial) -> float:
        """Work of a trial in MACs of its forward passes: a rough estimate, used for ordering."""
        return max(self.shape(trial).macs, 1) * self.training_images(trial)

    def lane_bytes(self, trial: Trial) -> int:
        """Bytes that a training step of one trial works on: activations of a batch, parameters and their gradients."""
        shape = self.shape(trial)
        return shape.activation_bytes * trial.train.batch_size + 2 * 4 * shape.params


def preflight(trials: Sequence[Trial]) -> Plan:
    """Check every data set and network of the trials. Raises UsageError for the first invalid one."""
    if not trials:
        raise UsageError("the sweep is empty: give every flag at least one value")
    info = {config: data.info(config) for config in dict.fromkeys(trial.data for trial in trials)}
    pairs = dict.fromkeys((trial.model, trial.data) for trial in trials)
    for train, config in dict.fromkeys((trial.train, trial.data) for trial in trials):
        found = info[config]
        names.check(train, found.input_shape, found.train_examples, found.validation_examples)
    shapes = {(m, d): _describe(m, info[d]) for m, d in pairs}
    return Plan(tuple(trials), info, shapes)


def _describe(model: ModelConfig, info: data.DatasetInfo) -> Description:
    """The network for the data set. An error also says if the images look channels-first, its likely cause."""
    try:
        return description.describe(model, info.input_shape, info.num_classes)
    except UsageError as error:
        raise UsageError("; ".join([_with_flags(str(error)), *data.warn.of_shape(info.input_shape)])) from error


def _with_flags(message: str) -> str:
    """Write the arguments that a message of `nn` names as flags: "padding 'same'" -> '--padding=same'."""
    message = re.sub(r"\bpadding (?:mode )?'(\w+)'", r"--padding=\1", message)
    return re.sub(r"(?<![\w-])(kernel_size|strides)\b", r"--\1", message)


def equal_cost(trials: Sequence[Trial], measure: Literal["params", "macs"]) -> list[Trial]:
    """The trials with their filters solved for equal cost of trials that differ in kernel size, strides and padding.

    The reference is the first trial that is equal in all other settings: the first kernel size, strides and padding of the
    sweep. Raises UsageError if a network cannot be made to cost as much within 5 %.
    """
    reference: dict[tuple, ModelConfig] = {}
    solved: dict[tuple[ModelConfig, DataConfig], ModelConfig] = {}
    for trial in trials:
        model, config = trial.model, trial.data
        if (model, config) in solved:
            continue
        alike = (dataclasses.replace(model, kernel_size=None, strides=None, padding=None), config)
        first = reference.setdefault(alike, model)
        found = data.info(config)
        target = getattr(description.describe(first, found.input_shape, found.num_classes), measure)
        matched = match(model, found.input_shape, found.num_classes, measure=measure, target=target)
        solved[model, config] = dataclasses.replace(matched, iso=f"{measure}@{format_stack(first.filters or ())}")
    return [dataclasses.replace(trial, model=solved[trial.model, trial.data]) for trial in trials]


def show(plan: Plan, console: Console, out: str | None) -> None:
    """Print the plan: a row per cell, then the totals."""
    cells: dict[tuple, list[Trial]] = {}
    for trial in plan.trials:
        cells.setdefault((trial.data, trial.model, trial.train), []).append(trial)
    rows = [_settings(group[0]) for group in cells.values()]
    blank = dict.fromkeys((name for row in rows for name in row), "")  # an option that only some models have
    rows = [blank | row for row in rows]
    varying = [name for name in rows[0] if len({row[name] for row in rows}) > 1]
    constant = {name: value for name, value in rows[0].items() if name not in varying and value}
    console.print(" · ".join(f"{name} {value}" for name, value in constant.items()), highlight=False, markup=False)

    names = varying or ["model"]
    costs = ("parameters", "MACs", "receptive field", "trials", "features")
    shown = list(zip(cells.values(), rows, strict=True))[:MOST_ROWS]
    print_table(
        console,
        [*(Column(name, left=True) for name in names), *(Column(name, optional=name != "parameters") for name in costs)],
        [Row([*(row[name] for name in names), *_costs(plan.shape(group[0]), len(group))]) for group, row in shown],
    )
    if len(cells) > MOST_ROWS:
        console.print(f"... and {len(cells) - MOST_ROWS:,} more cells", highlight=False)
    programs = len(sweep.buckets(plan.trials))
    line = f"{len(plan.trials):,} trials in {len(cells):,} cells, {programs:,} programs to compile, "
    console.print(line + f"{sum(map(plan.training_images, plan.trials)):,} training images", highlight=False)
    if out is not None:
        console.print(f"results go to {out}{_already(plan, out)}", highlight=False, markup=False, soft_wrap=True)


def _already(plan: Plan, out: str) -> str:
    try:
        known = {record["trial"] for record in store.read(out) if record["status"] in store.FINISHED}
    except UsageError:
        return ""
    done = sum(trial.id in known for trial in plan.trials)
    return f", where {done:,} of them are done" if done else ""


def _costs(shape: Description, trials: int) -> list[str]:
    """Cells of the plan's table that follow the settings."""
    field = "" if shape.receptive_field is None else str(shape.receptive_field)
    return [f"{shape.params:,}", f"{shape.macs:,}", field, str(trials), _features(shape)]


def _features(shape: Description) -> str:
    """Output of the last layer with spatial axes: the input of the classifier."""
    spatial = [layer.output_shape for layer in shape.layers if len(layer.output_shape) > 1]
    return "x".join(map(str, spatial[-1])) if spatial else ""


def _training_settings(train: TrainConfig) -> dict[str, str]:
    """Settings of training that are not at their defaults; '' for the others."""
    values = {name: (getattr(train, name), default) for name, default in added_defaults(TrainConfig).items()}
    texts = {name: "" if value == default else str(value) for name, (value, default) in values.items() if name != "options"}
    texts["metrics"] = "+".join(name.rpartition(":")[2] for name in train.metrics)
    return texts | {name: str(value) for name, value in train.options}


def _settings(trial: Trial) -> dict[str, str]:
    m, d, t = trial.model, trial.data, trial.train
    stacks = {name: getattr(m, name) for name in ("filters", "kernel_size", "strides")}
    return {
        "dataset": d.dataset,
        "model": m.name,
        **{name: "" if value is None else format_stack(value) for name, value in stacks.items()},
        "padding": m.padding or "",
        "activation": m.activation or "",
        **{name: str(value) for name, value in m.options},
        "iso": m.iso or "",
        "optimizer": t.optimizer,
        "learning_rate": f"{t.learning_rate:g}",
        "weight_decay": f"{t.weight_decay:g}" if t.weight_decay else "",
        "momentum": f"{t.momentum:g}" if t.optimizer in ("sgd", "rmsprop") else "",
        **_training_settings(t),
        "batch_size": str(t.batch_size),
        "epochs": str(t.epochs),
        "validation_fraction": f"{d.validation_fraction:g}",
        "train_examples": f"{d.train_examples:,}" if d.train_examples else "",
        "split_seed": str(d.split_seed) if d.split_seed else "",
        "image_size": str(d.image_size or ""),
        "normalize": "" if d.normalize == "none" else d.normalize,
    }
