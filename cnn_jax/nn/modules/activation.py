"""Activation functions by name."""

import functools
from collections.abc import Callable

import jax

from cnn_jax.errors import UsageError
from cnn_jax.ops.pool import Tanh

Function = Callable[[jax.Array], jax.Array]


def _identity(x: jax.Array) -> jax.Array:
    return x


ACTIVATIONS: dict[str, Function] = {
    "linear": _identity,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,  # slope 0.01 below zero, as in JAX and PyTorch; Keras 3 has 0.3
    "relu6": jax.nn.relu6,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),  # exact, as in PyTorch and Keras; JAX's default is the tanh fit
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "tanh": Tanh(),
    "scaled_tanh": Tanh(1.7159, 2 / 3),  # LeCun et al. 1998, appendix A
}


def activation(name: str | Function) -> Function:
    """Return the function with this name, or `name` itself if it is a function. Raises UsageError listing the names."""
    if callable(name):
        return name
    if name not in ACTIVATIONS:
        raise UsageError(f"unknown activation {name!r}: must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def tanh_of(name: str | Function) -> Tanh | None:
    """The tanh that a function is, and None for the identity. Raises LookupError for another."""
    function = activation(name)
    if function is _identity:
        return None
    if isinstance(function, Tanh):
        return function
    raise LookupError(name)
