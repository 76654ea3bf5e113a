"""Linen modules of batch normalization; group and layer normalization are Flax's own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnn_jax import nn as specs
from cnn_jax.nn.modules.base import parameter_dtype
from cnn_jax.ops.norm import batch_norm, normalized


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
        dtype = self.dtype or x.dtype
        x = x.astype(jnp.promote_types(x.dtype, dtype))
        scale, bias = self.affine(x)
        if train:
            return self.of_batch(x, scale, bias)[0].astype(dtype)
        mean, var = self.statistics(x)
        return normalized(x, scale, bias, mean.value, var.value, self.epsilon).astype(dtype)

    def affine(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return scale and bias (C,), float32 or wider; ones and zeros where they are no parameters."""
        shape, wide = x.shape[-1:], jnp.promote_types(x.dtype, jnp.float32)
        stored = parameter_dtype(self.dtype)
        scale = self.param("scale", nn.initializers.ones, shape, stored) if self.use_scale else jnp.ones(shape)
        bias = self.param("bias", nn.initializers.zeros, shape, stored) if self.use_bias else jnp.zeros(shape)
        return scale.astype(wide), bias.astype(wide)

    def statistics(self, x: jax.Array) -> tuple[nn.Variable, nn.Variable]:
        """Return the variables of running mean and variance (C,)."""
        shape = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        return mean, self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)

    def of_batch(
        self, x: jax.Array, scale: jax.Array, bias: jax.Array, shortcut: jax.Array | None = None, *, relu: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return `batch_norm` of x, and update the running statistics."""
        y, mean, var = batch_norm(x, scale, bias, self.epsilon, shortcut, relu=relu)
        for running, now in zip(self.statistics(x), (mean, var), strict=True):
            if not self.is_initializing():
                running.value = self.momentum * running.value + (1 - self.momentum) * now
        return y, mean, var


class JoinedBatchNorm(BatchNorm):
    """A `BatchNorm` in training, joined with what follows it: addition of a shortcut, relu. Returns the outputs of both.

    On CPU they are one operation (see `ops.norm`); the output of the BatchNorm is then computed only if it is used.
    """

    relu: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, shortcut: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:  # type: ignore[override]
        scale, bias = self.affine(x)
        y, mean, var = self.of_batch(x, scale, bias, shortcut, relu=self.relu)
        return _alone(x, scale, bias, mean, var, epsilon=self.epsilon), y


@functools.partial(jax.jit, static_argnames="epsilon")
def _alone(x: jax.Array, scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array, *, epsilon: float) -> jax.Array:
    """`normalized` as one equation of the traced program: where it is unused, there is less to eliminate."""
    return normalized(x, scale, bias, mean, var, epsilon).astype(x.dtype)
