"""VALID convolution with bias, relu and max-pool, and their gradients, by the implementation that is fastest on the device.

    native   C compiled for the processor (`ffi`, `native`): on CPU, float32 and half precision, two spatial axes
    xla      plain convolutions in place of XLA's slow gradients (`xla`): on CPU for the rest, and without a C compiler
    lax      `lax.conv_general_dilated` as it is: on accelerators, in other precisions, with groups

What is traced is the same on every machine with a C compiler; native and xla become operations of XLA (`accelerator`) where
the program is lowered for another platform than CPU. So a machine without a GPU lowers the program that a GPU runs.
Padding modes are handled in nn/padding.py. docs/decisions 0001 and 0006 have the measurements. Letters: N images, S spatial
axes, C channels, F filters, K kernel axes.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp

from cnn_jax.ops import call, ffi, xla
from cnn_jax.ops.linear import canonical
from cnn_jax.ops.xla import Axes, add_bias, sum_dtype

__all__ = [
    "IMPLEMENTATIONS", "TRANSPOSED_SCOPE", "add_bias", "at_most", "conv_max_pool", "conv_valid", "dense", "implementation",
    "in_c", "sum_dtype", "traced",
]  # fmt: skip
TRANSPOSED_SCOPE = "conv_transpose"  # names the operations of a transposed convolution, for counting them
IMPLEMENTATIONS = ("native", "xla", "lax")
_most: contextvars.ContextVar[str] = contextvars.ContextVar("implementation", default="native")


@contextlib.contextmanager
def at_most(implementation: str) -> Iterator[None]:
    """Context in which convolutions are traced by that implementation or a later one of IMPLEMENTATIONS; nested: the latest.

    Use 'lax' to count operations: each convolution is then one operation. Use 'xla' for programs on several devices: XLA
    partitions its own operations, but not custom calls.
    """
    token = _most.set(max(implementation, _most.get(), key=IMPLEMENTATIONS.index))
    try:
        yield
    finally:
        _most.reset(token)


def implementation(platform: str | None = None) -> str:
    """Return the implementation of a float32 convolution over images, in this context, on `platform`; None: JAX's default."""
    return traced() if (platform or jax.default_backend()) == "cpu" else "lax"


def traced() -> str:
    """The implementation for CPU. Other platforms need no C compiler, so none is searched for."""
    most = _most.get()
    return "xla" if most == "native" and jax.default_backend() == "cpu" and not call.available() else most


def _implementation_for(x: jax.Array, kernel: jax.Array, dilation: Axes, groups: int) -> str:
    half = x.dtype in (jnp.bfloat16, jnp.float16)
    if groups > 1 or x.dtype != kernel.dtype or not (half or x.dtype == jnp.float32):
        return "lax"
    found = traced()
    if found == "native" and (x.ndim != 4 or set(dilation) != {1} or 0 in x.shape):
        found = "xla"
    return "lax" if half and found == "xla" else found


def in_c(x: jax.Array) -> bool:
    """Whether C computes with these images (N, H, W, C) on CPU, in this context."""
    return x.ndim == 4 and 0 not in x.shape and traced() == "native"


