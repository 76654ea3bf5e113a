"""Layers of LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998) that later networks do not use."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from cnn_jax.nn.activation import ACTIVATIONS, TANHS
from cnn_jax.nn.initializers import Constant, Draw
from cnn_jax.nn.padding import GeometryError, Size, as_tuple
from cnn_jax.nn.spec import Layer, Pass, Signal, Step, settings_text, slide

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True)
class Subsample(Layer):
    """Pooling of LeNet-5: window sum times a trained coefficient per channel, plus a bias, then activation."""

    kind: ClassVar[str] = "subsample"
    unit: ClassVar[str] = "pool"
    legal: ClassVar[dict[str, Sequence[str]]] = {"activation": ACTIVATIONS}
    window: Size = 2
    activation: str = "linear"

    def geometry(self, x: Signal) -> Step:
        step = slide(x, "window", self.window, self.window, "valid")[1]
        return step.costs(x.channels, 2 * x.channels)

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import lenet

        return forward.module(lenet.Subsample, self)(x)

    def after(self, activation: str, x: "jax.Array", forward: Pass) -> "jax.Array":
        """The output for `activation` of x."""
        from cnn_jax.nn.modules import lenet

        y: jax.Array = forward.module(lenet.Subsample, self, inner=activation)(x)
        return y

    @property
    def compiled_in_c(self) -> bool:
        return self.window in (2, (2, 2)) and self.activation in ("linear", *TANHS)

    def initializer(self, parameter: str, rank: int) -> Draw | None:
        size = math.prod(as_tuple(self.window, rank, "window"))
        return Constant({"scale": 1 / size, "bias": 0.0}[parameter])

    def detail(self, rank: int) -> str:
        return settings_text(self, rank)


@dataclasses.dataclass(frozen=True)
class RBF(Layer):
    """Output layer of LeNet-5: minus half the squared distance to a fixed code of +1 and -1 per class. No parameters.

    `codes` has a tuple of length (input features) per class.
    """

    kind: ClassVar[str] = "rbf"
    codes: tuple[tuple[int, ...], ...]

    def geometry(self, x: Signal) -> Step:
        if {len(code) for code in self.codes} != {x.channels}:
            raise GeometryError(f"codes must have one value for each of its {x.channels} inputs")
        return Step(x).costs(len(self.codes), 0, len(self.codes) * math.prod(x.shape))

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import lenet

        return forward.module(lenet.RBF, self)(x)

    @property
    def compiled_in_c(self) -> bool:
        return True  # XLA's, but of few values: it makes no difference
