"""Dense layers and flattening."""

import dataclasses
import math
from typing import TYPE_CHECKING, ClassVar

from cnn_jax.nn.activation import TANHS
from cnn_jax.nn.spec import Layer, Pass, Signal, Step, count
from cnn_jax.nn.weighted import Weighted

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True)
class Flatten(Layer):
    """(N, *S, C) -> (N, prod(S) * C)."""

    kind: ClassVar[str] = "flatten"

    def geometry(self, x: Signal) -> Step:
        return Step(Signal((math.prod(x.shape),)))

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))  # not len(x): the size may be symbolic

    @property
    def compiled_in_c(self) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Dense(Weighted):
    """Matrix product over the last axis, then bias, then activation."""

    kind: ClassVar[str] = "dense"
    units: int

    def geometry(self, x: Signal) -> Step:
        units = count(self.units, "units")
        weights = x.channels * units
        return Step(x).costs(units, weights + units * self.use_bias, weights * math.prod(x.spatial))

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import dense

        return forward.module(dense.Dense, self)(x)

    @property
    def compiled_in_c(self) -> bool:
        return self.activation in ("linear", "relu", *TANHS)