def conv_valid(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: Axes,
    dilation: Axes,
    groups: int,
    zeros: Sequence[tuple[int, int]] | None = None,
    relu: bool = False,
) -> jax.Array:
    """x (N, *S, C), kernel (*K, C // groups, F), bias (F,) -> (N, *S', F).

    S' = floor((S - (K - 1) * dilation - 1) / strides) + 1, by Dumoulin and Visin 2016, relationship 15.

    `zeros`: their number before and after x, per spatial axis (S then includes them). Prefer this to padding before the call:
    no gradient is computed for them, which saves half of the work for small images. Likewise bias and `relu`.

    The result and its gradients are those of `lax.conv_general_dilated`, up to the order of summation.
    """
    x, kernel, bias = canonical(x), canonical(kernel), None if bias is None else canonical(bias)
    # The gradient is traced when jax.default_matmul_precision is no longer in force.
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    how = xla.How(strides, dilation, tuple((low, high) for low, high in zeros or [(0, 0)] * len(strides)), precision)
    by = _implementation_for(x, kernel, dilation, groups)
    if by == "native":
        spatial = [
            (n + sum(z) - k) // s + 1 for n, z, k, s in zip(x.shape[1:3], how.zeros, kernel.shape, strides, strict=False)
        ]
        if math.prod(spatial) == 1 and not any(map(any, how.zeros)):
            # A kernel as large as the image: a matrix product.
            seen = x[:, : kernel.shape[0], : kernel.shape[1]].reshape(len(x), -1)
            y = dense(seen, kernel.reshape(-1, kernel.shape[-1]), _or_zeros(bias, kernel))[:, None, None]
            return jax.nn.relu(y) if relu else y
        native = ffi.How(strides, how.zeros, relu=relu, bias=bias is not None, precision=precision)  # type: ignore[arg-type]
        return ffi.conv(native, x, kernel, _or_zeros(bias, kernel))
    if by == "xla":
        y = xla.conv(how, x, kernel)
    elif traced() != "lax" and kernel.shape[-2] == 1 and groups == x.shape[-1] and groups > 1:
        channelwise = functools.partial(xla.depthwise, strides=strides, dilation=dilation, zeros=how.zeros)
        y = jax.lax.platform_dependent(
            x, kernel, cpu=channelwise, default=functools.partial(xla.as_written, how=how, groups=groups)
        )
    else:
        y = xla.as_written(x, kernel, how, groups)
    y = y if bias is None else add_bias(y, bias)
    return jax.nn.relu(y) if relu else y


def _sizes(x: jax.Array, kernel: jax.Array, strides: Axes, zeros: Sequence[tuple[int, int]]) -> list[int]:
    """S' without dilation."""
    around = map(sum, zeros)
    return [(n + z - k) // s + 1 for n, z, k, s in zip(x.shape[1:-1], around, kernel.shape, strides, strict=False)]


def _or_zeros(bias: jax.Array | None, kernel: jax.Array) -> jax.Array:
    return jnp.zeros(kernel.shape[-1:], kernel.dtype) if bias is None else bias


def conv_max_pool(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: Axes,
    dilation: Axes,
    groups: int,
    zeros: Sequence[tuple[int, int]],
    activation: Callable[[jax.Array], jax.Array],
    window: Axes,
) -> jax.Array | None:
    """max_pool(activation(conv(x) + bias)) for adjacent windows, (N, *S', F); None where fusing them is not faster.

    `activation` must not decrease: the maximum then commutes with it, and it is applied to the pooled values alone. Of equal
    values the first in row-major order gets the gradient, as in `nn.functional.max_pool`.
    """
    by = _implementation_for(x, kernel, dilation, groups)
    relu, bias = activation is jax.nn.relu, canonical(_or_zeros(bias, kernel))
    x, kernel = canonical(x), canonical(kernel)
    if by == "native" and window == ffi.WINDOW and min(_sizes(x, kernel, strides, zeros)) >= 2:
        both = tuple((low, high) for low, high in zeros)
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        y = ffi.conv(ffi.How(strides, both, relu=relu, pool=True, precision=precision), x, kernel, bias)  # type: ignore[arg-type]
        return y if relu else activation(y)
    if by == "xla" and x.ndim == 4 and set(strides) == set(dilation) == {1}:
        x = jnp.pad(x, ((0, 0), *zeros, (0, 0)))
        if xla.can_pool(x, kernel, window=window):
            y = xla.conv_pool(window, relu, x, kernel, bias)
            return y if relu else activation(y)
    return None


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x (N, D), kernel (D, U), bias (U,) -> x @ kernel + bias (N, U)."""
    by = traced() if x.dtype == jnp.float32 else "lax"
    x, kernel, bias = canonical(x), canonical(kernel), canonical(bias)
    if by == "native":
        return ffi.dense(x, kernel, bias)
    return xla.dense(x, kernel, bias) if by == "xla" else add_bias(x @ kernel, bias)
