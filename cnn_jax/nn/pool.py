"""Pooling layers."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from cnn_jax.nn.padding import Padding, Size
from cnn_jax.nn.spec import Layer, Pass, Signal, Step, settings_text, slide

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True)
class MaxPool(Layer):
    """Maximum over windows, ignoring padding. `strides` None: the window."""

    kind: ClassVar[str] = "pool"
    window: Size = 2
    strides: Size | None = None
    padding: Padding = "valid"
    dilation: Size = 1

    def geometry(self, x: Signal) -> Step:
        strides = self.window if self.strides is None else self.strides
        return slide(x, "window", self.window, strides, self.padding, self.dilation)[1]

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import pool

        return forward.module(pool.MaxPool, self)(x)

    @property
    def compiled_in_c(self) -> bool:
        return True

    def detail(self, rank: int) -> str:
        return settings_text(self, rank)


@dataclasses.dataclass(frozen=True)
class AvgPool(Layer):
    """Mean over windows. `strides` None: the window."""

    kind: ClassVar[str] = "pool"
    unit: ClassVar[str] = "pool"
    window: Size = 2
    strides: Size | None = None
    padding: Padding = "valid"
    count_include_pad: bool = False

    def geometry(self, x: Signal) -> Step:
        strides = self.window if self.strides is None else self.strides
        return slide(x, "window", self.window, strides, self.padding)[1]

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import pool

        return forward.module(pool.AvgPool, self)(x)

    def after(self, activation: str, x: "jax.Array", forward: Pass) -> "jax.Array":
        """The output for `activation` of x."""
        from cnn_jax.nn.modules import pool

        y: jax.Array = forward.module(pool.AvgPool, self, inner=activation)(x)
        return y

    @property
    def compiled_in_c(self) -> bool:
        return self.window in (2, (2, 2)) and self.strides in (None, self.window) and self.padding == "valid"

    def detail(self, rank: int) -> str:
        return settings_text(self, rank)


@dataclasses.dataclass(frozen=True)
class GlobalMaxPool(Layer):
    """Maximum over all positions: (N, *S, C) -> (N, C)."""

    kind: ClassVar[str] = "global_pool"

    def geometry(self, x: Signal) -> Step:
        return Step(Signal((x.channels,)))

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import pool

        return forward.module(pool.GlobalMaxPool, self)(x)


@dataclasses.dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """Mean over all positions: (N, *S, C) -> (N, C)."""

    kind: ClassVar[str] = "global_pool"

    def geometry(self, x: Signal) -> Step:
        return Step(Signal((x.channels,)))

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import pool

        return forward.module(pool.GlobalAvgPool, self)(x)
