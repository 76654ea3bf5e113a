"""Names of training components, and checks of a training configuration that need no JAX.

The functions behind the names are in `training`: schedule, augment, loss; optimizers are those of optax.
"""

import re
from collections.abc import Sequence

from cnn_jax.errors import UsageError
from cnn_jax.trial import OPTIMIZERS, TrainConfig

SCHEDULES = ("constant", "cosine", "linear", "exponential", "step", "one_cycle")
LOSSES = ("cross_entropy", "mse", "focal")
# Default amounts of augmentations; None: no amount.
AUGMENTATIONS: dict[str, float | None] = {
    "flip": None,
    "crop": 4,
    "shift": 2,
    "rotate": 10,
    "cutout": 8,
    "brightness": 0.2,
    "mixup": 1,
}
_PIXELS = ("crop", "shift", "cutout")  # amounts that are whole numbers of pixels
_LIMITS = {"rotate": 180.0, "brightness": 1.0, "mixup": 100.0}
KINDS = ("optimizer", "schedule", "augment", "loss")  # kinds of components set by --option=KIND.NAME=VALUE
_ATTRIBUTE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_attribute(name: str) -> bool:
    """Whether `name` is package.module:attribute, defined in a fork."""
    return _ATTRIBUTE.fullmatch(name) is not None


def check_name(flag: str, name: str, legal: Sequence[str]) -> None:
    """Raise UsageError unless `name` is one of `legal` or package.module:attribute."""
    if name not in legal and not is_attribute(name):
        raise UsageError(f"--{flag}: unknown {flag} {name!r}: must be one of {', '.join(legal)}, or package.module:attribute")


def parse_augment(text: str) -> tuple[tuple[str, float | None], ...]:
    """Parse --augment: 'flip+crop:4' -> (('flip', None), ('crop', 4)); 'none' -> (). None: the default amount.

    Raises:
      UsageError: unknown augmentation or illegal amount.
    """
    if text == "none":
        return ()
    return tuple(map(_augmentation, text.split("+")))


def _augmentation(text: str) -> tuple[str, float | None]:
    name, _, amount = text.partition(":")
    if name not in AUGMENTATIONS and is_attribute(text):
        return text, None
    if name not in AUGMENTATIONS:
        legal = ", ".join(_example(known) for known in AUGMENTATIONS)
        raise UsageError(f"--augment: unknown augmentation {text!r}: none, {legal} or package.module:attribute, joined by '+'")
    if AUGMENTATIONS[name] is None:
        if amount:
            raise UsageError(f"--augment: {name} takes no amount, not {text!r}")
        return name, None
    return name, _amount(name, amount) if amount else AUGMENTATIONS[name]


def _example(name: str) -> str:
    amount = AUGMENTATIONS[name]
    return name if amount is None else f"{name}:{amount:g}"


def _amount(name: str, text: str) -> float:
    if name in _PIXELS:
        if not text.isdecimal() or not 1 <= int(text) <= 9999:
            raise UsageError(f"--augment: {name}:{text}: the amount must be a whole number of pixels, at least 1")
        return int(text)
    limit = _LIMITS[name]
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= limit:
        raise UsageError(f"--augment: {name}:{text}: the amount must be above 0 and at most {limit:g}")
    return value


def check(train: TrainConfig, input_shape: Sequence[int], train_examples: int, validation_examples: int) -> None:
    """Check a training configuration against names, image shape and numbers of images.

    Args:
      train: the configuration.
      input_shape: (*S, C) of the images.
      train_examples: number of training images.
      validation_examples: number of validation images.

    Raises:
      UsageError: names the flag and its legal values.
    """
    check_name("schedule", train.schedule, SCHEDULES)
    check_name("loss", train.loss, LOSSES)
    check_augment(train.augment, input_shape)
    steps = -(-train_examples // train.batch_size) * train.epochs
    if train.warmup >= max(1, steps):
        raise UsageError(f"--warmup={train.warmup:g}: must be below the {steps:,} steps of the training, or a share below 1")
    if not validation_examples:
        for flag, value, default in (("select", train.select, "last"), ("patience", train.patience, None)):
            if value != default:
                raise UsageError(f"--{flag}={value}: needs validation images: use a --validation_fraction above 0")


def needs_trace(train: TrainConfig) -> bool:
    """Whether a configuration has parts that only JAX can check: a fork's code, options, an optimizer of optax."""
    names = (train.optimizer, train.schedule, train.loss, *(name for name, _ in parse_augment(train.augment)))
    return (
        train.optimizer not in OPTIMIZERS
        or any(map(is_attribute, names))
        or bool(train.options or train.metrics)
        or train.decay_parameters != "all"
    )


def is_training_option(name: str) -> bool:
    """Whether an option belongs to a training component, KIND.NAME, not to the model."""
    return "." in name


def check_option(name: str) -> None:
    """Raise UsageError unless `name` is KIND.NAME."""
    kind, _, rest = name.partition(".")
    if kind not in KINDS or not rest.isidentifier():
        raise UsageError(f"--option={name}: must be NAME, of the model, or KIND.NAME with a KIND of {', '.join(KINDS)}")


def check_augment(text: str, input_shape: Sequence[int]) -> None:
    """Raise UsageError if an augmentation does not fit images of shape `input_shape` (*S, C)."""
    sizes = tuple(input_shape)[:-1]
    for name, amount in parse_augment(text):
        if name in AUGMENTATIONS and name not in ("brightness", "mixup") and len(sizes) != 2:
            raise UsageError(f"--augment: {name} needs images with a height and a width, not of shape {tuple(input_shape)}")
        if name in _PIXELS and amount is not None and amount >= min(sizes):
            raise UsageError(
                f"--augment: {name}:{amount:g} does not fit images of {'x'.join(map(str, sizes))}: must be below {min(sizes)}"
            )
