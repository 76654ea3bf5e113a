"""Batch normalization, with the addition of a shortcut and relu: one operation in C on CPU, and its gradient another.

As in `ops.conv`, what is traced is the same on every machine with a C compiler; lowered for another platform, or exported, the
operations are made of jax.numpy, which XLA fuses there. docs/how-a-kernel-works.md describes the C.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops.call import Function, Operation, Results, call
from cnn_jax.ops.conv import traced
from cnn_jax.ops.linear import Arrays, Levels, Rule, batched, canonical, linear


class How(NamedTuple):
    """Static parameters of a normalization. `native`: in C on CPU."""

    epsilon: float
    shortcut: bool
    relu: bool
    native: bool


def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, shortcut: jax.Array | None = None, *, relu: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalize x (..., C) per channel, times scale (C,) plus bias (C,); add `shortcut`, an array like x; apply relu.

    Statistics and sums are float32 or wider, and the result is rounded to the type of x once. A NaN goes through relu.

    Returns:
      The result (..., C), and mean and (biased) variance of x (C,).
    """
    how, arrays = _how_and_arrays(x, (scale, bias), epsilon, shortcut, relu=relu)
    y, mean, var = _norm(how, *arrays)
    return y, mean, var


def normalize(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    statistics: tuple[jax.Array, jax.Array],
    epsilon: float,
    shortcut: jax.Array | None = None,
    *,
    relu: bool = False,
) -> jax.Array:
    """Compute the result of `batch_norm` for a given mean and variance (C,)."""
    how, arrays = _how_and_arrays(x, (scale, bias, *statistics), epsilon, shortcut, relu=relu)
    return _normalize(how, *arrays)[0]


def _how_and_arrays(
    x: jax.Array, values: Arrays, epsilon: float, shortcut: jax.Array | None, *, relu: bool
) -> tuple[How, list[jax.Array]]:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    native = traced() == "native" and wide == jnp.float32 and x.size > 0
    arrays = [x, *(value.astype(wide) for value in values), *(() if shortcut is None else (shortcut,))]
    return How(float(epsilon), shortcut is not None, relu, native), [canonical(array) for array in arrays]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _norm(how: How, x: jax.Array, scale: jax.Array, bias: jax.Array, *shortcut: jax.Array) -> list[jax.Array]:
    """The result, mean and variance."""
    arrays = (x, scale, bias, *shortcut)
    return call(_FORWARD, how, [_like(x), _like(scale), _like(scale)], *arrays) if how.native else _plain(how, *arrays)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _normalize(how: How, x: jax.Array, *arrays: jax.Array) -> list[jax.Array]:
    """`arrays`: scale, bias, mean, variance, perhaps a shortcut."""
    return call(_GIVEN, how, [_like(x)], x, *arrays) if how.native else _plain_normalize(how, x, *arrays)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _gradient(how: How, gradient: jax.Array, x: jax.Array, *arrays: jax.Array) -> list[jax.Array]:
    """The gradients of x, scale and bias; with relu and a shortcut also that of the shortcut.

    Args:
      gradient: of the result.
      arrays: scale, mean, variance, gradient of mean, gradient of variance; with relu also the result.
    """
    of_scale, of_x = _like(arrays[0]), _like(x)
    results = [of_x, of_scale, of_scale, *([of_x] if how.relu and how.shortcut else [])]
    if how.native:
        return call(_BACKWARD, how, results, gradient, x, *arrays)
    return _plain_gradient(how, gradient, x, *arrays)


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


# --------------------------------------------------------------------------------------------------------- derivatives


def _tangent(how: How, residuals: Arrays, arguments: Arrays) -> Arrays:
    (x, scale, mean, var, seen), (dx, dscale, dbias, *dshortcut) = residuals, arguments
    axes, dtype = tuple(range(x.ndim - 1)), x.dtype
    x, dx = x.astype(scale.dtype), dx.astype(scale.dtype)
    inverse = lax.rsqrt(var + how.epsilon)
    centred, dmean = x - _per_channel(mean, x), dx.mean(axes)
    dvar = 2 * (centred * dx).mean(axes)
    dslope = dscale * inverse - scale * inverse**3 * dvar / 2
    of_dx, of_x, constant = (_per_channel(values, x) for values in (scale * inverse, dslope, dbias))
    dy = (dx - _per_channel(dmean, x)) * of_dx + centred * of_x + constant
    for more in dshortcut:
        dy = dy + more.astype(dy.dtype)
    return [(jnp.where(seen > 0, dy, 0) if how.relu else dy).astype(dtype), dmean, dvar]


def _transpose(how: How, residuals: Arrays, cotangents: Arrays) -> Arrays:
    (*arrays, seen), (gradient, *of_statistics) = residuals, cotangents
    found = _gradient(how, gradient, *arrays, *of_statistics, *([seen] if how.relu else []))
    return [*found, gradient] if how.shortcut and not how.relu else found


_NORM = Rule(_tangent, _transpose)


@_norm.defjvp
def _norm_jvp(how: How, primals: Arrays, tangents: Arrays) -> tuple[list[jax.Array], list[jax.Array]]:
    x, scale, bias, *_ = primals
    outputs = y, mean, var = _norm(how, *primals)
    seen = y if how.relu else bias  # any array that exists, so that the result can be freed
    return outputs, linear(_NORM, how, (x, scale, mean, var, seen), tangents, outputs)


# In training these are differentiated once and not at all: the derivatives of the formulas in jax.numpy are quick enough.


@_gradient.defjvp
def _gradient_jvp(how: How, primals: Arrays, tangents: Arrays) -> tuple[list[jax.Array], list[jax.Array]]:
    return _gradient(how, *primals), jax.jvp(functools.partial(_plain_gradient, how), primals, tangents)[1]


