"""VALID convolution with gradients that are fast on each backend. Padding is none of its business: see `layers`.

XLA's CPU backend runs the two gradients of a convolution ten to fifty times slower than the convolution itself when they sit
in a loop, as training steps do (jax#12868, openxla/xla#34273). Both *are* convolutions, so on CPU they are written as such:
plain ones, batch first and channels last, the only kind that the backend hands to its fast kernels. docs/decisions/0001
has the measurements. Letters: N images, S spatial axes, C channels, F filters, K kernel axes.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

Axes = tuple[int, ...]  # an int per spatial axis

# A piece of the batch and its gradient stay in a core's second-level cache.
_PIECE_IMAGES = 16
_PIECE_BYTES = 1 << 20


def conv_valid(x: jax.Array, kernel: jax.Array, *, strides: Axes, dilation: Axes, groups: int) -> jax.Array:
    """x (N, *S, C), kernel (*K, C // groups, F) -> (N, *S', F), S' = floor((S - (K - 1) * dilation - 1) / strides) + 1.

    The result is that of `lax.conv_general_dilated` everywhere. The gradients are too, up to the order of summation, which
    differs on CPU for float32 without groups.
    """
    if jax.default_backend() == "cpu" and groups == 1 and x.dtype == kernel.dtype == jnp.float32:
        return _conv_on_cpu(strides, dilation, jax.config.jax_default_matmul_precision, x, kernel)
    return _conv(x, kernel, strides, dilation, groups)


def _conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    precision: str | None = None,
) -> jax.Array:
    spatial = "DHW"[5 - x.ndim :]
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        "VALID",
        rhs_dilation=dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=groups,
        precision=precision,
    )


# `precision` is an argument because the gradient is traced when jax.default_matmul_precision is no longer in force.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _conv_on_cpu(strides: Axes, dilation: Axes, precision: str | None, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _conv(x, kernel, strides, dilation, precision=precision)


Arrays = tuple[jax.Array, jax.Array]


def _forward(strides: Axes, dilation: Axes, precision: str | None, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Arrays]:
    return _conv(x, kernel, strides, dilation, precision=precision), (x, kernel)


def _backward(strides: Axes, dilation: Axes, precision: str | None, saved: Arrays, gradient: jax.Array) -> Arrays:
    x, kernel = saved
    convolve = functools.partial(_conv, precision=precision)
    return (
        _input_gradient(convolve, gradient, kernel, x.shape, strides, dilation),
        _kernel_gradient(convolve, x, gradient, kernel.shape, strides, dilation),
    )


_conv_on_cpu.defvjp(_forward, _backward)


def _input_gradient(
    convolve: Callable[..., jax.Array],
    gradient: jax.Array,
    kernel: jax.Array,
    shape: Sequence[int],
    strides: Axes,
    dilation: Axes,
) -> jax.Array:
    """The outputs' gradient, spread by the strides and padded to what `shape` needs, convolved with the mirrored kernel."""
    reach = [(k - 1) * d for k, d in zip(kernel.shape[:-2], dilation, strict=True)]
    edges = [
        (r, size - 1 - (out - 1) * s, s - 1)
        for r, size, out, s in zip(reach, shape[1:-1], gradient.shape[1:-1], strides, strict=True)
    ]
    spread = lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    mirrored = jnp.flip(kernel, range(kernel.ndim - 2)).swapaxes(-1, -2)
    return convolve(spread, mirrored, [1] * len(strides), dilation)


def _kernel_gradient(
    convolve: Callable[..., jax.Array], x: jax.Array, gradient: jax.Array, shape: Sequence[int], strides: Axes, dilation: Axes
) -> jax.Array:
    """Convolves with the outputs' gradient as kernel: images take the place of channels, and channels that of images."""
    rank = len(strides)
    bytes_per_image = gradient[0].size * gradient.dtype.itemsize
    most = max(1, min(_PIECE_IMAGES, _PIECE_BYTES // max(1, bytes_per_image)))
    piece = max(n for n in range(1, most + 1) if len(x) % n == 0)
    # What lies behind the last window has no part in it, and would enlarge the result.
    used = [
        (out - 1) * s + (k - 1) * d + 1 for out, s, k, d in zip(gradient.shape[1:-1], strides, shape, dilation, strict=False)
    ]
    x = lax.slice(x, [0] * x.ndim, [len(x), *used, x.shape[-1]])

    def add(total: jax.Array, pieces: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        x_CSN = jnp.moveaxis(pieces[0], (0, -1), (-1, 0))
        gradient_SNF = jnp.moveaxis(pieces[1], 0, -2)
        return total + convolve(x_CSN, gradient_SNF, dilation, strides), None

    split = [a.reshape(len(a) // piece, piece, *a.shape[1:]) for a in (x, gradient)]
    total_CKF, _ = lax.scan(add, jnp.zeros((shape[rank], *shape[:rank], shape[-1]), x.dtype), tuple(split))
    return jnp.moveaxis(total_CKF, 0, rank)
