"""Convolution by `native`'s C, as operations of JAX: float32, two spatial axes, no dilation, no groups.

A layer's convolution, bias, relu and max-pool of 2x2 are one operation, which stores nothing but its result and, of a pool,
which of the four won (a byte each). Its gradients are two more, so that the one nobody asks for is dropped. All three are
linear in each of their arrays but for relu and pool, whose choices are an array of their own, `seen`: so the derivative of
each is made of the others.
"""

import ctypes
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import native

_OPERATIONS = ("cnn_jax_conv", "cnn_jax_conv_kernel_gradient", "cnn_jax_conv_input_gradient")
DEAD = 255  # in `seen` of a pool: relu let none of the window through
WINDOW = (2, 2)  # of the pool


class How(NamedTuple):
    """What a convolution is, besides its arrays. `zeros` before and after the image, rows and columns."""

    strides: tuple[int, int]
    zeros: tuple[tuple[int, int], tuple[int, int]]
    relu: bool = False
    pool: bool = False
    bias: bool = True  # False: nobody asks for its gradient


@functools.lru_cache(maxsize=1)
def available() -> bool:
    """Whether there is a compiled library; compiles it if need be."""
    path = native.library().path
    if path is None:
        return False
    try:
        library = ctypes.CDLL(str(path))
    except OSError:
        return False
    for name in _OPERATIONS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return True


def conv(how: How, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x (N, H, W, C), kernel (*K, C, F), bias (F,) -> (N, H', W', F). A NaN goes through relu and wins its window."""
    return _conv(how, x, kernel, bias)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(how: How, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> list[jax.Array]:
    """The outputs, and of a pool its winners."""
    return _call("cnn_jax_conv", how, _results(how, x, kernel), x, kernel, bias)


def _forward(how: How, *arrays: jax.Array) -> tuple[list[jax.Array], tuple[jax.Array, ...]]:
    x, kernel, bias = arrays
    outputs = _conv(how, *arrays)
    # Without pool and relu nothing need be seen: an array that exists anyway, so that the outputs can be forgotten.
    return outputs, (x, kernel, outputs[-1] if how.pool or how.relu else bias)


def _backward(how: How, saved: tuple[jax.Array, ...], gradients: list[jax.Array]) -> tuple[jax.Array, ...]:
    (x, kernel, seen), gradient = saved, gradients[0]
    size = (x.shape[1:3], kernel.shape[:2])
    return _input_gradient(how, size, gradient, kernel, seen), *_kernel_gradient(how, size, x, gradient, seen)


_conv.defvjp(_forward, _backward)

_Size = tuple[tuple[int, ...], tuple[int, ...]]  # of image and kernel


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _kernel_gradient(how: How, size: _Size, x: jax.Array, gradient: jax.Array, seen: jax.Array) -> Any:
    """The gradients of kernel and bias."""
    kernel = jax.ShapeDtypeStruct((*size[1], x.shape[-1], gradient.shape[-1]), x.dtype)
    bias = jax.ShapeDtypeStruct(gradient.shape[-1:], x.dtype)
    return _call("cnn_jax_conv_kernel_gradient", how, [kernel, bias], x, gradient, seen)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _input_gradient(how: How, size: _Size, gradient: jax.Array, kernel: jax.Array, seen: jax.Array) -> jax.Array:
    x = jax.ShapeDtypeStruct((len(gradient), *size[0], kernel.shape[-2]), kernel.dtype)
    return _call("cnn_jax_conv_input_gradient", how, x, gradient, kernel, seen)


def _kernel_gradient_backward(how: How, size: _Size, saved: tuple[jax.Array, ...], pulled: Any) -> tuple[Any, ...]:
    (x, gradient, seen), (kernel, bias) = saved, pulled
    return _input_gradient(how, size, gradient, kernel, seen), _through(how, x, kernel, bias, gradient, seen), None


def _input_gradient_backward(how: How, size: _Size, saved: tuple[jax.Array, ...], x: jax.Array) -> tuple[Any, ...]:
    gradient, kernel, seen = saved
    bias = jnp.zeros(kernel.shape[-1:], kernel.dtype)
    kernel_pulled, _ = _kernel_gradient(how, size, x, gradient, seen)
    return _through(how, x, kernel, bias, gradient, seen), kernel_pulled, None


_kernel_gradient.defvjp(lambda how, size, *arrays: (_kernel_gradient(how, size, *arrays), arrays), _kernel_gradient_backward)
_input_gradient.defvjp(lambda how, size, *arrays: (_input_gradient(how, size, *arrays), arrays), _input_gradient_backward)


def _through(how: How, x: jax.Array, kernel: jax.Array, bias: jax.Array, like: jax.Array, seen: jax.Array) -> jax.Array:
    """The convolution, as much of it as relu and pool let through when `seen` was recorded; of the shape of `like`."""
    y = conv(how._replace(relu=False, pool=False, bias=True), x, kernel, bias)
    if how.relu and not how.pool:
        return jnp.where(seen > 0, y, 0)
    if how.pool:
        rows, columns = like.shape[1:3]
        places = [y[:, i : 2 * rows : 2, j : 2 * columns : 2] for i, j in np.ndindex(*WINDOW)]
        return jnp.select([seen == place for place in range(4)], places, jnp.zeros((), y.dtype))
    return y


def _results(how: How, x: jax.Array, kernel: jax.Array) -> list[jax.ShapeDtypeStruct]:
    spatial = [
        ((n + sum(zeros) - k) // s + 1) // (w if how.pool else 1)
        for n, k, s, zeros, w in zip(x.shape[1:3], kernel.shape, how.strides, how.zeros, WINDOW, strict=False)
    ]
    shape = (len(x), *spatial, kernel.shape[-1])
    return [jax.ShapeDtypeStruct(shape, x.dtype), *[jax.ShapeDtypeStruct(shape, jnp.uint8)] * how.pool]


def _call(name: str, how: How, results: Any, *arrays: jax.Array) -> Any:
    (top, _), (left, _) = how.zeros
    numbers = np.array([*how.strides, top, left, how.relu, how.pool, how.bias], np.int64)
    return jax.ffi.ffi_call(name, results, vmap_method="sequential")(*arrays, how=numbers)


@jax.custom_vjp
def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x (N, D) @ kernel (D, U) + bias; the gradient of the kernel as the product that XLA is quick with: images first."""
    return x @ kernel + bias


def _dense_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, ...]:
    x, kernel = saved
    # Behind a barrier: otherwise XLA takes the transposition into the product, which is then four times slower.
    kernel_gradient = jax.lax.optimization_barrier(gradient.T @ x).T
    return gradient @ kernel.T, kernel_gradient, gradient.sum(0)


dense.defvjp(lambda x, kernel, bias: (dense(x, kernel, bias), (x, kernel)), _dense_backward)
