"""Linen module of batch normalization; group and layer normalization are Flax's own."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from cnn_jax import nn as specs
from cnn_jax.aliases import PyTree
from cnn_jax.nn.modules.base import parameter_dtype
from cnn_jax.ops.linear import Arrays, Rule, canonical, linear


def _like(values: jax.Array, x: jax.Array) -> jax.Array:
    """Reshape values (C,) to the rank of x (..., C)."""
    return lax.broadcast_to_rank(values, x.ndim)


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean and the (biased) variance of x (..., C) per channel.

    The mean of squares minus the squared mean takes one pass, but cancels if the mean is much larger than the deviation: then a
    second pass sums the squared differences from the mean.
    """
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    var = jnp.maximum(0, (x * x).mean(axes) - mean * mean)
    return mean, lax.cond(jnp.all(mean * mean <= 4 * var), lambda: var, lambda: jnp.square(x - _like(mean, x)).mean(axes))


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _normalized(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalize x (..., C) per channel, times scale plus bias; also return mean and (biased) variance of x.

    The gradient is in closed form (Ioffe and Szegedy 2015, section 3): two sums and one pass over x and the gradient. Automatic
    differentiation takes twice as many passes and twice the compile time.
    """
    mean, var = _moments(x)
    slope = scale * jax.lax.rsqrt(var + epsilon)
    return x * _like(slope, x) + _like(bias - mean * slope, x), mean, var


def _normalized_tangent(epsilon: float, residuals: Arrays, arguments: Arrays) -> Arrays:
    (x, scale, mean, var), (dx, dscale, dbias) = residuals, arguments
    axes = tuple(range(x.ndim - 1))
    inverse = jax.lax.rsqrt(var + epsilon)
    centred, dmean = x - _like(mean, x), dx.mean(axes)
    dvar = 2 * (centred * dx).mean(axes)
    dslope = dscale * inverse - scale * inverse**3 * dvar / 2
    of_dx, of_x, constant = (_like(values, x) for values in (scale * inverse, dslope, dbias))
    return [(dx - _like(dmean, x)) * of_dx + centred * of_x + constant, dmean, dvar]


def _normalized_transpose(epsilon: float, residuals: Arrays, cotangents: Arrays) -> Arrays:
    (x, scale, mean, var), (y, y_mean, y_var) = residuals, cotangents
    axes, count = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
    inverse = jax.lax.rsqrt(var + epsilon)
    bias = y.sum(axes)
    scale_gradient = ((y * x).sum(axes) - mean * bias) * inverse
    # slope * (y - (bias + normalized * scale_gradient) / count), plus the gradient through the statistics; linear in y and x.
    slope = scale * inverse
    of_x = (2 * y_var - slope * inverse * scale_gradient) / count
    constant = (y_mean - slope * bias) / count - of_x * mean
    return [y * _like(slope, x) + x * _like(of_x, x) + _like(constant, x), scale_gradient, bias]


_NORMALIZED = Rule(_normalized_tangent, _normalized_transpose)


@_normalized.defjvp
def _normalized_jvp(epsilon: float, primals: Arrays, tangents: Arrays) -> tuple[PyTree, PyTree]:
    x, scale, _ = primals
    outputs = _, mean, var = _normalized(*primals, epsilon)
    return outputs, tuple(linear(_NORMALIZED, epsilon, (x, scale, mean, var), tangents, outputs))


class BatchNorm(nn.Module):
    """Batch normalization over all axes but channels, with the variables and results of `flax.linen.BatchNorm`.

    Statistics are computed in float32 or wider. With `train`, they are those of the batch, and the running statistics are
    updated with weight 1 - momentum; otherwise the running statistics are used.
    """

    momentum: float = specs.BatchNorm.momentum
    epsilon: float = specs.BatchNorm.epsilon
    use_scale: bool = specs.BatchNorm.use_scale
    use_bias: bool = specs.BatchNorm.use_bias
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = x.shape[-1:]
        wide = jnp.promote_types(x.dtype, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = bias = None
        if self.use_scale:
            scale = self.param("scale", nn.initializers.ones, shape, parameter_dtype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape, parameter_dtype(self.dtype))
        scale = jnp.ones(shape, wide) if scale is None else scale.astype(wide)
        bias = jnp.zeros(shape, wide) if bias is None else bias.astype(wide)
        if train:
            y, batch_mean, batch_var = _normalized(canonical(x.astype(wide)), scale, bias, self.epsilon)
            if not self.is_initializing():
                for running, now in ((mean, batch_mean), (var, batch_var)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * now
        else:
            slope = scale * jax.lax.rsqrt(var.value + self.epsilon)
            y = x * _like(slope, x) + _like(bias - mean.value * slope, x)
        return y.astype(self.dtype or x.dtype)
