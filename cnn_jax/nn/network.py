"""Spec -> CNN, a linen module that returns (logits, features by layer name). N images, K classes."""

import dataclasses
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from cnn_jax.aliases import Value
from cnn_jax.nn import modules
from cnn_jax.nn.activation import MONOTONE, TANHS
from cnn_jax.nn.conv import Conv
from cnn_jax.nn.lenet import Subsample
from cnn_jax.nn.modules.activation import activation
from cnn_jax.nn.modules.base import errors_named, parameter_dtype
from cnn_jax.nn.padding import Size
from cnn_jax.nn.pool import AvgPool, MaxPool
from cnn_jax.nn.spec import Layer, Spec, named


class CNN(nn.Module):
    """The network described by `spec`: x (N, *S, C) -> (logits (N, K), {layer name: output of the layer}).

    Features and parameters have the names of `named`; the parameters of layers inside Residual and Branch are not nested. With
    `train`, dropout draws from rng 'dropout' and batch norms update the collection 'batch_stats', which must be mutable. Unused
    features cost nothing under jit. Raises UsageError, naming the layer, at trace.
    """

    spec: Spec
    dtype: DTypeLike | None = None  # of the computation; None: promoted from input and parameters
    precision: str | None = None  # of products: 'default', 'high', 'highest'; None: jax_default_matmul_precision

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        forward = Forward(self.dtype, self.precision, train)
        logits = forward.run(named(self.spec), x)
        return logits, forward.features


@dataclasses.dataclass
class Forward:
    """Forward pass of a network: precision and mode of all layers, and the features computed so far."""

    dtype: DTypeLike | None
    precision: str | None
    train: bool
    features: dict[str, jax.Array] = dataclasses.field(default_factory=dict)

    def run(self, spec: Spec, x: jax.Array) -> jax.Array:
        """Apply the layers of a named spec, in order."""
        pooled = None  # output of the next layer, a max-pool fused into this convolution
        for layer, following in itertools.zip_longest(spec, spec[1:]):
            with errors_named(layer.name):
                if pooled is not None:
                    x, pooled = pooled, None
                elif (window := _fusible_window(layer, following)) is not None:
                    x, pooled = self.module(modules.PooledConv, layer, window=window)(x)
                elif (
                    type(layer) is Conv
                    and layer.activation in TANHS
                    and (type(following) is AvgPool or type(following) is Subsample)
                ):
                    x, pooled = self.averaged(layer, following, x)
                else:
                    x = layer.apply(x, self)
            self.features[layer.name] = x
        return x

    def averaged(self, conv: Conv, pool: AvgPool | Subsample, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Outputs of a convolution with tanh and of the average pool after it, which is given the values before tanh."""
        y = dataclasses.replace(conv, activation="linear").apply(x, self)
        kind = modules.AvgPool if isinstance(pool, AvgPool) else modules.Subsample
        return activation(conv.activation)(y), self.module(kind, pool, inner=conv.activation)(y)

    def module(self, kind: Callable[..., nn.Module], layer: Layer, **more: Value) -> nn.Module:
        """Construct the linen module with the fields shared with the layer, and its dtype and precision."""
        accepted = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        numerics = {"dtype": self.dtype, "precision": self.precision, "param_dtype": parameter_dtype(self.dtype)}
        fields = numerics | {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
        return kind(**{name: value for name, value in fields.items() if name in accepted}, **more)


def _fusible_window(layer: Layer, following: Layer | None) -> Size | None:
    """Return the pool window if a convolution and the max-pool after it can be fused, which is faster on CPU; else None."""
    if type(layer) is not Conv or layer.activation not in MONOTONE or type(following) is not MaxPool:
        return None
    adjacent = following.strides in (None, following.window) and following.padding == "valid" and following.dilation == 1
    return following.window if adjacent else None
