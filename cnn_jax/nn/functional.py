"""Convolution, transposed convolution, max and average pooling of arrays with 1, 2 or 3 spatial axes.

Arrays are channels last. Shape letters: N images, S spatial axes (`*S` one, two or three of them), C channels in, F channels
out, K kernel axes, P taps of a window along one axis. Padding is computed and filled by `nn.padding`; the functions here then
run with VALID padding.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax

from cnn_jax.aliases import Value
from cnn_jax.errors import UsageError
from cnn_jax.nn.padding import Padding, Size, array_rank, as_tuple, output_size, pad, plain, resolve_pads, transpose_geometry
from cnn_jax.nn.spec import check_groups, count
from cnn_jax.ops.conv import TRANSPOSED_SCOPE, add_bias, conv_valid, sum_dtype


def conv(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: Size = 1,
    padding: Padding = "valid",
    padding_mode: str = "zeros",
    dilation: Size = 1,
    groups: int = 1,
) -> jax.Array:
    """Cross-correlate x (N, *S, C) with kernel (*K, C // groups, F) and add bias (F,): (N, *S', F).

    The kernel is not flipped, as in every deep-learning library. `padding` is the amount, with TensorFlow's 'same'
    (ceil(n / s) outputs, the odd position at the end); `padding_mode` selects the fill values, so that changing the mode never
    shifts the sampling grid.

    The result and its gradients agree with `lax.conv_general_dilated` to rounding for any finite input: a pixel under a zero
    tap has no influence, whatever its value (masked kernels, sentinels for missing data), and its gradient is zero. Without
    zero taps, rounding errors are relative to the largest pixel of a window and the largest tap. Sums of bfloat16 and float16
    are taken in float32.

    Raises:
      UsageError: the shapes are incompatible, or the kernel is larger than the padded image.
    """
    how = Convolution.of(x, kernel, bias, strides, padding, padding_mode, dilation, groups)
    return conv_valid(*how.arrays, **how.settings)


class Convolution(NamedTuple):
    """Arguments of `conv_valid`: arrays of one type, with x padded unless by zeros."""

    arrays: tuple[jax.Array, jax.Array, jax.Array | None]
    settings: dict[str, Value]

    @classmethod
    def of(
        cls, x: jax.Array, kernel: jax.Array, bias: jax.Array | None, strides: Size, padding: Padding, padding_mode: str,
        dilation: Size, groups: int,
    ) -> "Convolution":  # fmt: skip
        rank, groups = array_rank(x, kernel), plain(groups)
        _check_channels(x, kernel, bias, groups, channels=kernel.shape[-2] * groups, filters=kernel.shape[-1])
        strides, dilation = as_tuple(strides, rank, "strides"), as_tuple(dilation, rank, "dilation")
        pads = _fitting_pads(x.shape[1:-1], kernel.shape[:-2], strides, dilation, padding, "kernel")
        x, kernel, bias = promote_dtype(x, kernel, bias)
        if padding_mode != "zeros":  # zeros are added inside, where no gradient is computed for them
            x, pads = pad(x, pads, padding_mode), ((0, 0),) * rank
        settings = {"strides": strides, "dilation": dilation, "groups": groups, "zeros": pads}
        return cls((x, kernel, bias), settings)


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: Size = 1,
    padding: Padding = "valid",
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> jax.Array:
    """Compute the gradient of `conv` with respect to its input: x (N, *S, C), kernel (*K, F // groups, C) -> (N, *S', F).

    S' is (n - 1) * s + (k - 1) * d + 1 minus the pads, as in PyTorch, and n * s for 'same' and 'same_lower', as in Keras.
    `output_padding` is added at the end, to select one of the input sizes that a strided `conv` maps to the same output size;
    it must be smaller than the stride or the dilation. Raises UsageError for incompatible shapes and for an empty result.
    """
    rank, groups = array_rank(x, kernel), plain(groups)
    _check_channels(x, kernel, bias, groups, channels=kernel.shape[-1], filters=kernel.shape[-2] * groups)
    sizes, kernel_sizes = x.shape[1:-1], kernel.shape[:-2]
    strides, dilation = as_tuple(strides, rank, "strides"), as_tuple(dilation, rank, "dilation")
    pads, out_S = transpose_geometry(sizes, kernel_sizes, strides, dilation, padding, output_padding)
    x, kernel, bias = promote_dtype(x, kernel, bias)
    whole_S = tuple((n - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(sizes, kernel_sizes, strides, dilation, strict=True))
    convolve = functools.partial(conv_valid, kernel=kernel, strides=strides, dilation=dilation, groups=groups)
    # Not linear_transpose: conv_valid may define its own gradient, which only vjp uses.
    with jax.named_scope(TRANSPOSED_SCOPE):
        _, gradient = jax.vjp(convolve, jnp.zeros((x.shape[0], *whole_S, kernel.shape[-2] * groups), x.dtype))
        (y,) = gradient(x)
    # Crop the pads of the convolution; append zeros where the output extends beyond the last window.
    edges = ((-low, out + low - whole, 0) for whole, out, (low, _) in zip(whole_S, out_S, pads, strict=True))
    y = lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    return y if bias is None else add_bias(y, bias)


def max_pool(
    x: jax.Array, window: Size, *, strides: Size | None = None, padding: Padding = "valid", dilation: Size = 1
) -> jax.Array:
    """Compute the maximum over windows of x (N, *S, C); `strides` None: the window.

    Padding is never the maximum; a NaN always is. Of equal values, the first in row-major order gets the gradient, as in
    PyTorch. Raises UsageError if a window would contain only padding.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return _pool(x, window, strides, padding, dilation, _first_maximum, jnp.iinfo(x.dtype).min)[0]
    wide = x.astype(sum_dtype(x.dtype))  # a pixel's gradient is a sum over the windows whose maximum it is
    return _pool(wide, window, strides, padding, dilation, _first_maximum, -jnp.inf)[0].astype(x.dtype)


def avg_pool(
    x: jax.Array, window: Size, *, strides: Size | None = None, padding: Padding = "valid", count_include_pad: bool = False
) -> jax.Array:
    """Compute the mean over windows of x (N, *S, C); `strides` None: the window.

    The mean is over the pixels of the image under the window, as in Keras; with `count_include_pad` over the whole window, the
    default of PyTorch. Integers and half precision are summed in float32; the result for integers is float32.
    """
    wide = x.astype(sum_dtype(x.dtype))
    total, counts = _pool(wide, window, strides, padding, 1, _sum, 0)
    if count_include_pad:
        size = math.prod(as_tuple(window, x.ndim - 2, "window"))
        counts = np.full_like(counts, size)
    mean = total / counts[None, ..., None].astype(wide.dtype)
    return mean.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else mean


def _pool(
    x: jax.Array,
    window: Size,
    strides: Size | None,
    padding: Padding,
    dilation: Size,
    combine: Callable,
    fill: float,
) -> tuple[jax.Array, np.ndarray]:
    """Reduce windows of x; also return the number of pixels without padding under each window (*S').

    Uses strided slices along one axis at a time: `lax.reduce_window`'s gradient is twenty times slower on CPU. The last axis
      goes
    first, so that the first of equal values is the first in row-major order.
    """
    rank = array_rank(x)
    window = as_tuple(window, rank, "window")
    strides = window if strides is None else as_tuple(strides, rank, "strides")
    dilation = as_tuple(dilation, rank, "dilation")
    spatial = x.shape[1:-1]
    pads = _fitting_pads(spatial, window, strides, dilation, padding, "window")
    x = pad(x, pads, value=fill)
    counts, inside = np.ones((), int), []
    axes = list(zip(range(1, rank + 1), window, strides, dilation, strict=True))
    for (axis, k, s, d), n, (low, _) in zip(axes, spatial, pads, strict=True):
        starts = np.arange(0, x.shape[axis] - (k - 1) * d, s) - low
        taps_SP = starts[:, None] + np.arange(k) * d
        inside_SP = (taps_SP >= 0) & (taps_SP < n)
        inside_S = np.sum(inside_SP, axis=1)
        inside.append(inside_SP)
        if not inside_S.all():
            raise UsageError(f"window {k} with padding {pads[axis - 1]} on an axis of {n} would contain only padding")
        counts = counts[..., None] * inside_S
    for axis, k, s, d in reversed(axes):
        span = (counts.shape[axis - 1] - 1) * s + 1
        inside_SP = inside[axis - 1]
        combined = lax.slice_in_dim(x, 0, span, s, axis)
        for tap in range(1, k):
            # Windows in which all earlier taps are padding.
            first_S = inside_SP[:, tap] & ~inside_SP[:, :tap].any(axis=1)
            first = first_S.reshape(*(1,) * axis, -1, *(1,) * (x.ndim - axis - 1)) if first_S.any() else None
            combined = combine(combined, lax.slice_in_dim(x, tap * d, tap * d + span, s, axis), first)
        x = combined
    return x, counts


def _sum(a: jax.Array, b: jax.Array, first: np.ndarray | None) -> jax.Array:
    del first  # padding is zero
    return a + b


def _first_maximum(a: jax.Array, b: jax.Array, first: np.ndarray | None) -> jax.Array:
    """Return the maximum; a if they are equal; NaN if either is; b where it is the `first` value without padding.

    The gradient is one select, and needs only the mask.
    """
    b_wins = (b > a) | (b != b)
    return jnp.where(b_wins if first is None else b_wins | first, b, a)


def _check_channels(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, groups: int, channels: int, filters: int) -> None:
    """Raise UsageError unless x, a kernel for `channels` and `filters`, and a bias agree."""
    check_groups(groups, x.shape[-1], count(filters, "filters"))
    if channels != x.shape[-1]:
        raise UsageError(f"kernel {kernel.shape} with groups={groups} takes {channels} channels, but x has {x.shape[-1]}")
    if bias is not None and bias.shape != (filters,):
        raise UsageError(f"bias has shape {bias.shape}: must be ({filters},), one value per filter")


def _fitting_pads(
    spatial: Sequence[int], kernel: Size, strides: Size, dilation: tuple[int, ...], padding: Padding, what: str
) -> tuple[tuple[int, int], ...]:
    """Return the padding of every axis. Raises UsageError if the kernel, named `what`, is larger than the padded image."""
    pads = resolve_pads(spatial, kernel, strides, dilation, padding)
    sizes = as_tuple(kernel, len(pads), what)
    for n, k, d, (low, high) in zip(spatial, sizes, dilation, pads, strict=True):
        if output_size(n, k, 1, d, low, high) == 0:
            raise UsageError(
                f"{what} of {k} with dilation {d} spans {(k - 1) * d + 1} positions, but an axis of {n} padded by"
                f" ({low}, {high}) has {n + low + high}: use a smaller {what} or more padding"
            )
    return pads
