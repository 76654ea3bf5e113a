"""The operations of `ffi` made of XLA's own, for platforms other than CPU and for programs that leave the process.

XLA's convolutions are fast there. Optimizations that XLA does not find are chosen here, by platform: docs/accelerators.md has
the counts. Letters: L lanes, N images, H rows, W columns, C channels, F filters.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops import xla
from cnn_jax.ops.call import Function, Results
from cnn_jax.ops.linear import Levels, batched

DEAD = 255  # in `seen` of a pool: relu let none of the window through
WINDOW = (2, 2)  # of the pool
PLACES = tuple(np.ndindex(*WINDOW))
_MOST_TAPS = 32  # products per output that are not worth a convolution, where a pool of four outputs follows


class How(NamedTuple):
    """Static parameters of a convolution. `zeros` before and after the image, rows and columns."""

    strides: tuple[int, int]
    zeros: tuple[tuple[int, int], tuple[int, int]]
    relu: bool = False
    pool: bool = False
    bias: bool = True  # False: its gradient is not needed
    precision: str | None = None  # of products on other platforms; C multiplies in float32

    @property
    def plain(self) -> xla.How:
        """The convolution alone, as `xla` takes it."""
        return xla.How(self.strides, (1, 1), self.zeros, self.precision)


def function(name: str, how: How, results: Results, levels: Levels, platform: str) -> Function:
    """Return what the C function `name` computes, under the vmaps of `levels`."""
    made: dict[str, Function] = {
        "cnn_jax_conv": functools.partial(_conv, how),
        "cnn_jax_conv_kernel_gradient": functools.partial(_kernel_gradient, how, results),
        "cnn_jax_conv_input_gradient": functools.partial(_input_gradient, how, results),
    }
    lanes_on_gpu = platform == "gpu" and len(levels) > 0  # one lane fits the cache, and has fewer kernels as it is
    if lanes_on_gpu and name == "cnn_jax_conv" and how.pool:
        made[name] = functools.partial(_conv_by_shifts, how)
    if lanes_on_gpu and name == "cnn_jax_conv_kernel_gradient":
        if how.pool:
            made[name] = functools.partial(_kernel_gradient_at_winners, how, results)
        elif len(levels) == 1 and all(levels[0][:2]):
            return functools.partial(_kernel_gradient_of_lanes, how, results, levels[0])
    return batched(made[name], levels)


def passed(how: How, y: jax.Array, seen: jax.Array) -> jax.Array:
    """As much of a convolution's outputs as relu and pool let through when `seen` was recorded."""
    if how.pool:
        return _at(seen, _places(y, seen.shape[1:3]), jnp.zeros((), y.dtype))
    return jnp.where(seen > 0, y, 0) if how.relu else y


def _places(y: jax.Array, size: Sequence[int]) -> list[jax.Array]:
    """The outputs at each position of the windows, of rows and columns `size`."""
    return [y[:, i : 2 * size[0] : 2, j : 2 * size[1] : 2] for i, j in PLACES]


def _at(seen: jax.Array, places: Sequence[jax.Array], other: jax.Array) -> jax.Array:
    """The value at the position of the maximum, by a chain of selections: `jnp.select` stacks the conditions."""
    for number, place in enumerate(places):
        other = jnp.where(seen == number, place, other)
    return other


# --------------------------------------------------------------------------------------------------------- everywhere


