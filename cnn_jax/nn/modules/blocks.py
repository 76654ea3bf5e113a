"""Linen modules and functions of `nn.blocks`."""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cnn_jax import nn as specs
from cnn_jax.errors import UsageError
from cnn_jax.nn.modules.base import Named
from cnn_jax.nn.padding import Size, array_rank, as_tuple


def merge(how: str, branches: Sequence[jax.Array]) -> jax.Array:
    """Add the outputs of branches ('add'), or concatenate them along channels ('concat')."""
    if how not in ("add", "concat"):
        raise UsageError(f"unknown merge {how!r}: must be one of add, concat")
    if len({y.shape if how == "add" else y.shape[:-1] for y in branches}) != 1:
        raise UsageError(f"branches of shapes {', '.join(str(y.shape[1:]) for y in branches)} cannot be merged by {how!r}")
    return functools.reduce(operator.add, branches) if how == "add" else jnp.concatenate(branches, axis=-1)


class PadChannels(Named):
    """ResNet's shortcut "A" (He et al. 2016): every `strides`-th position, and zeros as channels C to `filters`."""

    filters: int
    strides: Size = specs.PadChannels.strides

    def transform(self, x: jax.Array) -> jax.Array:
        rank, channels = array_rank(x), x.shape[-1]
        strides = as_tuple(self.strides, rank, "strides")
        if self.filters < channels:
            raise UsageError(f"filters={self.filters} must be at least the {channels} channels of the input")
        x = x[(slice(None), *(slice(None, None, s) for s in strides))]
        return jnp.pad(x, ((0, 0),) * (rank + 1) + ((0, self.filters - channels),))
