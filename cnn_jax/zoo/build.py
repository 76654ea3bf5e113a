"""Construction of the linen module of a ModelConfig."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from cnn_jax import zoo
from cnn_jax.errors import UsageError
from cnn_jax.nn.check import check_outputs
from cnn_jax.nn.network import CNN
from cnn_jax.nn.spec import named
from cnn_jax.trial import ModelConfig


def build(model: ModelConfig, input_shape: Sequence[int], num_classes: int, precision: str = "float32") -> nn.Module:
    """Build the linen module of a model: a CNN, or the module returned by a fork's `package.module:attribute`.

    Args:
      model: the model and its settings.
      input_shape: (*S, C).
      num_classes: logits per image.
      precision: precision of the computation, one of `trial.PRECISIONS`; parameters and batch statistics are float32.

    Raises:
      UsageError: the name or a setting is unknown, or types and shapes of the network violate the contract of a model (see
        `check_outputs`).
    """
    made = zoo.spec(model, tuple(input_shape), num_classes)
    dtype = None if precision == "float32" else jnp.dtype(precision)
    if isinstance(made, tuple):
        return CNN(named(made), dtype=dtype)
    if dtype is not None:
        if not hasattr(made, "dtype"):
            raise UsageError(f"--precision={precision}: model {model.name} has no field dtype, the type to compute in")
        made = made.clone(dtype=dtype)
    check_outputs(made, input_shape, num_classes, name=f"--model: {model.name}")
    return made
