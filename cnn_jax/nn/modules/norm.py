"""Linen modules of batch normalization; group and layer normalization are Flax's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnn_jax import nn as specs
from cnn_jax.nn.modules.base import parameter_dtype
from cnn_jax.ops.norm import batch_norm, normalize


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
        if train:
            return self.of_batch(x, *self.affine(x))[0].astype(dtype)
        return normalize(x, *self.affine(x), self.running(x), self.epsilon).astype(dtype)

    def affine(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return scale and bias (C,), float32 or wider; ones and zeros where they are no parameters."""
        shape, wide = x.shape[-1:], jnp.promote_types(x.dtype, jnp.float32)
        stored = parameter_dtype(self.dtype)
        scale = self.param("scale", nn.initializers.ones, shape, stored) if self.use_scale else jnp.ones(shape)
        bias = self.param("bias", nn.initializers.zeros, shape, stored) if self.use_bias else jnp.zeros(shape)
        return scale.astype(wide), bias.astype(wide)

    def running(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the running mean and variance (C,)."""
        mean, var = self.statistics(x)
        return mean.value, var.value

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
    """A `BatchNorm` joined with what follows it: addition of a shortcut, relu. Returns the outputs of both.

    On CPU they are one operation (see `ops.norm`); the output of the BatchNorm is then computed only if it is used.
    """

    relu: bool = False

    @nn.compact
    def __call__(  # type: ignore[override]
        self, x: jax.Array, train: bool, shortcut: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        scale, bias = self.affine(x)
        if train:
            y, mean, var = self.of_batch(x, scale, bias, shortcut, relu=self.relu)
            statistics = mean, var
        else:
            statistics = self.running(x)
            y = normalize(x, scale, bias, statistics, self.epsilon, shortcut, relu=self.relu)
        return _alone(x, scale, bias, statistics, epsilon=self.epsilon), y


# One equation of the traced program: where it is unused, there is less to eliminate.
_alone = jax.jit(normalize, static_argnames="epsilon")