def _conv(how: How, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> list[jax.Array]:
    y = xla.as_written(x, kernel, how.plain)
    if how.pool:
        return _choose(how, _places(y, [size // 2 for size in y.shape[1:3]]), bias)
    y = y + jax.lax.broadcast_to_rank(bias, y.ndim)
    return [jax.nn.relu(y) if how.relu else y]


def _choose(how: How, places: Sequence[jax.Array], bias: jax.Array) -> list[jax.Array]:
    """Maximum of the windows, and which of the four it was: the first of equal values; NaN before all.

    Bias and relu come after it, on a quarter of the values: neither decreases.
    """
    best, winner = places[0], jnp.zeros(places[0].shape, jnp.uint8)
    for number, place in enumerate(places[1:], 1):
        wins = (place > best) | ((place != place) & (best == best))
        best, winner = jnp.where(wins, place, best), jnp.where(wins, jnp.uint8(number), winner)
    y = best + jax.lax.broadcast_to_rank(bias, best.ndim)
    if not how.relu:
        return [y, winner]
    y = jax.nn.relu(y)
    return [y, jnp.where(y <= 0, jnp.uint8(DEAD), winner)]


def _kernel_gradient(how: How, results: Results, x: jax.Array, gradient: jax.Array, seen: jax.Array) -> list[jax.Array]:
    kernel, _ = results
    through = _through(how, x, kernel, gradient, seen)
    (of_kernel,) = jax.linear_transpose(lambda kernel: xla.as_written(x, kernel, how.plain), kernel)(through)
    return [of_kernel, _of_bias(how, gradient, seen)]


def _input_gradient(how: How, results: Results, gradient: jax.Array, kernel: jax.Array, seen: jax.Array) -> list[jax.Array]:
    (x,) = results
    through = _through(how, x, kernel, gradient, seen)
    return list(jax.linear_transpose(lambda x: xla.as_written(x, kernel, how.plain), x)(through))


def _through(how: How, x: xla.Shaped, kernel: xla.Shaped, gradient: jax.Array, seen: jax.Array) -> jax.Array:
    """The gradient of the convolution's own outputs: what relu and pool let through backwards."""
    if not how.pool:
        return jnp.where(seen > 0, gradient, 0) if how.relu else gradient
    y = jax.eval_shape(lambda x, kernel: xla.as_written(x, kernel, how.plain), x, kernel)
    zero = jnp.zeros((), gradient.dtype)
    spread = []
    for number, place in enumerate(PLACES):
        # A sum of dilated paddings is one kernel; a TPU writes out what a selection from a repeated array repeats.
        sizes = zip(place, WINDOW, y.shape[1:3], seen.shape[1:3], strict=True)
        padding = [(i, whole - i - step * (n - 1) - 1, step - 1) for i, step, whole, n in sizes]
        spread.append(lax.pad(jnp.where(seen == number, gradient, 0), zero, [(0, 0, 0), *padding, (0, 0, 0)]))
    return functools.reduce(jnp.add, spread)


def _of_bias(how: How, gradient: jax.Array, seen: jax.Array) -> jax.Array:
    if how.pool:
        gradient = jnp.where(seen == DEAD, 0, gradient)
    elif how.relu:
        gradient = jnp.where(seen > 0, gradient, 0)
    return _sum(gradient)


def _sum(values: jax.Array) -> jax.Array:
    """Over images, rows and columns."""
    return values.sum((0, 1, 2), dtype=xla.sum_dtype(values.dtype)).astype(values.dtype)


# ------------------------------------------------------------------------------------------------------------ on a GPU


def _kernel_gradient_of_lanes(
    how: How, results: Results, mapped: Sequence[bool], x: jax.Array, gradient: jax.Array, seen: jax.Array
) -> list[jax.Array]:
    """Those of all lanes as the gradient of one grouped convolution, for which XLA has cuDNN's backward filter.

    Batched, it would be a forward convolution with windows as large as the images.
    """
    kernel, _ = results
    one = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    axes = (0, 0 if mapped[2] else None)
    through = jax.vmap(functools.partial(_through, how, one, kernel), axes)(gradient, seen)
    x_NHWLC, through_NHWLF = jnp.moveaxis(x, 0, -2), jnp.moveaxis(through, 0, -2)
    lanes, filters = through_NHWLF.shape[-2:]
    merged = jax.ShapeDtypeStruct((*kernel.shape[:-1], lanes * filters), kernel.dtype)
    x_NHWD, through_NHWD = (array.reshape(*array.shape[:3], -1) for array in (x_NHWLC, through_NHWLF))
    (of_kernel,) = jax.linear_transpose(lambda kernel: xla.as_written(x_NHWD, kernel, how.plain, lanes), merged)(through_NHWD)
    of_kernel = of_kernel.reshape(*kernel.shape[:-1], lanes, filters)
    return [jnp.moveaxis(of_kernel, -2, 0), jax.vmap(functools.partial(_of_bias, how), axes)(gradient, seen)]


def _few_taps(kernel: xla.Shaped) -> bool:
    return math.prod(kernel.shape[:-1]) <= _MOST_TAPS


def _seen_by(how: How, x: jax.Array, tap: Sequence[int], place: Sequence[int], size: Sequence[int]) -> jax.Array:
    """What a tap (row, column, channel) sees at a position of each window: (N, H, W, 1)."""
    starts = [i * s + k for i, s, k in zip(place, how.strides, tap, strict=False)]
    steps = [2 * s for s in how.strides]
    ends = [start + (n - 1) * step + 1 for start, n, step in zip(starts, size, steps, strict=True)]
    return lax.slice(x, (0, *starts, tap[2]), (len(x), *ends, tap[2] + 1), (1, *steps, 1))


def _conv_by_shifts(how: How, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> list[jax.Array]:
    """With few taps the sum of products is one kernel with bias, pool and relu, which stores what was pooled alone."""
    if not _few_taps(kernel):
        return _conv(how, x, kernel, bias)
    dtype = x.dtype
    x, kernel, bias = (array.astype(xla.sum_dtype(dtype)) for array in (x, kernel, bias))
    y = jax.eval_shape(lambda x, kernel: xla.as_written(x, kernel, how.plain), x, kernel)
    size = [n // 2 for n in y.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *how.zeros, (0, 0)))
    taps = list(np.ndindex(*kernel.shape[:-1]))
    places = [
        functools.reduce(jnp.add, (_seen_by(how, x, tap, place, size) * kernel[tap][None, None, None] for tap in taps))
        for place in PLACES
    ]
    y, *seen = _choose(how, places, bias)
    return [y.astype(dtype), *seen]


def _kernel_gradient_at_winners(
    how: How, results: Results, x: jax.Array, gradient: jax.Array, seen: jax.Array
) -> list[jax.Array]:
    """With few taps: sums of the gradient times what the winners saw, a quarter of the products and of the bytes."""
    kernel, _ = results
    if not _few_taps(kernel):
        return _kernel_gradient(how, results, x, gradient, seen)
    x = jnp.pad(x, ((0, 0), *how.zeros, (0, 0)))
    gradient = jnp.where(seen == DEAD, 0, gradient).astype(xla.sum_dtype(gradient.dtype))
    sums = []
    for tap in np.ndindex(*kernel.shape[:-1]):
        by_place = [_seen_by(how, x, tap, place, seen.shape[1:3]) for place in PLACES]
        at_winner = _at(seen, by_place, jnp.zeros((), x.dtype))
        sums.append(_sum(gradient * at_winner))
    of_kernel, of_bias = jnp.stack(sums).reshape(kernel.shape), _sum(gradient)
    return [of_kernel.astype(kernel.dtype), of_bias.astype(kernel.dtype)]
