"""Training components of a trial: optimizer, schedule, augmentations and loss, resolved from their names and options."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Literal, get_args, get_origin

import jax
import optax

from cnn_jax import plugins
from cnn_jax.aliases import Array, PyTree, Value
from cnn_jax.errors import UsageError
from cnn_jax.recipes.names import check_name, check_option, is_attribute, parse_augment
from cnn_jax.training import augment, loss, optimizer, schedule
from cnn_jax.training.optimizer import Numbers
from cnn_jax.trial import Options, TrainConfig

Hyper = Mapping[str, jax.Array]  # Trial.dynamic as arrays


@dataclasses.dataclass(frozen=True)
class Components:
    """What a training step uses besides the network.

    Attributes:
      train: their configuration.
      num_classes: K.
      factor: factor of the learning rate at a step; None: always 1.
      augmentations: each (key, images_BHWC, targets_BK) -> (images_BHWC, targets_BK).
      loss: (logits_BK, targets_BK) -> (B,); None: cross-entropy.
    """

    train: TrainConfig
    num_classes: int
    factor: optax.Schedule | None
    augmentations: tuple[Callable, ...]
    loss: Callable | None

    def optimizer(self, hyper: Numbers, step: Array | int = 0) -> optax.GradientTransformation:
        """The optimizer at a step, whose learning rate the schedule scales."""
        if self.factor is not None:
            hyper = {**hyper, "learning_rate": hyper["learning_rate"] * self.factor(step)}
        return optimizer.optimizer(
            self.train.optimizer,
            hyper,
            _optimizer_options(self.train),
            decay_kernels_only=self.train.decay_parameters == "kernels",
        )

    def initial_state(self, params: PyTree, hyper: Numbers) -> PyTree:
        """State of the optimizer before the first step, as NumPy arrays. `hyper` holds values as numbers."""
        rule = self.optimizer(hyper)
        return optimizer.initial_state(rule, self.train.optimizer, params)

    def losses(self, logits_BK: jax.Array, labels_B: jax.Array) -> jax.Array:
        """(B,) losses of unmodified targets, as in evaluation."""
        if self.loss is None:
            return loss.cross_entropy_of_labels(logits_BK, labels_B)
        return self.loss(logits_BK, loss.one_hot(labels_B, self.num_classes))

    def training_losses(self, hyper: Hyper, logits_BK: jax.Array, targets_BK: jax.Array) -> jax.Array:
        """(B,) losses of targets (B, K) that augmentations may have mixed, with label smoothing."""
        if "label_smoothing" in hyper:
            targets_BK = loss.smoothed(targets_BK, hyper["label_smoothing"])
        return (self.loss or loss.cross_entropy)(logits_BK, targets_BK)

    @property
    def soft_targets(self) -> bool:
        """Whether training needs targets as probabilities, not only `labels_B`."""
        return bool(self.augmentations) or self.train.label_smoothing > 0

    def augment(self, key: jax.Array, images_BHWC: jax.Array, targets_BK: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Apply the augmentations in order, each with its own key."""
        for i, augmentation in enumerate(self.augmentations):
            images_BHWC, targets_BK = augmentation(jax.random.fold_in(key, i), images_BHWC, targets_BK)
        return images_BHWC, targets_BK


@functools.lru_cache(maxsize=256)
def components(train: TrainConfig, total_steps: int, num_classes: int) -> Components:
    """Resolve the components of a configuration for a training of `total_steps` steps on images of `num_classes` classes.

    Raises:
      UsageError: for an unknown name, or an option that no component has or whose value is illegal.
    """
    for name, _ in train.options:
        check_option(name)
    _optimizer_options(train)
    found = _schedule(train)
    factor = None
    if train.schedule != "constant" or train.warmup:
        with plugins.reporting(f"--schedule: {train.schedule} failed", found):
            factor = schedule.with_warmup(found, total_steps, train.warmup)
    losses = None if train.loss == "cross_entropy" and not _of_kind(train.options, "loss") else _loss(train)
    return Components(train, num_classes, factor, _augmentations(train), losses)


