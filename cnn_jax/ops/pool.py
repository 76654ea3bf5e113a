"""Average pool of 2x2 with what is around it in LeNet-5, as one operation of JAX: `native/pool.c` on CPU, in float32.

A convolution's tanh, the pool, its coefficient and bias and the tanh after it are one loop forward and one backward, which
stores nothing but its result. XLA makes twenty of them, which take five times longer to run and half a second to compile.
Letters: N images, H rows, W columns, C channels.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops import conv
from cnn_jax.ops.call import Function, Operation, Results, call
from cnn_jax.ops.linear import Arrays, Levels, Rule, batched, canonical, linear

WINDOW = (2, 2)


@dataclasses.dataclass(frozen=True)
class Tanh:
    """The function a tanh(b z)."""

    a: float = 1.0
    b: float = 1.0

    def __call__(self, z: jax.Array) -> jax.Array:
        return jnp.tanh(z) if self == Tanh() else self.a * jnp.tanh(z * self.b)


class How(NamedTuple):
    """Activations before and after the pool; None: none."""

    inner: Tanh | None = None
    outer: Tanh | None = None


def fits(x: jax.Array, window: Sequence[int]) -> bool:
    """Whether `average_pool` is the fastest for these windows."""
    return conv.in_c(x) and x.dtype == jnp.float32 and tuple(window) == WINDOW and min(x.shape[1:3]) >= 2


def average_pool(how: How, x: jax.Array, scale: jax.Array | None = None, bias: jax.Array | None = None) -> jax.Array:
    """outer(scale * sum(inner(x)) + bias), of adjacent windows of 2x2: x (N, H, W, C) -> (N, H // 2, W // 2, C).

    Args:
      how: the activations.
      x: in float32, of two rows and two columns at least.
      scale, bias: (C,), or neither: 1/4 and 0.
    """
    affine = () if scale is None or bias is None else (canonical(scale), canonical(bias))
    return _pool(how, canonical(x), *affine)[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pool(how: How, x: jax.Array, *affine: jax.Array) -> list[jax.Array]:
    """The result y, and with an inner tanh its values without their factor a."""
    rows, columns = (size // 2 for size in x.shape[1:3])
    y = jax.ShapeDtypeStruct((len(x), rows, columns, x.shape[-1]), x.dtype)
    return call(_FORWARD, how, [y, *[jax.ShapeDtypeStruct(x.shape, x.dtype)] * (how.inner is not None)], x, *affine)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _gradient(how: How, *arrays: jax.Array) -> list[jax.Array]:
    """Gradients of x, scale and bias, of (seen, scale, bias, y, gradient of y); `seen` is x or its tanh, as of `_pool`."""
    return call(_BACKWARD, how, [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays[:-2]], *arrays)


# ------------------------------------------------------------------------------------------------------ of jax.numpy


def plain(how: How, x: jax.Array, *affine: jax.Array) -> list[jax.Array]:
    """What `_pool` computes."""
    t = jnp.tanh(x * how.inner.b) if how.inner else x
    total = _sums(t * how.inner.a if how.inner else t)
    y = total * _over(affine[0]) + _over(affine[1]) if affine else total / 4
    return [how.outer(y) if how.outer else y, *[t] * (how.inner is not None)]


def _tangent(how: How, residuals: Arrays, arguments: Arrays) -> Arrays:
    """The tangent of y."""
    (seen, *affine, y), (dx, *daffine) = residuals, arguments
    dtotal = _sums(dx * _slope(how.inner, seen) if how.inner else dx)
    if affine:
        total = _sums(seen * how.inner.a if how.inner else seen)
        dy = dtotal * _over(affine[0]) + total * _over(daffine[0]) + _over(daffine[1])
    else:
        dy = dtotal / 4
    return [dy * _slope(how.outer, y / how.outer.a) if how.outer else dy]


def plain_gradient(how: How, *arrays: jax.Array) -> list[jax.Array]:
    """What `_gradient` computes."""
    *residuals, gradient = arrays
    return list(jax.linear_transpose(functools.partial(_tangent, how, residuals), residuals[:-1])([gradient])[0])


def _over(of_channel: jax.Array) -> jax.Array:
    return jax.lax.broadcast_to_rank(of_channel, 4)


def _sums(x: jax.Array) -> jax.Array:
    """Over the windows, by slices along one axis at a time: XLA has no fast gradient for others."""
    for axis in (2, 1):
        end = x.shape[axis] // 2 * 2
        x = jax.lax.slice_in_dim(x, 0, end, 2, axis) + jax.lax.slice_in_dim(x, 1, end, 2, axis)
    return x


def _slope(squash: Tanh, t: jax.Array) -> jax.Array:
    """The derivative of a tanh(b z), of tanh(b z)."""
    return (squash.a * squash.b) * ((1 - t) * (1 + t))


# --------------------------------------------------------------------------------------------------------- derivatives
# Those of the gradient, which few programs need, are of its form in jax.numpy.


def _transpose(how: How, residuals: Arrays, cotangents: Arrays) -> Arrays:
    return _gradient(how, *residuals, *cotangents)


_RULE = Rule(_tangent, _transpose)


@_pool.defjvp
def _pool_jvp(how: How, primals: Arrays, tangents: Arrays) -> tuple[list[jax.Array], list[jax.Array]]:
    x, *affine = primals
    y, *inner = outputs = _pool(how, *primals)
    seen = inner[0] if inner else x
    dinner = [tangents[0] * how.inner.b * ((1 - seen) * (1 + seen))] if how.inner else []
    return outputs, [*linear(_RULE, how, (seen, *affine, y), tangents, [y]), *dinner]


@_gradient.defjvp
def _gradient_jvp(how: How, primals: Arrays, tangents: Arrays) -> tuple[list[jax.Array], list[jax.Array]]:
    _, changed = jax.jvp(functools.partial(plain_gradient, how), primals, tangents)
    return _gradient(how, *primals), changed


# ----------------------------------------------------------------------------------------------------------- calls of C


def _in_c(*arrays: jax.Array, name: str, how: How, results: Results) -> list[jax.Array]:
    forward = name == _FORWARD.name
    affine = len(arrays) > (1 if forward else 3)
    activations = [number for each in how for number in ((1, each.a, each.b) if each else (0, 0, 0))]
    numbers = np.array([*activations, affine], np.float32)
    in_place = ({0: 1} if forward else {0: 0}) if how.inner else {}
    return list(jax.ffi.ffi_call(name, results, input_output_aliases=in_place)(*arrays, how=numbers))


def _elsewhere(
    function: Callable[..., list[jax.Array]], *, name: str, how: How, results: Results, levels: Levels, platform: str
) -> Function:
    del name, results, platform
    return batched(functools.partial(function, how), levels)


_FORWARD = Operation("cnn_jax_average_pool", _in_c, functools.partial(_elsewhere, plain))
_BACKWARD = Operation("cnn_jax_average_pool_gradient", _in_c, functools.partial(_elsewhere, plain_gradient))
