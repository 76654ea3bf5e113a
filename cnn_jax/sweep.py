"""Axes and their products -> trials; trials -> buckets that share one compiled program. No JAX: planning takes milliseconds.

An axis is a name of `AXES` with the list of its values; the trials of a sweep are the product of all axes, seeds innermost.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.config import (
    ACTIVATIONS,
    NORMALIZATIONS,
    OPTIMIZERS,
    PADDINGS,
    DataConfig,
    ModelConfig,
    TrainConfig,
    Trial,
    UsageError,
)

# ------------------------------------------------------------------------------------------------------ values from text
# A parser takes the text of one value and returns the value, or raises ValueError saying what is legal.


def positive_int(text: str) -> int:
    """'32' -> 32."""
    if not text.isascii() or not text.isdigit() or int(text) < 1 or len(text) > 9:
        raise ValueError("an integer of at least 1")
    return int(text)


def stack(text: str) -> tuple[int, ...]:
    """'32' -> (32,), '16-32' -> (16, 32): a value per conv block."""
    try:
        return tuple(positive_int(part) for part in text.split("-"))
    except ValueError:
        raise ValueError("integers of at least 1, a stack of layers joined by '-' as in 16-32") from None


def number(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A parser of finite numbers in [low, high), or in (low, high) if `above`."""
    bounds = _bounds(low, high, above)

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(bounds) from None
        if not (low < value if above else low <= value) or not value < high or not math.isfinite(value):
            raise ValueError(bounds)
        return value

    return parse