def settable(function: Callable[..., object], kind: str) -> dict[str, inspect.Parameter]:
    """Parameters of a component that --option may set: those with a default that is a number, a word or a bool."""
    reserved = optimizer.RESERVED if kind == "optimizer" else ()
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if isinstance(parameter.default, str | int | float | None) and name not in reserved and "mask" not in name
    }


def _of_kind(options: Options, kind: str) -> dict[str, Value]:
    return {name.removeprefix(f"{kind}."): value for name, value in options if name.startswith(f"{kind}.")}


def _load(kind: str, name: str, known: Mapping[str, Callable]) -> Callable:
    check_name(kind, name, tuple(known))
    if not is_attribute(name):
        return known[name]
    function = plugins.load_attribute(name, f"--{kind}: {name}")
    if not callable(function):
        raise UsageError(f"--{kind}: {name} is a {type(function).__name__}: it must be a function")
    return function


def _optimizer_options(train: TrainConfig) -> dict[str, Value]:
    options = _of_kind(train.options, "optimizer")
    if not options:
        return {}
    own, frozen = _checked("optimizer", train.optimizer, [optimizer.load(train.optimizer), optimizer.freezing], options)
    return own | frozen


def _schedule(train: TrainConfig) -> schedule.Schedule:
    function = _load("schedule", train.schedule, schedule.BY_NAME)
    (options,) = _checked("schedule", train.schedule, [function], _of_kind(train.options, "schedule"))
    return functools.partial(function, **options)


def _loss(train: TrainConfig) -> loss.Loss:
    function = _load("loss", train.loss, loss.BY_NAME)
    (options,) = _checked("loss", train.loss, [function], _of_kind(train.options, "loss"))
    return functools.partial(function, **options)


def _augmentation_functions(train: TrainConfig) -> list[tuple[Callable, float | None]]:
    return [(_load("augment", name, augment.BY_NAME), amount) for name, amount in parse_augment(train.augment)]


def _augmentations(train: TrainConfig) -> tuple[Callable, ...]:
    functions = _augmentation_functions(train)
    options = _checked("augment", train.augment, [function for function, _ in functions], _of_kind(train.options, "augment"))
    return tuple(_with_amount(function, amount, chosen) for (function, amount), chosen in zip(functions, options, strict=True))


def _with_amount(function: Callable, amount: float | None, options: Mapping[str, Value]) -> Callable:
    rest = () if amount is None else (amount,)
    return lambda key, images_BHWC, targets_BK: function(key, images_BHWC, targets_BK, *rest, **options)


def _checked(kind: str, name: str, functions: list[Callable], options: Mapping[str, Value]) -> list[dict[str, Value]]:
    """The options that each function has, checked against the defaults of its parameters."""
    parameters = [settable(function, kind) for function in functions]
    for option in options:
        if not any(option in each for each in parameters):
            legal = list(dict.fromkeys(each for one in parameters for each in one))
            has = f"it has {', '.join(legal)}" if legal else "it has none"
            raise UsageError(f"--option={kind}.{option}: {kind} {name} has no option {option}: {has}")
    return [
        {option: _value(kind, option, each[option], value) for option, value in options.items() if option in each}
        for each in parameters
    ]


def _value(kind: str, option: str, parameter: inspect.Parameter, value: Value) -> Value:
    """A value of --option in the type of the parameter's default."""
    legal = get_args(parameter.annotation) if get_origin(parameter.annotation) is Literal else ()
    default = parameter.default
    if legal:
        fits, wanted = value in legal, f"one of {', '.join(map(str, legal))}"
    elif isinstance(default, bool):
        fits, wanted = value in (0, 1), "0 or 1"
        value = bool(value) if fits else value
    elif isinstance(default, int):
        fits, wanted = isinstance(value, int), "an integer"
    elif isinstance(default, float):
        fits, wanted = isinstance(value, int | float), "a number"
    else:
        fits, wanted = True, ""
    if not fits:
        raise UsageError(f"--option={kind}.{option}: {value!r} is not legal: use {wanted}")
    return value
