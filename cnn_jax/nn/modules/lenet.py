"""Linen modules of `nn.lenet`."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax import nn as specs
from cnn_jax.errors import UsageError
from cnn_jax.nn.functional import avg_pool
from cnn_jax.nn.modules.activation import Function, activation
from cnn_jax.nn.modules.base import Named, Parametric
from cnn_jax.nn.modules.pool import fused
from cnn_jax.nn.padding import Size, array_rank, as_tuple
from cnn_jax.ops.conv import sum_dtype


class Subsample(Parametric):
    """LeNet-5's pooling (LeCun et al. 1998): window sum times `scale` plus `bias`, both trained per channel, then activation.

    `scale` is initialized to one over the window size, which is average pooling.
    """

    window: Size = specs.Subsample.window
    inner: str | Function = "linear"  # activation of the layer before, fused

    def outputs(self, x: jax.Array) -> jax.Array:
        size = math.prod(as_tuple(self.window, array_rank(x), "window"))
        scale = self.parameter("scale", jax.nn.initializers.constant(1 / size), (x.shape[-1],))
        bias = self.parameter("bias", "zeros", (x.shape[-1],))
        y = fused(x, self.window, self.inner, self.activation, scale, bias)
        if y is not None:
            return y
        x = activation(self.inner)(x)
        dtype = jnp.result_type(x, scale, bias)
        wide = sum_dtype(dtype)  # the gradients of scale and bias are sums over all positions
        scale, bias = (lax.broadcast_to_rank(one.astype(wide), x.ndim) for one in (scale, bias))
        return self.activate((avg_pool(x.astype(wide), self.window) * (size * scale) + bias).astype(dtype))


class RBF(Named):
    """LeNet-5's output layer: minus half the squared distance of x (N, features) to the code of each class. No parameters."""

    codes: Sequence[Sequence[int]]

    def transform(self, x: jax.Array) -> jax.Array:
        codes_KC = np.array(self.codes)
        if codes_KC.shape[1:] != x.shape[1:]:
            raise UsageError(f"codes have length {codes_KC.shape[1:]}, but x has {x.shape[1:]} features")
        wide = x.astype(sum_dtype(x.dtype))
        return (-0.5 * jnp.sum((wide[:, None] - codes_KC[None].astype(wide.dtype)) ** 2, axis=-1)).astype(x.dtype)
