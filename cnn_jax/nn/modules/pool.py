"""Linen modules of `nn.pool`."""

import jax
import jax.numpy as jnp

from cnn_jax import nn as specs
from cnn_jax.nn.functional import avg_pool, max_pool
from cnn_jax.nn.modules.activation import Function, activation, tanh_of
from cnn_jax.nn.modules.base import Named
from cnn_jax.nn.padding import Padding, Size, array_rank, as_tuple
from cnn_jax.ops import pool


class MaxPool(Named):
    """`max_pool` as a module."""

    window: Size = specs.MaxPool.window
    strides: Size | None = specs.MaxPool.strides
    padding: Padding = specs.MaxPool.padding
    dilation: Size = specs.MaxPool.dilation

    def transform(self, x: jax.Array) -> jax.Array:
        return max_pool(x, self.window, strides=self.strides, padding=self.padding, dilation=self.dilation)


class AvgPool(Named):
    """`avg_pool` as a module."""

    window: Size = specs.AvgPool.window
    strides: Size | None = specs.AvgPool.strides
    padding: Padding = specs.AvgPool.padding
    count_include_pad: bool = specs.AvgPool.count_include_pad
    inner: str | Function = "linear"  # activation of the layer before, fused

    def transform(self, x: jax.Array) -> jax.Array:
        if self.padding == "valid" and self.strides in (None, self.window):
            y = fused(x, self.window, self.inner)
            if y is not None:
                return y
        x = activation(self.inner)(x)
        return avg_pool(x, self.window, strides=self.strides, padding=self.padding, count_include_pad=self.count_include_pad)


class GlobalMaxPool(Named):
    """Maximum over all positions: (N, *S, C) -> (N, C)."""

    def transform(self, x: jax.Array) -> jax.Array:
        return jnp.max(x, axis=tuple(range(1, 1 + array_rank(x))))


class GlobalAvgPool(Named):
    """Mean over all positions: (N, *S, C) -> (N, C)."""

    def transform(self, x: jax.Array) -> jax.Array:
        return jnp.mean(x, axis=tuple(range(1, 1 + array_rank(x))))


def fused(
    x: jax.Array,
    window: Size,
    inner: str | Function,
    outer: str | Function = "linear",
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
) -> jax.Array | None:
    """outer(scale * sum(inner(x)) + bias) over adjacent windows as one operation; without scale and bias of the mean.

    None: there is no operation for this window, type or activation.
    """
    try:
        how = pool.How(tanh_of(inner), tanh_of(outer))
    except LookupError:
        return None
    return pool.average_pool(how, x, scale, bias) if pool.fits(x, as_tuple(window, array_rank(x), "window")) else None
