"""Base classes of the linen modules."""

import contextlib
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnn_jax.errors import UsageError
from cnn_jax.nn.initializers import INITIALIZERS, WITHOUT_FANS, JaxDraw, for_jax
from cnn_jax.nn.modules.activation import Function, activation
from cnn_jax.nn.weighted import Weighted as WeightedSpec


def initializer(name: str | JaxDraw) -> JaxDraw:
    """Return the initializer with this name, or `name` itself if it is a function. Raises UsageError listing the names."""
    if callable(name):
        return name
    if name not in INITIALIZERS:
        raise UsageError(f"unknown initializer {name!r}: must be one of {', '.join(INITIALIZERS)}")
    return for_jax(name)


@contextlib.contextmanager
def errors_named(name: str | None) -> Iterator[None]:
    """Prefix the message of a UsageError with the layer's name; for nested layers, that of the innermost."""
    try:
        yield
    except UsageError as error:
        if str(error).startswith("layer "):
            raise
        raise UsageError(f"layer {name!r}: {error}") from error


def parameter_dtype(dtype: DTypeLike | None) -> DTypeLike:
    """Return the parameter type for layers that compute in `dtype`: float64 for float64, otherwise float32."""
    return jnp.promote_types(dtype or jnp.float32, jnp.float32)


class Named(nn.Module):
    """A layer whose errors include its name. Subclasses define `transform`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        with errors_named(self.name or type(self).__name__):
            return self.transform(x)

    def transform(self, x: jax.Array) -> jax.Array:
        raise NotImplementedError


class Parametric(Named, kw_only=True):
    """A layer with parameters, followed by an activation (a name in `ACTIVATIONS`, or a function).

    Subclasses define `affine`, or `outputs` if the activation is fused.
    """

    activation: str | Function = WeightedSpec.activation
    dtype: DTypeLike | None = None  # of the computation; None: promoted from input and parameters

    def transform(self, x: jax.Array) -> jax.Array:
        return self.outputs(x if self.dtype is None else x.astype(self.dtype))

    def outputs(self, x: jax.Array) -> jax.Array:
        return self.activate(self.affine(x))

    def activate(self, y: jax.Array) -> jax.Array:
        return activation(self.activation)(y)

    def affine(self, x: jax.Array) -> jax.Array:
        raise NotImplementedError

    def parameter(self, name: str, init: str | JaxDraw, shape: tuple[int, ...]) -> jax.Array:
        value = self.param(name, initializer(init), shape, parameter_dtype(self.dtype))
        return value if self.dtype is None else value.astype(self.dtype)


class Weighted(Parametric, kw_only=True):
    """A layer with a kernel and a bias; an initializer is a name in `INITIALIZERS` or a function."""

    use_bias: bool = WeightedSpec.use_bias
    kernel_init: str | JaxDraw = WeightedSpec.kernel_init
    bias_init: str | JaxDraw = WeightedSpec.bias_init
    precision: str | None = None  # of products: 'default', 'high', 'highest'; None: jax_default_matmul_precision

    def transform(self, x: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(self.precision) if self.precision else contextlib.nullcontext():
            return super().transform(x)

    def kernel(self, *shape: int, name: str = "kernel") -> jax.Array:
        return self.parameter(name, self.kernel_init, shape)

    def bias(self, filters: int) -> jax.Array | None:
        if self.bias_init in INITIALIZERS and self.bias_init not in WITHOUT_FANS:
            raise UsageError(
                f"bias_init {self.bias_init!r} scales by the fans of a kernel: must be one of {', '.join(WITHOUT_FANS)}"
            )
        return self.parameter("bias", self.bias_init, (filters,)) if self.use_bias else None
