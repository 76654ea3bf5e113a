"""Convolutional layers: plain, depthwise, separable, transposed."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from cnn_jax.nn.activation import MONOTONE, TANHS
from cnn_jax.nn.initializers import Draw, packed
from cnn_jax.nn.lenet import Subsample
from cnn_jax.nn.padding import GeometryError, Padding, Size, as_tuple, plain, transpose_geometry
from cnn_jax.nn.pool import AvgPool, MaxPool
from cnn_jax.nn.spec import Field, Follower, Pass, Signal, Step, check_groups, count, slide, spatial_rank
from cnn_jax.nn.weighted import Weighted

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True)
class Conv(Weighted):
    """Convolution (cross-correlation, as in every deep-learning library), then bias, then activation."""

    kind: ClassVar[str] = "conv"
    filters: int
    kernel_size: Size = 3
    strides: Size = 1
    padding: Padding = "valid"
    padding_mode: str = "zeros"
    dilation: Size = 1
    groups: int = 1
    # Input channels of each filter; None: all. Used by layer C3 of LeNet-5.
    connections: tuple[tuple[int, ...], ...] | None = dataclasses.field(default=None, kw_only=True)

    def geometry(self, x: Signal) -> Step:
        filters = count(self.filters, "filters")
        k_S, step = slide(x, "kernel", self.kernel_size, self.strides, self.padding, self.dilation, self.padding_mode)
        weights = self._connected(x.channels) * math.prod(k_S)
        return step.costs(filters, weights + filters * self.use_bias, weights * math.prod(step.out.spatial))

    def _connected(self, channels: int) -> int:
        """Number of connected pairs of input channel and filter."""
        groups = check_groups(self.groups, channels, self.filters)
        if self.connections is None:
            return channels * self.filters // groups
        check_connections(self.connections, channels, self.filters, groups)
        return sum(map(len, self.connections))

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import conv

        return forward.module(conv.Conv, self)(x)

    def fused(self, x: "jax.Array", forward: Pass, following: Follower) -> "tuple[jax.Array, jax.Array] | None":
        """With the max-pool after it, if its windows are adjacent; with tanh, with the average pool after it."""
        from cnn_jax.nn.modules import activation, conv

        if type(self) is not Conv or self.activation not in MONOTONE:
            return None
        if self.activation in TANHS and (type(following) is AvgPool or type(following) is Subsample):
            y = dataclasses.replace(self, activation="linear").apply(x, forward)
            return activation.activation(self.activation)(y), following.after(self.activation, y, forward)
        if type(following) is not MaxPool:
            return None
        if following.strides not in (None, following.window) or following.padding != "valid" or following.dilation != 1:
            return None
        both: tuple[jax.Array, jax.Array] = forward.module(conv.PooledConv, self, window=following.window)(x)
        return both

    def initializer(self, parameter: str, rank: int) -> Draw | None:
        draw = super().initializer(parameter, rank)
        return packed(draw, self.connections) if draw and parameter == "kernel" and self.connections is not None else draw

    @property
    def compiled_in_c(self) -> bool:
        in_c = self.activation in ("linear", "relu", *TANHS)
        return in_c and self.groups == 1 and set(plain((self.dilation,))) <= {1, (1, 1)}


@dataclasses.dataclass(frozen=True)
class DepthwiseConv(Weighted):
    """A convolution per input channel: `multiplier` filters each."""

    kind: ClassVar[str] = "depthwise"
    kernel_size: Size = 3
    multiplier: int = 1
    strides: Size = 1
    padding: Padding = "valid"
    padding_mode: str = "zeros"
    dilation: Size = 1

    def geometry(self, x: Signal) -> Step:
        k_S, step = slide(x, "kernel", self.kernel_size, self.strides, self.padding, self.dilation, self.padding_mode)
        filters = x.channels * count(self.multiplier, "multiplier")
        weights = filters * math.prod(k_S)
        return step.costs(filters, weights + filters * self.use_bias, weights * math.prod(step.out.spatial))

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import conv

        return forward.module(conv.DepthwiseConv, self)(x)


@dataclasses.dataclass(frozen=True)
class SeparableConv(Weighted):
    """A depthwise convolution, then a 1x1 convolution over its channels (Keras's SeparableConv2D): one bias, at the end."""

    kind: ClassVar[str] = "separable"
    filters: int
    kernel_size: Size = 3
    multiplier: int = 1
    strides: Size = 1
    padding: Padding = "valid"
    padding_mode: str = "zeros"
    dilation: Size = 1

    def geometry(self, x: Signal) -> Step:
        k_S, step = slide(x, "kernel", self.kernel_size, self.strides, self.padding, self.dilation, self.padding_mode)
        between = x.channels * count(self.multiplier, "multiplier")
        weights = between * (math.prod(k_S) + count(self.filters, "filters"))
        return step.costs(self.filters, weights + self.filters * self.use_bias, weights * math.prod(step.out.spatial))

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import conv

        return forward.module(conv.SeparableConv, self)(x)


@dataclasses.dataclass(frozen=True)
class ConvTranspose(Weighted):
    """Gradient of a convolution with respect to its input, used as an upsampling layer."""

    kind: ClassVar[str] = "conv_transpose"
    filters: int
    kernel_size: Size = 3
    strides: Size = 1
    padding: Padding = "valid"
    output_padding: Size = 0
    dilation: Size = 1
    groups: int = 1

    def geometry(self, x: Signal) -> Step:
        rank, filters = spatial_rank(x), count(self.filters, "filters")
        k_S, s_S = as_tuple(self.kernel_size, rank, "kernel_size"), as_tuple(self.strides, rank, "strides")
        d_S = as_tuple(self.dilation, rank, "dilation")
        pads, out_S = transpose_geometry(x.spatial, k_S, s_S, d_S, self.padding, self.output_padding)
        fields = None
        if x.fields is not None and max(s_S) == 1:  # equivalent to a convolution with the flipped kernel
            lows = ((k - 1) * d - low for k, d, (low, _) in zip(k_S, d_S, pads, strict=True))
            fields = tuple(map(Field.through, x.fields, k_S, s_S, d_S, lows))
        weights = x.channels * filters // check_groups(self.groups, x.channels, filters) * math.prod(k_S)
        # Every input is multiplied by every weight once, as in the corresponding convolution.
        macs = weights * math.prod(x.spatial)
        return Step(Signal((*out_S, filters), fields), weights + filters * self.use_bias, macs, pads)

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import conv

        return forward.module(conv.ConvTranspose, self)(x)


def check_connections(connections: Sequence[Sequence[int]], channels: int, filters: int, groups: int) -> None:
    """Raise GeometryError unless every filter has one or more distinct input channels, and there is one group."""
    valid = len(connections) == filters and all(
        inputs and len(set(inputs)) == len(inputs) and set(inputs) <= set(range(channels)) for inputs in connections
    )
    if not valid or groups > 1:
        raise GeometryError(
            f"connections must list, for each of its {filters} filters, input channels between 0 and {channels - 1} "
            "once each, and groups must be 1"
        )
