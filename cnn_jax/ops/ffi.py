"""Convolution by `native`'s C, as operations of JAX: two spatial axes, no dilation, no groups.

A layer's convolution, bias, relu and max-pool of 2x2 are one operation, which stores nothing but its result and, of a pool,
which of the four won (a byte each). Its gradients are two more, so that an unused one is eliminated. All three are
linear in each of their arrays but for relu and pool, whose choices are an array of their own, `seen`: so the derivative of
each is made of the others, forward and reverse, of any order.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops import accelerator, native
from cnn_jax.ops.accelerator import WINDOW, How, passed
from cnn_jax.ops.call import Operation, Results, available, call
from cnn_jax.ops.linear import Arrays, Rule, linear, zero_tangent


def conv(how: How, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x (N, H, W, C), kernel (*K, C, F), bias (F,) -> (N, H', W', F). A NaN goes through relu and wins its window."""
    return _conv(how, x, kernel, bias)[0]


_Size = tuple[tuple[int, ...], tuple[int, ...]]  # of image and kernel


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _conv(how: How, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> list[jax.Array]:
    """The outputs, and of a pool its winners."""
    return call(_FORWARD, how, _results(how, x, kernel), x, kernel, bias)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _kernel_gradient(how: How, size: _Size, x: jax.Array, gradient: jax.Array, seen: jax.Array) -> list[jax.Array]:
    """The gradients of kernel and bias."""
    kernel = jax.ShapeDtypeStruct((*size[1], x.shape[-1], gradient.shape[-1]), x.dtype)
    bias = jax.ShapeDtypeStruct(gradient.shape[-1:], x.dtype)
    return call(_OF_KERNEL, how, [kernel, bias], x, gradient, seen)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _input_gradient(how: How, size: _Size, gradient: jax.Array, kernel: jax.Array, seen: jax.Array) -> jax.Array:
    x = jax.ShapeDtypeStruct((len(gradient), *size[0], kernel.shape[-2]), kernel.dtype)
    return call(_OF_INPUT, how, [x], gradient, kernel, seen)[0]


# --------------------------------------------------------------------------------------------------------- derivatives


def _conv_tangent(how: How, residuals: Arrays, arguments: Arrays) -> Arrays:
    (x, kernel, seen), (dx, dkernel, dbias) = residuals, arguments
    none = jnp.zeros_like(dbias)
    return [passed(how, _plain(how, dx, kernel, none) + _plain(how, x, dkernel, dbias), seen)]


def _conv_transpose(how: How, residuals: Arrays, cotangents: Arrays) -> Arrays:
    (x, kernel, seen), (gradient,) = residuals, cotangents
    size = (x.shape[1:3], kernel.shape[:2])
    return [_input_gradient(how, size, gradient, kernel, seen), *_kernel_gradient(how, size, x, gradient, seen)]


def _kernel_gradient_tangent(static: tuple[How, _Size], residuals: Arrays, arguments: Arrays) -> Arrays:
    (x, gradient, seen), (dx, dgradient) = residuals, arguments
    of_x, _ = _kernel_gradient(*static, dx, gradient, seen)
    of_gradient, bias = _kernel_gradient(*static, x, dgradient, seen)
    return [of_x + of_gradient, bias]


def _kernel_gradient_transpose(static: tuple[How, _Size], residuals: Arrays, cotangents: Arrays) -> Arrays:
    (x, gradient, seen), (kernel, bias) = residuals, cotangents
    how, _ = static
    return [_input_gradient(*static, gradient, kernel, seen), passed(how, _plain(how, x, kernel, bias), seen)]


def _input_gradient_tangent(static: tuple[How, _Size], residuals: Arrays, arguments: Arrays) -> Arrays:
    (gradient, kernel, seen), (dgradient, dkernel) = residuals, arguments
    return [_input_gradient(*static, dgradient, kernel, seen) + _input_gradient(*static, gradient, dkernel, seen)]


def _input_gradient_transpose(static: tuple[How, _Size], residuals: Arrays, cotangents: Arrays) -> Arrays:
    (gradient, kernel, seen), (x,) = residuals, cotangents
    how, _ = static
    none = jnp.zeros(kernel.shape[-1:], kernel.dtype)
    return [passed(how, _plain(how, x, kernel, none), seen), _kernel_gradient(*static, x, gradient, seen)[0]]


_CONV = Rule(_conv_tangent, _conv_transpose)
_KERNEL_GRADIENT = Rule(_kernel_gradient_tangent, _kernel_gradient_transpose)
_INPUT_GRADIENT = Rule(_input_gradient_tangent, _input_gradient_transpose)


@_conv.defjvp
def _conv_jvp(how: How, primals: Arrays, tangents: Arrays) -> tuple[list[jax.Array], list[jax.Array]]:
    x, kernel, bias = primals
    outputs = _conv(how, *primals)
    # Without pool and relu there are no choices: `seen` is then any array that exists, so that the outputs can be freed.
    seen = outputs[-1] if how.pool or how.relu else bias
    return outputs, [*linear(_CONV, how, (x, kernel, seen), tangents, outputs[:1]), *map(zero_tangent, outputs[1:])]


@_kernel_gradient.defjvp
def _kernel_gradient_jvp(how: How, size: _Size, primals: Arrays, tangents: Arrays) -> tuple[list[jax.Array], list[jax.Array]]:
    outputs = _kernel_gradient(how, size, *primals)
    return outputs, linear(_KERNEL_GRADIENT, (how, size), primals, tangents[:2], outputs)


@_input_gradient.defjvp
def _input_gradient_jvp(how: How, size: _Size, primals: Arrays, tangents: Arrays) -> tuple[jax.Array, jax.Array]:
    output = _input_gradient(how, size, *primals)
    return output, linear(_INPUT_GRADIENT, (how, size), primals, tangents[:2], [output])[0]


def _plain(how: How, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """The convolution without relu and pool."""
    return conv(how._replace(relu=False, pool=False, bias=True), x, kernel, bias)


def _results(how: How, x: jax.Array, kernel: jax.Array) -> list[jax.ShapeDtypeStruct]:
    spatial = [
        ((n + sum(zeros) - k) // s + 1) // (w if how.pool else 1)
        for n, k, s, zeros, w in zip(x.shape[1:3], kernel.shape, how.strides, how.zeros, WINDOW, strict=False)
    ]
    shape = (len(x), *spatial, kernel.shape[-1])
    return [jax.ShapeDtypeStruct(shape, x.dtype), *[jax.ShapeDtypeStruct(shape, jnp.uint8)] * how.pool]


# ----------------------------------------------------------------------------------------------------------- calls of C


def _in_c(*arrays: jax.Array, name: str, how: How, results: Results) -> list[jax.Array]:
    """C computes in bfloat16 where the processor does; otherwise in float32, with operands and results converted."""
    (top, _), (left, _) = how.zeros
    numbers = np.array([*how.strides, top, left, how.relu, how.pool, how.bias], np.int64)
    if results[0].dtype == jnp.bfloat16 and native.has_half() and available("half"):
        return list(jax.ffi.ffi_call(f"{name}_half", list(results))(*arrays, how=numbers))
    wide = [jax.ShapeDtypeStruct(result.shape, _in_c_as(result.dtype)) for result in results]
    outputs = jax.ffi.ffi_call(name, wide)(*(array.astype(_in_c_as(array.dtype)) for array in arrays), how=numbers)
    return [output.astype(result.dtype) for output, result in zip(outputs, results, strict=True)]


def _in_c_as(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.uint8 if dtype == np.uint8 else np.float32)


_FORWARD, _OF_KERNEL, _OF_INPUT = (
    Operation(name, _in_c, accelerator.function)
    for name in ("cnn_jax_conv", "cnn_jax_conv_kernel_gradient", "cnn_jax_conv_input_gradient")
)


# ------------------------------------------------------------------------------------------------------- dense layers


@jax.custom_jvp
def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x (N, D) @ kernel (D, U) + bias; the gradient of the kernel as the product that XLA is quick with: images first."""
    return x @ kernel + bias[None]


def _dense_tangent(_: None, residuals: Arrays, arguments: Arrays) -> Arrays:
    (x, kernel), (dx, dkernel, dbias) = residuals, arguments
    return [dx @ kernel + x @ dkernel + dbias[None]]


def _dense_transpose(_: None, residuals: Arrays, cotangents: Arrays) -> Arrays:
    (x, kernel), (gradient,) = residuals, cotangents
    kernel_gradient = jax.lax.platform_dependent(x, gradient, cpu=_images_first, default=lambda x, gradient: x.T @ gradient)
    return [gradient @ kernel.T, kernel_gradient, gradient.sum(0)]


def _images_first(x: jax.Array, gradient: jax.Array) -> jax.Array:
    # Behind a barrier: otherwise XLA takes the transposition into the product, which is then four times slower.
    return jax.lax.optimization_barrier(gradient.T @ x).T


_DENSE = Rule(_dense_tangent, _dense_transpose)


@dense.defjvp
def _dense_jvp(primals: Arrays, tangents: Arrays) -> tuple[jax.Array, jax.Array]:
    y = dense(*primals)
    return y, linear(_DENSE, None, primals[:2], tangents, [y])[0]
