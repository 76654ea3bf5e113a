"""Activation functions and dropout."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from cnn_jax.nn.padding import GeometryError
from cnn_jax.nn.spec import Layer, Pass, Signal, Step

if TYPE_CHECKING:
    import jax

ACTIVATIONS = (
    "linear", "relu", "leaky_relu", "relu6", "elu", "selu", "gelu", "silu", "softplus", "sigmoid", "tanh", "scaled_tanh",
)  # fmt: skip
# Non-decreasing functions: they commute with a maximum.
MONOTONE = ("linear", "relu", "leaky_relu", "relu6", "elu", "selu", "softplus", "sigmoid", "tanh", "scaled_tanh")
TANHS = ("tanh", "scaled_tanh")


@dataclasses.dataclass(frozen=True)
class Activation(Layer):
    """An activation function as a separate layer."""

    kind: ClassVar[str] = "activation"
    follows: ClassVar[bool] = True
    legal: ClassVar[dict[str, Sequence[str]]] = {"activation": ACTIVATIONS}
    activation: str = "relu"

    def geometry(self, x: Signal) -> Step:
        return Step(x)

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules.activation import activation

        return activation(self.activation)(x)

    def detail(self, rank: int) -> str:
        return self.activation


@dataclasses.dataclass(frozen=True)
class Dropout(Layer):
    """Set each value to zero with probability `rate` in training, and scale the others by 1 / (1 - rate)."""

    kind: ClassVar[str] = "dropout"
    follows: ClassVar[bool] = True
    rate: float = 0.5

    def geometry(self, x: Signal) -> Step:
        if not 0 <= self.rate < 1:
            raise GeometryError(f"rate is {self.rate}: must be at least 0 and below 1")
        return Step(x)

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        import flax.linen as nn

        return forward.module(nn.Dropout, self, deterministic=not forward.train)(x)

    @property
    def compiled_in_c(self) -> bool:
        return True  # XLA's, but fast enough without its emitters: Keras's MNIST convnet gains from a short compilation

    def detail(self, rank: int) -> str:
        return f"dropout {self.rate:g}"
