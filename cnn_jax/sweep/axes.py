"""Axes of a sweep: the settings of a trial that can vary, and the parsers of their values. No JAX."""

import dataclasses
from collections.abc import Callable

from cnn_jax.aliases import Value
from cnn_jax.errors import UsageError
from cnn_jax.nn import ACTIVATIONS, PADDINGS
from cnn_jax.recipes.names import AUGMENTATIONS, LOSSES, SCHEDULES
from cnn_jax.sweep.values import attributes, expand, float32, number, one_of, optional, positive_int, stack, word
from cnn_jax.trial import DECAYED, NORMALIZATIONS, PRECISIONS, SELECTIONS


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis: the part of a trial that holds it, the parser of one value, and its description."""

    part: str  # "model", "data" or "train"
    parse: Callable[[str], Value]
    help: str


AXES: dict[str, Axis] = {
    "model": Axis("model", word, "a name of the zoo, or package.module:attribute"),
    "filters": Axis("model", stack, "filters per conv layer; a value may be a stack of layers: 16-32"),
    "kernel_size": Axis("model", stack, "kernel size; a stack gives one per layer"),
    "strides": Axis("model", stack, "strides of the convolutions; a stack gives one per layer"),
    "padding": Axis("model", one_of(PADDINGS), "padding: amount and mode"),
    "activation": Axis("model", one_of(ACTIVATIONS), "activation of the hidden layers"),
    "dataset": Axis("data", word, "digits, a TFDS name (mnist, cifar10 ...), npz:FILE, folder:DIR, red_green"),
    "validation_fraction": Axis("data", number(0.0, 1.0), "share of the training images held out for validation"),
    "split_seed": Axis(
        "data", lambda text: 0 if text == "0" else positive_int(text), "seed of the validation split, and of a drawn test set"
    ),
    "train_examples": Axis("data", positive_int, "number of training images to use"),
    "image_size": Axis("data", positive_int, "resize images to this height and width"),
    "normalize": Axis("data", one_of(NORMALIZATIONS), "none (0 to 1), per_channel or standardize (zero mean, unit variance)"),
    "optimizer": Axis("train", word, "adam, sgd ..., any first-order optimizer of optax, or package.module:attribute"),
    "learning_rate": Axis("train", float32(0.0, above=True), "learning rate"),
    "schedule": Axis("train", word, f"of the learning rate: {', '.join(SCHEDULES)}, or package.module:attribute"),
    "warmup": Axis("train", number(0.0), "linear warmup before the schedule, in steps; below 1 a fraction of all steps"),
    "weight_decay": Axis("train", float32(0.0), "weight decay: decoupled for adamw and similar, L2 for the others"),
    "decay_parameters": Axis("train", one_of(DECAYED), "parameters that decay: all, or kernels (no biases, no norms)"),
    "momentum": Axis("train", float32(0.0, 1.0), "momentum of sgd, rmsprop and other optimizers that have one"),
    "clip_norm": Axis("train", optional(float32(0.0, above=True)), "bound on the global norm of the gradients, or none"),
    "ema": Axis("train", float32(0.0, 1.0), "decay of a moving average of the parameters, which is evaluated and kept"),
    "loss": Axis("train", word, f"{', '.join(LOSSES)}, or package.module:attribute"),
    "label_smoothing": Axis("train", float32(0.0, 1.0), "share of each target that is spread evenly over the classes"),
    "augment": Axis("train", word, f"none, or {', '.join(AUGMENTATIONS)} joined by '+', as flip+crop:4; or a fork's"),
    "select": Axis("train", one_of(SELECTIONS), "epoch to keep: last, or best on validation by accuracy or by loss"),
    "patience": Axis("train", optional(positive_int), "epochs without improvement on validation before stopping, or none"),
    "precision": Axis("train", one_of(PRECISIONS), "type to compute in; parameters and statistics are float32"),
    "metrics": Axis("train", attributes, "further metrics, package.module:attribute, joined by '+'"),
    "batch_size": Axis("train", positive_int, "images per training step"),
    "epochs": Axis("train", positive_int, "passes over the training images"),
}


def parse_values(flag: str, text: str) -> list[Value]:
    """Parse the values of an axis from its flag's text: 'a,b' -> [a, b]. Raises UsageError naming flag and legal values."""
    return parse_list(flag, text, AXES[flag].parse)


def parse_list(flag: str, text: str, parse: Callable[[str], Value]) -> list[Value]:
    """Comma-separated values and ranges, each value read by `parse`, in order and without repeats."""
    values = []
    for part in text.split(","):
        try:
            values += [parse(value) for value in expand(part.strip())]
        except ValueError as error:
            raise UsageError(f"--{flag}: {part.strip()!r} is not legal: use {error}") from None
    return list(dict.fromkeys(values))