def float32(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A parser as `number`, of values that compiled programs hold in float32: rounding must keep them in the interval.

    Refuses values below float32's smallest normal number, 1.2e-38, but for 0: XLA takes them for 0.
    """
    parse_number, limits = number(low, high, above=above), np.finfo(np.float32)

    def parse(text: str) -> float:
        value = parse_number(text)
        with np.errstate(over="ignore", under="ignore"):
            rounded = float(np.float32(value))
        if (value and abs(rounded) < limits.tiny) or not rounded < high or not math.isfinite(rounded):
            raise ValueError(f"{_bounds(low, high, above)} in float32, whose range is {limits.tiny:.2g} to {limits.max:.2g}")
        return value

    return parse


def _bounds(low: float, high: float, above: bool) -> str:
    """'a number above 0 and below 1'."""
    return f"a number {'above' if above else 'of at least'} {low:g}" + ("" if math.isinf(high) else f" and below {high:g}")


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """A parser of the given names."""
    legal = tuple(names)

    def parse(text: str) -> str:
        if text not in legal:
            raise ValueError(f"one of {', '.join(legal)}")
        return text

    return parse


def word(text: str) -> str:
    """Any text but the empty one; whether the name means something is checked by who looks it up."""
    if not text:
        raise ValueError("a name")
    return text


def scalar(text: str) -> int | float | str:
    """'3' -> 3, '0.5' -> 0.5, 'A' -> 'A': the value of a model's own option."""
    for convert in (int, float):
        try:
            value = convert(text)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    return word(text)


@dataclasses.dataclass(frozen=True)
class Axis:
    """What a sweep can vary: the part of a trial that holds it, how one value is read from text, and what it is."""

    part: str  # "model", "data" or "train"
    parse: Callable[[str], Any]
    help: str


AXES: dict[str, Axis] = {
    "model": Axis("model", word, "a name of the zoo, or package.module:attribute"),
    "filters": Axis("model", stack, "filters per conv layer; a value may be a stack of layers: 16-32"),
    "kernel_size": Axis("model", stack, "kernel size; a stack gives one per layer"),
    "strides": Axis("model", stack, "strides of the convolutions; a stack gives one per layer"),
    "padding": Axis("model", one_of(PADDINGS), "padding: amount and what fills it"),
    "activation": Axis("model", one_of(ACTIVATIONS), "activation of the hidden layers"),
    "dataset": Axis("data", word, "digits, a TFDS name (mnist, cifar10 ...), npz:FILE, folder:DIR, red_green"),
    "validation_fraction": Axis("data", number(0.0, 1.0), "share of the training images held out for validation"),
    "split_seed": Axis(
        "data", lambda text: 0 if text == "0" else positive_int(text), "seed of the validation split, and of a drawn test set"
    ),
    "train_examples": Axis("data", positive_int, "use only so many training images"),
    "image_size": Axis("data", positive_int, "resize images to this height and width"),
    "normalize": Axis("data", one_of(NORMALIZATIONS), "none (0 to 1), per_channel or standardize (zero mean, unit variance)"),
    "optimizer": Axis("train", one_of(OPTIMIZERS), "optimizer"),
    "learning_rate": Axis("train", float32(0.0, above=True), "learning rate"),
    "weight_decay": Axis("train", float32(0.0), "weight decay: decoupled for adamw, L2 for the others"),
    "momentum": Axis("train", float32(0.0, 1.0), "momentum of sgd and rmsprop"),
    "batch_size": Axis("train", positive_int, "images per training step"),
    "epochs": Axis("train", positive_int, "passes over the training images"),
}


def parse_values(flag: str, text: str) -> list[Any]:
    """The values of an axis from its flag's text: 'a,b' -> [a, b], parsed. Raises UsageError naming flag and legal values."""
    return parse_list(flag, text, AXES[flag].parse)


def parse_list(flag: str, text: str, parse: Callable[[str], Any]) -> list[Any]:
    """Comma-separated values, each read by `parse`, in order and without repeats."""
    values = []
    for part in text.split(","):
        try:
            values.append(parse(part.strip()))
        except ValueError as error:
            raise UsageError(f"--{flag}: {part.strip()!r} is not legal: use {error}") from None
    return list(dict.fromkeys(values))


# ---------------------------------------------------------------------------------------------------------------- product

MOST_TRIALS = 1_000_000  # a plan of more would not fit in memory, and its sweep not into a lifetime


def product(
    axes: Mapping[str, Sequence[Any]],
    seeds: int = 1,
    options: Mapping[str, Sequence[Any]] | None = None,
    defaults: Mapping[str, Sequence[Any]] | None = None,
    default_options: Mapping[str, Sequence[Any]] | None = None,
) -> list[Trial]:
    """Every combination of the axes' values, `seeds` trials each (seeds 0, 1, ...), in the order given, without repeats.

    axes: values by name of `AXES`; an axis left out means the default. options: values of the models' own options by name.
    defaults, default_options: values of further axes and options, for those models that have them. Models are resolved: what
    is left to the model's default is filled in, so a value given and the same value left out make the same trial. Raises
    UsageError for a model, axis or option that does not exist.
    """
    from cnn_jax import zoo

    options, defaults = options or {}, {k: v for k, v in (defaults or {}).items() if k not in axes}
    default_options = {k: v for k, v in (default_options or {}).items() if k not in options}
    for name in (*axes, *defaults):
        if name not in AXES:
            raise UsageError(f"unknown axis {name!r}: one of {', '.join(AXES)}")

    swept = (*axes.values(), *defaults.values(), *options.values(), *default_options.values())
    count = seeds * math.prod(map(len, swept))
    if count > MOST_TRIALS:
        raise UsageError(f"the sweep has {count:,} trials: at most {MOST_TRIALS:,}; use fewer --seeds or values")

    def combinations(part: str, values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        names = [name for name in values if AXES[name].part == part]
        return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*(values[name] for name in names))]

    models: list[ModelConfig] = []
    for name in axes.get("model", defaults.get("model", [ModelConfig().name])):
        own = zoo.options(name)
        chosen = {axis: values for axis, values in axes.items() if axis != "model"}
        chosen |= {axis: values for axis, values in defaults.items() if axis in own}
        chosen_options = {**options, **{option: values for option, values in default_options.items() if option in own}}
        for extra in itertools.product(*chosen_options.values()):
            pairs = tuple(zip(chosen_options, extra, strict=True))
            models += [zoo.resolve(ModelConfig(name, **fields, options=pairs)) for fields in combinations("model", chosen)]
    data = [DataConfig(**fields) for fields in combinations("data", {**defaults, **axes})]
    training = combinations("train", {**defaults, **axes})

    trials = []
    for d in dict.fromkeys(data):
        train = dict.fromkeys(TrainConfig.of(d.dataset, **fields) for fields in training)
        for m in dict.fromkeys(models):
            for t in train:
                trials += [Trial(m, d, t, seed) for seed in range(seeds)]
    return trials


# ---------------------------------------------------------------------------------------------------------------- buckets


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Trials that share one compiled program: equal in `Trial.static`."""

    trials: tuple[Trial, ...]

    @property
    def static(self) -> tuple:
        return self.trials[0].static


def buckets(trials: Iterable[Trial]) -> list[Bucket]:
    """Trials grouped by the program that they share, in order of first appearance."""
    groups: dict[tuple, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.static, []).append(trial)
    return [Bucket(tuple(group)) for group in groups.values()]