@_normalize.defjvp
def _normalize_jvp(how: How, primals: Arrays, tangents: Arrays) -> tuple[list[jax.Array], list[jax.Array]]:
    return _normalize(how, *primals), jax.jvp(functools.partial(_plain_normalize, how), primals, tangents)[1]


# ----------------------------------------------------------------------------------------------------------- jax.numpy


def _per_channel(values: jax.Array, x: jax.Array) -> jax.Array:
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
    close = jnp.all(mean * mean <= 4 * var)
    return mean, lax.cond(close, lambda: var, lambda: jnp.square(x - _per_channel(mean, x)).mean(axes))


def _moments_in_one_pass(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean and the (biased) variance of x (N, ..., C) per channel, by sums of differences from the first example.

    The mean of that example differs from the mean of all by at most sqrt(N - 1) deviations, so the subtraction magnifies the
    relative errors of the sums by at most N. Under vmap, `_moments` would make both passes and select.
    """
    axes = tuple(range(x.ndim - 1))
    first = x[:1].mean(axes)
    differences = x - _per_channel(first, x)
    mean = differences.mean(axes)
    return first + mean, jnp.maximum(0, jnp.square(differences).mean(axes) - jnp.square(mean))


def _plain(how: How, x: jax.Array, scale: jax.Array, bias: jax.Array, *shortcut: jax.Array) -> list[jax.Array]:
    mean, var = _moments(x.astype(scale.dtype))
    return [*_plain_normalize(how, x, scale, bias, mean, var, *shortcut), mean, var]


def _on_gpu(how: How, x: jax.Array, scale: jax.Array, bias: jax.Array, *shortcut: jax.Array) -> list[jax.Array]:
    """Compute what `_plain` does, with fewer bytes of a GPU's memory read; a TPU takes longer for both differences."""
    mean, var = _moments_in_one_pass(x.astype(scale.dtype))
    (y,) = _plain_normalize(how, x, scale, bias, mean, var, *shortcut)
    # XLA would compute the end of a residual block again in its readers, each time from two or three arrays.
    return [lax.optimization_barrier(y) if how.shortcut else y, mean, var]


def _plain_normalize(how: How, x: jax.Array, *arrays: jax.Array) -> list[jax.Array]:
    scale, bias, mean, var, *shortcut = arrays
    slope = scale * lax.rsqrt(var + how.epsilon)
    y = x * _per_channel(slope, x) + _per_channel(bias - mean * slope, x)
    for more in shortcut:
        y = y + more.astype(y.dtype)
    return [(jax.nn.relu(y) if how.relu else y).astype(x.dtype)]


def _plain_gradient(how: How, gradient: jax.Array, x: jax.Array, *arrays: jax.Array) -> list[jax.Array]:
    """In closed form (Ioffe and Szegedy 2015, section 3): two sums and one pass over x and the gradient.

    Automatic differentiation takes twice as many passes and twice the compile time.
    """
    scale, mean, var, of_mean, of_var, *seen = arrays
    if how.relu:
        gradient = jnp.where(seen[0] > 0, gradient, 0)
    axes, count = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
    y, wide = gradient.astype(scale.dtype), x.astype(scale.dtype)
    inverse = lax.rsqrt(var + how.epsilon)
    bias = y.sum(axes)
    scale_gradient = ((y * wide).sum(axes) - mean * bias) * inverse
    # slope * (y - (bias + normalized * scale_gradient) / count), plus the gradient through the statistics; linear in y and x.
    slope = scale * inverse
    of_x = (2 * of_var - slope * inverse * scale_gradient) / count
    constant = (of_mean - slope * bias) / count - of_x * mean
    of_y, of_x, constant = (_per_channel(values, x) for values in (slope, of_x, constant))
    found = [(y * of_y + wide * of_x + constant).astype(x.dtype), scale_gradient, bias]
    return [*found, gradient] if how.relu and how.shortcut else found


# ----------------------------------------------------------------------------------------------------------- calls of C


def _in_c(*arrays: jax.Array, name: str, how: How, results: Results) -> list[jax.Array]:
    """C takes float32 and bfloat16; float16 is converted."""
    numbers = np.array([how.epsilon, how.relu], np.float64)
    given = [array.astype(_in_c_as(array.dtype)) for array in arrays]
    # The gradients are written over x and the gradient of the result, unless these are read afterwards.
    places = {} if name != _BACKWARD.name else {1: 0, **({0: 3} if len(results) > 3 else {})}
    shapes = [result.update(dtype=_in_c_as(result.dtype)) for result in results]
    outputs = jax.ffi.ffi_call(name, shapes, input_output_aliases=places)(*given, how=numbers)
    return [output.astype(result.dtype) for output, result in zip(outputs, results, strict=True)]


def _in_c_as(dtype: np.dtype) -> np.dtype:
    return np.dtype(jnp.bfloat16 if dtype == jnp.bfloat16 else np.float32)


def _elsewhere(name: str, how: How, results: Results, levels: Levels, platform: str) -> Function:
    forward = _on_gpu if platform == "gpu" else _plain
    made: dict[str, Function] = {_FORWARD.name: forward, _GIVEN.name: _plain_normalize, _BACKWARD.name: _plain_gradient}
    return batched(functools.partial(made[name], how), levels)


_FORWARD, _GIVEN, _BACKWARD = (
    Operation(name, _in_c, _elsewhere) for name in ("cnn_jax_norm", "cnn_jax_norm_given", "cnn_jax_norm_gradient")
)
