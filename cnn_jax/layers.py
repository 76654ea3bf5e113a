"""Convolution, transposed convolution, pooling and padding for 1, 2 and 3 spatial axes, and the linen modules on them.

The only file that knows padding. The *amount* is integers from `geometry`; `pad` fills it by the *mode*; then everything runs
VALID. Arrays are channels last. Shape letters: N images, S spatial axes (`*S` one, two or three of them), C channels in,
F channels out, K kernel axes, P taps of a window along one axis, I connections of a sparsely connected layer.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax

from cnn_jax import config, geometry
from cnn_jax.config import Padding, Size, UsageError
from cnn_jax.convolution import TRANSPOSED_SCOPE, add_bias, conv_max_pool, conv_valid, dense, sum_dtype
from cnn_jax.convolution.linear import Arrays, Rule, canonical, linear

Initializer = Callable[..., Any]  # (key, shape, dtype) -> array
Function = Callable[[jax.Array], jax.Array]
Entry = TypeVar("Entry")

ACTIVATIONS: dict[str, Function] = {
    "linear": lambda x: x,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,  # slope 0.01 below zero, as in JAX and PyTorch; Keras 3 has 0.3
    "relu6": jax.nn.relu6,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),  # exact, as in PyTorch and Keras; JAX's default is the tanh fit
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "scaled_tanh": lambda x: 1.7159 * jnp.tanh(x * (2 / 3)),  # LeCun et al. 1998, appendix A
}
# Activations that never decrease: they commute with a maximum.
MONOTONE = ("linear", "relu", "leaky_relu", "relu6", "elu", "selu", "softplus", "sigmoid", "tanh", "scaled_tanh")
INITIALIZERS: dict[str, Initializer] = {
    "zeros": jax.nn.initializers.zeros,
    "ones": jax.nn.initializers.ones,
    "glorot_uniform": jax.nn.initializers.glorot_uniform(),
    "glorot_normal": jax.nn.initializers.glorot_normal(),
    "he_uniform": jax.nn.initializers.he_uniform(),
    "he_normal": jax.nn.initializers.he_normal(),
    "lecun_uniform": jax.nn.initializers.lecun_uniform(),
    "lecun_normal": jax.nn.initializers.lecun_normal(),
    "normal": jax.nn.initializers.normal(),  # standard deviation 0.01
}
_WITHOUT_FANS = ("zeros", "ones", "normal")
_NUMPY_PAD_MODES = {"reflect": "reflect", "symmetric": "symmetric", "replicate": "edge", "circular": "wrap"}

# ------------------------------------------------------------------------------------------------------------- functions


def pad(x: jax.Array, pads: Sequence[tuple[int, int]], mode: str = "zeros", value: float = 0.0) -> jax.Array:
    """Pads the spatial axes of x (N, *S, C) by a (low, high) pair each.

    1234 becomes, by two at each end: zeros `00 1234 00`, reflect `32 1234 32` (the edge is not repeated), symmetric
    `21 1234 43` (it is), replicate `11 1234 44`, circular `34 1234 12`. `value` takes the place of the zeros, in that mode
    alone. Raises UsageError for a negative pad, and where a single copy of the image does not reach: 'reflect' of n
    positions or more, 'symmetric' or 'circular' of more than n.
    """
    if mode not in config.PADDING_MODES:
        raise UsageError(f"unknown padding_mode {mode!r}: one of {', '.join(config.PADDING_MODES)}")
    if value != 0 and mode != "zeros":
        raise UsageError(f"padding_mode {mode!r} takes its values from the image: value={value} is for 'zeros'")
    spatial = x.shape[1 : _rank(x) + 1]
    pads = geometry.resolve_pads(spatial, 1, 1, 1, tuple(pads))
    geometry.check_fill(spatial, pads, mode)
    widths = ((0, 0), *pads, (0, 0))
    if mode == "zeros":
        return jnp.pad(x, widths, constant_values=value)
    return jnp.pad(x, widths, mode=_NUMPY_PAD_MODES[mode])


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
    """Cross-correlates x (N, *S, C) with kernel (*K, C // groups, F) and adds bias (F,): (N, *S', F).

    The kernel is not flipped, as in every deep-learning library. `padding` is the amount, with TensorFlow's 'same'
    (ceil(n / s) outputs, the odd position at the end); `padding_mode` says what fills it, so that changing the mode never
    shifts the sampling grid.

    The result and its gradients agree with `lax.conv_general_dilated` to rounding for any finite input: a pixel under a zero
    tap has no influence, whatever its value (masked kernels, sentinels for missing data), and its gradient is zero. Without
    zero taps, rounding errors are relative to the largest pixel of a window and the largest tap. Sums of bfloat16 and float16
    are taken in float32.

    Raises:
      UsageError: shapes do not agree, or the kernel is larger than the padded image.
    """
    how = _Convolution.of(x, kernel, bias, strides, padding, padding_mode, dilation, groups)
    return conv_valid(*how.arrays, **how.settings)


class _Convolution(NamedTuple):
    """A convolution ready to be done: arrays of one type, x padded but for zeros, and the settings of `conv_valid`."""

    arrays: tuple[Any, ...]
    settings: dict[str, Any]

    @classmethod
    def of(
        cls, x: jax.Array, kernel: jax.Array, bias: jax.Array | None, strides: Size, padding: Padding, padding_mode: str,
        dilation: Size, groups: int,
    ) -> "_Convolution":  # fmt: skip
        rank, groups = _rank(x, kernel), config.plain(groups)
        _check_channels(x, kernel, bias, groups, channels=kernel.shape[-2] * groups, filters=kernel.shape[-1])
        strides, dilation = geometry.as_tuple(strides, rank, "strides"), geometry.as_tuple(dilation, rank, "dilation")
        pads = _fitting_pads(x.shape[1:-1], kernel.shape[:-2], strides, dilation, padding, "kernel")
        x, kernel, bias = promote_dtype(x, kernel, bias)
        if padding_mode != "zeros":  # zeros go inside, where no gradient is computed for them
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
    """The gradient of `conv` with respect to its input, as a layer: x (N, *S, C), kernel (*K, F // groups, C) -> (N, *S', F).

    S' is (n - 1) * s + (k - 1) * d + 1 less the pads, as in PyTorch, and n * s for 'same' and 'same_lower', as in Keras.
    `output_padding` enlarges the end, to tell apart the inputs that a strided `conv` maps to one size; it must be smaller
    than the stride or the dilation. Raises UsageError for shapes that do not agree and for an empty result.
    """
    rank, groups = _rank(x, kernel), config.plain(groups)
    _check_channels(x, kernel, bias, groups, channels=kernel.shape[-1], filters=kernel.shape[-2] * groups)
    sizes, kernel_sizes = x.shape[1:-1], kernel.shape[:-2]
    strides, dilation = geometry.as_tuple(strides, rank, "strides"), geometry.as_tuple(dilation, rank, "dilation")
    pads, out_S = geometry.transpose_geometry(sizes, kernel_sizes, strides, dilation, padding, output_padding)
    x, kernel, bias = promote_dtype(x, kernel, bias)
    whole_S = tuple((n - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(sizes, kernel_sizes, strides, dilation, strict=True))
    convolve = functools.partial(conv_valid, kernel=kernel, strides=strides, dilation=dilation, groups=groups)
    # Not linear_transpose: conv_valid may define its own gradient, which only vjp can use.
    with jax.named_scope(TRANSPOSED_SCOPE):
        _, gradient = jax.vjp(convolve, jnp.zeros((len(x), *whole_S, kernel.shape[-2] * groups), x.dtype))
        (y,) = gradient(x)
    # What the pads of the convolution were is cut off; where the output reaches beyond the last window, zeros are added.
    edges = ((-low, out + low - whole, 0) for whole, out, (low, _) in zip(whole_S, out_S, pads, strict=True))
    y = lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    return y if bias is None else add_bias(y, bias)


def max_pool(
    x: jax.Array, window: Size, *, strides: Size | None = None, padding: Padding = "valid", dilation: Size = 1
) -> jax.Array:
    """Maximum over windows of x (N, *S, C); `strides` None: the window.

    Padding never wins, and a NaN always does. Of equal values the first in row-major order gets the gradient, as in PyTorch.
    Raises UsageError where a window would see nothing but padding.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return _pool(x, window, strides, padding, dilation, _first_maximum, jnp.iinfo(x.dtype).min)[0]
    wide = x.astype(sum_dtype(x.dtype))  # a pixel's gradient is a sum over the windows that it wins
    return _pool(wide, window, strides, padding, dilation, _first_maximum, -jnp.inf)[0].astype(x.dtype)


def avg_pool(
    x: jax.Array, window: Size, *, strides: Size | None = None, padding: Padding = "valid", count_include_pad: bool = False
) -> jax.Array:
    """Mean over windows of x (N, *S, C); `strides` None: the window.

    The mean is over the pixels of the image under the window, as in Keras; with `count_include_pad` over all of the window,
    as PyTorch does unless told otherwise. Integers and half precision are summed in float32; integers come back as that.
    """
    wide = x.astype(sum_dtype(x.dtype))
    total, counts = _pool(wide, window, strides, padding, 1, _sum, 0)
    if count_include_pad:
        size = math.prod(geometry.as_tuple(window, x.ndim - 2, "window"))
        counts = np.full_like(counts, size)
    mean = total / counts[..., None].astype(wide.dtype)
    return mean.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else mean


def _pool(
    x: jax.Array, window: Size, strides: Size | None, padding: Padding, dilation: Size, combine: Callable, fill: Any
) -> tuple[jax.Array, np.ndarray]:
    """Windows of x combined, and the number of pixels that are no padding under each window (*S').

    Strided slices, one axis after the other: `lax.reduce_window`'s gradient is twenty times slower on CPU. The last axis goes
    first, so that the first of equal values is the first in row-major order.
    """
    rank = _rank(x)
    window = geometry.as_tuple(window, rank, "window")
    strides = window if strides is None else geometry.as_tuple(strides, rank, "strides")
    dilation = geometry.as_tuple(dilation, rank, "dilation")
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
            raise UsageError(f"window {k} with padding {pads[axis - 1]} on an axis of {n} would see nothing but padding")
        counts = counts[..., None] * inside_S
    for axis, k, s, d in reversed(axes):
        span = (counts.shape[axis - 1] - 1) * s + 1
        inside_SP = inside[axis - 1]
        combined = lax.slice_in_dim(x, 0, span, s, axis)
        for tap in range(1, k):
            # Where all taps before this one are padding.
            first_S = inside_SP[:, tap] & ~inside_SP[:, :tap].any(axis=1)
            first = first_S.reshape(-1, *(1,) * (x.ndim - axis - 1)) if first_S.any() else None
            combined = combine(combined, lax.slice_in_dim(x, tap * d, tap * d + span, s, axis), first)
        x = combined
    return x, counts


def _sum(a: jax.Array, b: jax.Array, first: np.ndarray | None) -> jax.Array:
    del first  # padding is zero
    return a + b


def _first_maximum(a: jax.Array, b: jax.Array, first: np.ndarray | None) -> jax.Array:
    """Return the larger; a if they are equal; NaN if either is; b where it is the `first` that is not padding.

    The gradient is one select, and needs only the mask.
    """
    b_wins = (b > a) | (b != b)
    return jnp.where(b_wins if first is None else b_wins | first, b, a)


def _rank(x: jax.Array, kernel: jax.Array | None = None) -> int:
    """The number of spatial axes."""
    if not 3 <= x.ndim <= 5:
        raise UsageError(f"x has shape {x.shape}: it must be (N, *S, C) with 1, 2 or 3 spatial axes")
    if kernel is not None and kernel.ndim != x.ndim:
        raise UsageError(f"kernel has shape {kernel.shape}: for x {x.shape} it must have {x.ndim - 2} spatial axes too")
    return x.ndim - 2


def _check_channels(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, groups: int, channels: int, filters: int) -> None:
    """Refuses x, a kernel made for `channels` and `filters`, and a bias that do not agree."""
    _check_groups(groups, x.shape[-1], filters)
    if channels != x.shape[-1]:
        raise UsageError(f"kernel {kernel.shape} with groups={groups} takes {channels} channels, but x has {x.shape[-1]}")
    if bias is not None and bias.shape != (filters,):
        raise UsageError(f"bias has shape {bias.shape}: it must be ({filters},), one value per filter")


def _check_groups(groups: int, channels: int, filters: int) -> None:
    if filters < 1:
        raise UsageError(f"filters is {filters}: it must be at least 1")
    if groups < 1 or channels % groups or filters % groups:
        raise UsageError(f"groups={groups} must divide both the {channels} channels and the {filters} filters")


def _fitting_pads(
    spatial: Sequence[int], kernel: Size, strides: Size, dilation: tuple[int, ...], padding: Padding, what: str
) -> tuple[tuple[int, int], ...]:
    """The pads of `geometry`, refused where the kernel (`what` in the message) is larger than the padded image."""
    pads = geometry.resolve_pads(spatial, kernel, strides, dilation, padding)
    sizes = geometry.as_tuple(kernel, len(pads), what)
    for n, k, d, (low, high) in zip(spatial, sizes, dilation, pads, strict=True):
        if geometry.output_size(n, k, 1, d, low, high) == 0:
            raise UsageError(
                f"{what} of {k} with dilation {d} spans {(k - 1) * d + 1} positions, but an axis of {n} padded by"
                f" ({low}, {high}) has {n + low + high}: use a smaller {what} or more padding"
            )
    return pads


# --------------------------------------------------------------------------------------------------------------- modules


def lookup(table: dict[str, Entry], what: str, name: str | Entry) -> Entry:
    """The table's entry, or `name` itself if it is a function already. Raises UsageError listing the legal names."""
    if callable(name):
        return name
    if name not in table:
        raise UsageError(f"unknown {what} {name!r}: one of {', '.join(table)}")
    return table[name]


@contextlib.contextmanager
def refusals_named(name: str | None) -> Iterator[None]:
    """Puts the layer's name before whatever is refused inside; of nested layers, the innermost."""
    try:
        yield
    except UsageError as error:
        if str(error).startswith("layer "):
            raise
        raise UsageError(f"layer {name!r}: {error}") from error


def parameter_dtype(dtype: Any) -> Any:
    """The type of the parameters of a layer that computes in `dtype`: float64 for float64, otherwise float32."""
    return jnp.promote_types(dtype or jnp.float32, jnp.float32)


def connection_indices(connections: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Channel and filter of every connection, in the order in which a sparsely connected `Conv` packs its kernel."""
    pairs = [(channel, filter_) for filter_, channels in enumerate(connections) for channel in channels]
    channels_I, filters_I = np.array(pairs, int).reshape(-1, 2).T
    return channels_I, filters_I


def packed_initializer(init: Initializer, connections: Sequence[Sequence[int]]) -> Initializer:
    """Draws a packed kernel (*K, I) as the connected entries of a dense one, over the channels that any filter sees."""
    channels_I, filters_I = connection_indices(connections)

    def draw(key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> Any:
        return init(key, (*shape[:-1], channels_I.max() + 1, len(connections)), dtype)[..., channels_I, filters_I]

    return draw


class _Named(nn.Module):
    """A layer whose refusals name it. Subclasses say what they do in `transform`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        with refusals_named(self.name or type(self).__name__):
            return self.transform(x)

    def transform(self, x: jax.Array) -> jax.Array:
        raise NotImplementedError


class _Parametric(_Named, kw_only=True):
    """A layer with parameters, then an activation (a name of `ACTIVATIONS`, or a function).

    Subclasses define `affine`, or `outputs` where the activation is done on the way.
    """

    activation: str | Function = config.Conv.activation
    dtype: Any = None  # to compute in; None: what input and parameters promote to

    def transform(self, x: jax.Array) -> jax.Array:
        return self.outputs(x if self.dtype is None else x.astype(self.dtype))

    def outputs(self, x: jax.Array) -> jax.Array:
        return self.activate(self.affine(x))

    def activate(self, y: jax.Array) -> jax.Array:
        return lookup(ACTIVATIONS, "activation", self.activation)(y)

    def affine(self, x: jax.Array) -> jax.Array:
        raise NotImplementedError

    def parameter(self, name: str, init: str | Initializer, shape: tuple[int, ...]) -> jax.Array:
        initializer = lookup(INITIALIZERS, "initializer", init)
        value = self.param(name, initializer, shape, parameter_dtype(self.dtype))
        return value if self.dtype is None else value.astype(self.dtype)


class _Weighted(_Parametric, kw_only=True):
    """A layer with a kernel and a bias; the initializers are a name of `INITIALIZERS` or a function."""

    use_bias: bool = config.Conv.use_bias
    kernel_init: str | Initializer = config.Conv.kernel_init
    bias_init: str | Initializer = config.Conv.bias_init
    precision: str | None = None  # of products: 'default', 'high', 'highest'; None: as jax_default_matmul_precision says

    def transform(self, x: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(self.precision) if self.precision else contextlib.nullcontext():
            return super().transform(x)

    def kernel(self, *shape: int, name: str = "kernel") -> jax.Array:
        return self.parameter(name, self.kernel_init, shape)

    def bias(self, filters: int) -> jax.Array | None:
        if self.bias_init in INITIALIZERS and self.bias_init not in _WITHOUT_FANS:
            raise UsageError(f"bias_init {self.bias_init!r} scales by the fans of a kernel: one of {', '.join(_WITHOUT_FANS)}")
        return self.parameter("bias", self.bias_init, (filters,)) if self.use_bias else None


class _Sliding(_Weighted, kw_only=True):
    """A layer whose kernel slides over the spatial axes."""

    strides: Size = config.Conv.strides
    padding: Padding = config.Conv.padding
    dilation: Size = config.Conv.dilation


class _Padded(_Sliding, kw_only=True):
    """A sliding layer whose padding has a mode."""

    padding_mode: str = config.Conv.padding_mode

    def convolution(self, x: jax.Array, kernel: jax.Array, bias: jax.Array | None, groups: int) -> _Convolution:
        return _Convolution.of(x, kernel, bias, self.strides, self.padding, self.padding_mode, self.dilation, groups)

    def activated(self, how: _Convolution) -> jax.Array:
        """The convolution and the activation; relu is done on the way."""
        relu = lookup(ACTIVATIONS, "activation", self.activation) is jax.nn.relu
        y = conv_valid(*how.arrays, **how.settings, relu=relu)
        return y if relu else self.activate(y)


class Conv(_Padded):
    """`conv` with parameters kernel (*K, C // groups, filters) and bias (filters,).

    `connections` lists the input channels that each filter sees; only those entries are parameters, packed as (*K, I).
    """

    filters: int
    kernel_size: Size = config.Conv.kernel_size
    groups: int = dataclasses.field(default=config.Conv.groups, kw_only=True)
    connections: Sequence[Sequence[int]] | None = dataclasses.field(default=None, kw_only=True)

    def outputs(self, x: jax.Array) -> jax.Array:
        return self.activated(self.convolution(x, *self.weights(x), self.groups))

    def weights(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """The dense kernel and the bias for the input `x`."""
        sizes = geometry.as_tuple(self.kernel_size, _rank(x), "kernel_size")
        _check_groups(self.groups, x.shape[-1], self.filters)
        if self.connections is None:
            kernel = self.kernel(*sizes, x.shape[-1] // self.groups, self.filters)
        else:
            kernel = self.sparse_kernel(sizes, x.shape[-1], self.connections)
        return kernel, self.bias(self.filters)

    def sparse_kernel(self, sizes: tuple[int, ...], channels: int, connections: Sequence[Sequence[int]]) -> jax.Array:
        """The dense kernel (*K, C, F): the packed parameters in their places, zeros elsewhere."""
        seen = [set(c) for c in connections]
        whole = all(len(s) == len(c) and s and s <= set(range(channels)) for s, c in zip(seen, connections, strict=True))
        if self.groups != 1 or len(connections) != self.filters or not whole:
            raise UsageError(
                f"connections must list, for each of the {self.filters} filters, one or more different channels"
                f" below {channels}; and groups must be 1"
            )
        channels_I, filters_I = connection_indices(connections)
        init = packed_initializer(lookup(INITIALIZERS, "initializer", self.kernel_init), connections)
        packed = self.parameter("kernel", init, (*sizes, len(filters_I)))
        dense = jnp.zeros((*sizes, channels, self.filters), packed.dtype)
        return dense.at[..., channels_I, filters_I].set(packed, unique_indices=True)


class PooledConv(Conv):
    """A `Conv` and the max-pool of windows side by side behind it: returns what each of the two returns.

    On CPU both are one loop where that is faster (see `convolution.conv_max_pool`); what the Conv alone returns is then
    computed only where it is used. The activation must be one of `MONOTONE`.
    """

    window: Size = dataclasses.field(default=config.MaxPool.window, kw_only=True)

    def outputs(self, x: jax.Array) -> Any:
        how = self.convolution(x, *self.weights(x), self.groups)
        y = self.activated(how)
        window = geometry.as_tuple(self.window, _rank(x), "window")
        activation = lookup(ACTIVATIONS, "activation", self.activation)
        pooled = conv_max_pool(*how.arrays, **how.settings, window=window, activation=activation)
        return y, max_pool(y, window) if pooled is None else pooled


class DepthwiseConv(_Padded):
    """A convolution per channel: kernel (*K, 1, C * multiplier), whose filter i sees channel i // multiplier."""

    kernel_size: Size = config.DepthwiseConv.kernel_size
    multiplier: int = config.DepthwiseConv.multiplier

    def outputs(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        sizes = geometry.as_tuple(self.kernel_size, _rank(x), "kernel_size")
        kernel = self.kernel(*sizes, 1, channels * self.multiplier)
        return self.activated(self.convolution(x, kernel, self.bias(channels * self.multiplier), groups=channels))


class SeparableConv(_Padded):
    """A depthwise convolution (depthwise_kernel), a 1x1 convolution over its channels (pointwise_kernel), and one bias."""

    filters: int
    kernel_size: Size = config.SeparableConv.kernel_size
    multiplier: int = dataclasses.field(default=config.SeparableConv.multiplier, kw_only=True)

    def outputs(self, x: jax.Array) -> jax.Array:
        rank, channels = _rank(x), x.shape[-1]
        sizes = geometry.as_tuple(self.kernel_size, rank, "kernel_size")
        depthwise = self.kernel(*sizes, 1, channels * self.multiplier, name="depthwise_kernel")
        pointwise = self.kernel(*(1,) * rank, channels * self.multiplier, self.filters, name="pointwise_kernel")
        how = self.convolution(x, depthwise, None, groups=channels)
        return self.activate(conv(conv_valid(*how.arrays, **how.settings), pointwise, self.bias(self.filters)))


class ConvTranspose(_Sliding):
    """`conv_transpose` with parameters kernel (*K, filters // groups, C) and bias (filters,)."""

    filters: int
    kernel_size: Size = config.ConvTranspose.kernel_size
    output_padding: Size = dataclasses.field(default=config.ConvTranspose.output_padding, kw_only=True)
    groups: int = dataclasses.field(default=config.ConvTranspose.groups, kw_only=True)

    def affine(self, x: jax.Array) -> jax.Array:
        sizes = geometry.as_tuple(self.kernel_size, _rank(x), "kernel_size")
        _check_groups(self.groups, x.shape[-1], self.filters)
        return conv_transpose(
            x,
            self.kernel(*sizes, self.filters // self.groups, x.shape[-1]),
            self.bias(self.filters),
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
        )


class Dense(_Weighted):
    """Matrix product over the last axis with kernel (inputs, units), then bias, then activation."""

    units: int

    def affine(self, x: jax.Array) -> jax.Array:
        x, kernel, bias = promote_dtype(x, self.kernel(x.shape[-1], self.units), self.bias(self.units))
        if bias is None or x.ndim > 2:
            return x @ kernel if bias is None else add_bias(x @ kernel, bias)
        return dense(x, kernel, bias)


class Subsample(_Parametric):
    """LeNet-5's pooling (LeCun et al. 1998): window sum times `scale` plus `bias`, both trained per channel, then activation.

    `scale` starts at one over the window's size, that is as average pooling.
    """

    window: Size = config.Subsample.window

    def affine(self, x: jax.Array) -> jax.Array:
        size = math.prod(geometry.as_tuple(self.window, _rank(x), "window"))
        scale = self.parameter("scale", jax.nn.initializers.constant(1 / size), (x.shape[-1],))
        bias = self.parameter("bias", "zeros", (x.shape[-1],))
        dtype = jnp.result_type(x, scale, bias)
        wide = sum_dtype(dtype)  # the gradients of scale and bias are sums over all positions
        return (avg_pool(x.astype(wide), self.window) * (size * scale.astype(wide)) + bias.astype(wide)).astype(dtype)


class MaxPool(_Named):
    """`max_pool` as a module."""

    window: Size = config.MaxPool.window
    strides: Size | None = config.MaxPool.strides
    padding: Padding = config.MaxPool.padding
    dilation: Size = config.MaxPool.dilation

    def transform(self, x: jax.Array) -> jax.Array:
        return max_pool(x, self.window, strides=self.strides, padding=self.padding, dilation=self.dilation)


class AvgPool(_Named):
    """`avg_pool` as a module."""

    window: Size = config.AvgPool.window
    strides: Size | None = config.AvgPool.strides
    padding: Padding = config.AvgPool.padding
    count_include_pad: bool = config.AvgPool.count_include_pad

    def transform(self, x: jax.Array) -> jax.Array:
        return avg_pool(x, self.window, strides=self.strides, padding=self.padding, count_include_pad=self.count_include_pad)


class GlobalMaxPool(_Named):
    """Maximum over all positions: (N, *S, C) -> (N, C)."""

    def transform(self, x: jax.Array) -> jax.Array:
        return jnp.max(x, axis=tuple(range(1, 1 + _rank(x))))


class GlobalAvgPool(_Named):
    """Mean over all positions: (N, *S, C) -> (N, C)."""

    def transform(self, x: jax.Array) -> jax.Array:
        return jnp.mean(x, axis=tuple(range(1, 1 + _rank(x))))


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean and the (biased) variance of x (..., C) per channel.

    The mean of squares less the square of the mean takes one pass, but loses as many digits as the mean is larger than the
    deviation: then a second pass sums the squared differences from the mean.
    """
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    var = jnp.maximum(0, (x * x).mean(axes) - mean * mean)
    return mean, lax.cond(jnp.all(mean * mean <= 4 * var), lambda: var, lambda: jnp.square(x - mean).mean(axes))


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _normalized(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x (..., C) with mean 0 and variance 1 per channel, times scale plus bias; mean and (biased) variance of x.

    Its gradient is the closed form (Ioffe and Szegedy 2015, section 3): two sums and one pass over x and the gradient, where
    differentiating the steps takes twice as many, and twice as long to compile.
    """
    mean, var = _moments(x)
    slope = scale * jax.lax.rsqrt(var + epsilon)
    return x * slope + (bias - mean * slope), mean, var


def _normalized_tangent(epsilon: float, residuals: Arrays, arguments: Arrays) -> Arrays:
    (x, scale, mean, var), (dx, dscale, dbias) = residuals, arguments
    axes = tuple(range(x.ndim - 1))
    inverse = jax.lax.rsqrt(var + epsilon)
    centred, dmean = x - mean, dx.mean(axes)
    dvar = 2 * (centred * dx).mean(axes)
    dslope = dscale * inverse - scale * inverse**3 * dvar / 2
    return [(dx - dmean) * (scale * inverse) + centred * dslope + dbias, dmean, dvar]


def _normalized_transpose(epsilon: float, residuals: Arrays, cotangents: Arrays) -> Arrays:
    (x, scale, mean, var), (y, y_mean, y_var) = residuals, cotangents
    axes, count = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
    inverse = jax.lax.rsqrt(var + epsilon)
    bias = y.sum(axes)
    scale_gradient = ((y * x).sum(axes) - mean * bias) * inverse
    # slope * (y - (bias + normalized * scale_gradient) / count), and what comes through the statistics; linear in y and x.
    slope = scale * inverse
    of_x = (2 * y_var - slope * inverse * scale_gradient) / count
    constant = (y_mean - slope * bias) / count - of_x * mean
    return [y * slope + x * of_x + constant, scale_gradient, bias]


_NORMALIZED = Rule(_normalized_tangent, _normalized_transpose)


@_normalized.defjvp
def _normalized_jvp(epsilon: float, primals: Arrays, tangents: Arrays) -> tuple[Any, Any]:
    x, scale, _ = primals
    outputs = _, mean, var = _normalized(*primals, epsilon)
    return outputs, tuple(linear(_NORMALIZED, epsilon, (x, scale, mean, var), tangents, outputs))


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but channels, with the variables of `flax.linen.BatchNorm` and its numbers.

    Statistics are in float32 at least. They are taken over a batch with `train`, which also moves the running ones, by
    1 - momentum; without it the running ones are used.
    """

    momentum: float = config.BatchNorm.momentum
    epsilon: float = config.BatchNorm.epsilon
    use_scale: bool = config.BatchNorm.use_scale
    use_bias: bool = config.BatchNorm.use_bias
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = x.shape[-1:]
        wide = jnp.promote_types(x.dtype, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = bias = None
        if self.use_scale:
            scale = self.param("scale", nn.initializers.ones, shape, parameter_dtype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape, parameter_dtype(self.dtype))
        scale = jnp.ones(shape, wide) if scale is None else scale.astype(wide)
        bias = jnp.zeros(shape, wide) if bias is None else bias.astype(wide)
        if train:
            y, batch_mean, batch_var = _normalized(canonical(x.astype(wide)), scale, bias, self.epsilon)
            if not self.is_initializing():
                for running, now in ((mean, batch_mean), (var, batch_var)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * now
        else:
            slope = scale * jax.lax.rsqrt(var.value + self.epsilon)
            y = x * slope + (bias - mean.value * slope)
        return y.astype(self.dtype or x.dtype)


class RBF(_Named):
    """LeNet-5's output layer: minus half the squared distance of x (N, features) to the code of each class. No parameters."""

    codes: Sequence[Sequence[int]]

    def transform(self, x: jax.Array) -> jax.Array:
        codes_KC = np.array(self.codes)
        if codes_KC.shape[1:] != x.shape[1:]:
            raise UsageError(f"codes have length {codes_KC.shape[1:]}, but x has {x.shape[1:]} features")
        wide = x.astype(sum_dtype(x.dtype))
        return (-0.5 * jnp.sum((wide[:, None] - codes_KC.astype(wide.dtype)) ** 2, axis=-1)).astype(x.dtype)


class PadChannels(_Named):
    """ResNet's shortcut "A" (He et al. 2016): every `strides`-th position, and zeros as channels C to `filters`."""

    filters: int
    strides: Size = config.PadChannels.strides

    def transform(self, x: jax.Array) -> jax.Array:
        rank, channels = _rank(x), x.shape[-1]
        strides = geometry.as_tuple(self.strides, rank, "strides")
        if self.filters < channels:
            raise UsageError(f"filters={self.filters} must be at least the {channels} channels of the input")
        x = x[(slice(None), *(slice(None, None, s) for s in strides))]
        return jnp.pad(x, ((0, 0),) * (rank + 1) + ((0, self.filters - channels),))
