"""Linen module of `nn.dense`."""

import jax
from flax.linen.dtypes import promote_dtype

from cnn_jax.nn.modules.base import Weighted
from cnn_jax.ops.conv import add_bias, dense


class Dense(Weighted):
    """Matrix product over the last axis with kernel (inputs, units), then bias, then activation."""

    units: int

    def affine(self, x: jax.Array) -> jax.Array:
        x, kernel, bias = promote_dtype(x, self.kernel(x.shape[-1], self.units), self.bias(self.units))
        if bias is None or x.ndim > 2:
            return x @ kernel if bias is None else add_bias(x @ kernel, bias)
        return dense(x, kernel, bias)
