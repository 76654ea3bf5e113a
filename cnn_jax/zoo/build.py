"""From a ModelConfig to its linen module."""

from collections.abc import Sequence

import flax.linen as nn

from cnn_jax import zoo
from cnn_jax.nn.check import check_outputs
from cnn_jax.nn.network import CNN
from cnn_jax.nn.spec import named
from cnn_jax.trial import ModelConfig


def build(model: ModelConfig, input_shape: Sequence[int], num_classes: int) -> nn.Module:
    """The linen module of a model by name: a CNN, or what a fork's own `package.module:attribute` returns.

    `input_shape` is (*S, C). Raises UsageError if the name or one of its settings is unknown, and if what it returns is no
    network or breaks the contract of a model, as far as types and shapes tell (see `check_outputs`).
    """
    made = zoo.spec(model, tuple(input_shape), num_classes)
    if isinstance(made, tuple):
        return CNN(named(made))
    check_outputs(made, input_shape, num_classes, name=f"--model: {model.name}")
    return made
