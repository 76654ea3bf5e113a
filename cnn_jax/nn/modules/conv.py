"""Linen modules of `nn.conv`."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cnn_jax import nn as specs
from cnn_jax.nn.conv import check_connections
from cnn_jax.nn.functional import Convolution, conv, conv_transpose, max_pool
from cnn_jax.nn.initializers import connection_indices, packed
from cnn_jax.nn.modules.activation import activation
from cnn_jax.nn.modules.base import Weighted, initializer
from cnn_jax.nn.padding import Padding, Size, array_rank, as_tuple
from cnn_jax.nn.spec import check_groups, count
from cnn_jax.ops.conv import conv_max_pool, conv_valid


class Sliding(Weighted, kw_only=True):
    """A layer whose kernel slides over the spatial axes."""

    strides: Size = specs.Conv.strides
    padding: Padding = specs.Conv.padding
    dilation: Size = specs.Conv.dilation


class Padded(Sliding, kw_only=True):
    """A sliding layer whose padding has a mode."""

    padding_mode: str = specs.Conv.padding_mode

    def convolution(self, x: jax.Array, kernel: jax.Array, bias: jax.Array | None, groups: int) -> Convolution:
        return Convolution.of(x, kernel, bias, self.strides, self.padding, self.padding_mode, self.dilation, groups)

    def activated(self, how: Convolution) -> jax.Array:
        """Compute the convolution and the activation; relu is fused."""
        relu = activation(self.activation) is jax.nn.relu
        y = conv_valid(*how.arrays, **how.settings, relu=relu)
        return y if relu else self.activate(y)


class Conv(Padded):
    """`conv` with parameters kernel (*K, C // groups, filters) and bias (filters,).

    `connections` lists the input channels of each filter; only connected entries are parameters, packed as (*K, I).
    """

    filters: int
    kernel_size: Size = specs.Conv.kernel_size
    groups: int = dataclasses.field(default=specs.Conv.groups, kw_only=True)
    connections: Sequence[Sequence[int]] | None = dataclasses.field(default=None, kw_only=True)

    def outputs(self, x: jax.Array) -> jax.Array:
        return self.activated(self.convolution(x, *self.weights(x), self.groups))

    def weights(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Return the dense kernel and the bias for the input `x`."""
        sizes = as_tuple(self.kernel_size, array_rank(x), "kernel_size")
        check_groups(self.groups, x.shape[-1], count(self.filters, "filters"))
        if self.connections is None:
            kernel = self.kernel(*sizes, x.shape[-1] // self.groups, self.filters)
        else:
            kernel = self.sparse_kernel(sizes, x.shape[-1], self.connections)
        return kernel, self.bias(self.filters)

    def sparse_kernel(self, sizes: tuple[int, ...], channels: int, connections: Sequence[Sequence[int]]) -> jax.Array:
        """Unpack the parameters into a dense kernel (*K, C, F), with zeros for missing connections."""
        check_connections(connections, channels, self.filters, self.groups)
        channels_I, filters_I = connection_indices(connections)
        init = packed(initializer(self.kernel_init), connections)
        values = self.parameter("kernel", init, (*sizes, len(filters_I)))
        dense = jnp.zeros((*sizes, channels, self.filters), values.dtype)
        return dense.at[..., channels_I, filters_I].set(values, unique_indices=True)


class PooledConv(Conv):
    """A `Conv` fused with the non-overlapping max-pool after it; returns the outputs of both.

    On CPU, one loop computes both where that is faster (see `ops.conv.conv_max_pool`); the output of the Conv is then computed
    only if it is used. The activation must be in `MONOTONE`.
    """

    window: Size = dataclasses.field(default=specs.MaxPool.window, kw_only=True)

    def outputs(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:  # type: ignore[override]
        how = self.convolution(x, *self.weights(x), self.groups)
        y = self.activated(how)
        window = as_tuple(self.window, array_rank(x), "window")
        function = activation(self.activation)
        pooled = conv_max_pool(*how.arrays, **how.settings, window=window, activation=function)
        return y, max_pool(y, window) if pooled is None else pooled


class DepthwiseConv(Padded):
    """A convolution per channel: kernel (*K, 1, C * multiplier), where filter i reads channel i // multiplier."""

    kernel_size: Size = specs.DepthwiseConv.kernel_size
    multiplier: int = specs.DepthwiseConv.multiplier

    def outputs(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        sizes = as_tuple(self.kernel_size, array_rank(x), "kernel_size")
        kernel = self.kernel(*sizes, 1, channels * self.multiplier)
        return self.activated(self.convolution(x, kernel, self.bias(channels * self.multiplier), groups=channels))


class SeparableConv(Padded):
    """A depthwise convolution (depthwise_kernel), a 1x1 convolution over its channels (pointwise_kernel), and one bias."""

    filters: int
    kernel_size: Size = specs.SeparableConv.kernel_size
    multiplier: int = dataclasses.field(default=specs.SeparableConv.multiplier, kw_only=True)

    def outputs(self, x: jax.Array) -> jax.Array:
        rank, channels = array_rank(x), x.shape[-1]
        sizes = as_tuple(self.kernel_size, rank, "kernel_size")
        depthwise = self.kernel(*sizes, 1, channels * self.multiplier, name="depthwise_kernel")
        pointwise = self.kernel(*(1,) * rank, channels * self.multiplier, self.filters, name="pointwise_kernel")
        how = self.convolution(x, depthwise, None, groups=channels)
        return self.activate(conv(conv_valid(*how.arrays, **how.settings), pointwise, self.bias(self.filters)))


class ConvTranspose(Sliding):
    """`conv_transpose` with parameters kernel (*K, filters // groups, C) and bias (filters,)."""

    filters: int
    kernel_size: Size = specs.ConvTranspose.kernel_size
    output_padding: Size = dataclasses.field(default=specs.ConvTranspose.output_padding, kw_only=True)
    groups: int = dataclasses.field(default=specs.ConvTranspose.groups, kw_only=True)

    def affine(self, x: jax.Array) -> jax.Array:
        sizes = as_tuple(self.kernel_size, array_rank(x), "kernel_size")
        check_groups(self.groups, x.shape[-1], count(self.filters, "filters"))
        return conv_transpose(
            x,
            self.kernel(*sizes, self.filters // self.groups, x.shape[-1]),
            self.bias(self.filters),
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
        )
