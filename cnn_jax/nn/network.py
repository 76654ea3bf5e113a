"""Spec -> CNN, a linen module that returns (logits, features by layer name). N images, K classes."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from cnn_jax.aliases import Value
from cnn_jax.nn.modules.base import errors_named, parameter_dtype
from cnn_jax.nn.spec import Follower, Layer, Spec, named


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

    def run(self, spec: Spec, x: jax.Array, then: Follower | None = None) -> jax.Array:
        """Apply the layers of a named spec, in order, and `then`."""
        done = None  # the output of the next one, fused with this layer
        for layer, following in zip(spec, (*spec[1:], then), strict=False):
            with errors_named(layer.name):
                if done is not None:
                    x, done = done, None
                elif following is not None and (both := layer.fused(x, self, following)) is not None:
                    x, done = both
                else:
                    x = layer.apply(x, self)
            self.features[layer.name] = x
        if then is None:
            return x
        return then.apply(x, self) if done is None else done

    def module(self, kind: Callable[..., nn.Module], layer: Layer, **more: Value) -> nn.Module:
        """Construct the linen module with the fields shared with the layer, and its dtype and precision."""
        accepted = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        numerics = {"dtype": self.dtype, "precision": self.precision, "param_dtype": parameter_dtype(self.dtype)}
        fields = numerics | {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
        return kind(**{name: value for name, value in fields.items() if name in accepted}, **more)
