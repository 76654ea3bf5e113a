"""Integers only: padding amounts, output sizes, parameters, multiply-accumulates (MACs), receptive fields. No JAX.

n input size, k kernel size, s stride, d dilation, each along one spatial axis; a kernel spans (k - 1) * d + 1 positions.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import get_args

from cnn_jax.config import (
    ACTIVATIONS,
    INITIALIZERS,
    PADDING_AMOUNTS,
    PADDING_MODES,
    RBF,
    Activation,
    AvgPool,
    BatchNorm,
    Branch,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    GroupNorm,
    Layer,
    LayerNorm,
    MaxPool,
    PadChannels,
    Padding,
    Residual,
    SeparableConv,
    Size,
    Spec,
    Subsample,
    UsageError,
    named,
    plain,
)


class GeometryError(UsageError):
    """A layer that does not fit its input. The message is one line that names the layer once it is part of a network."""


# ------------------------------------------------------------------------------------------------- sizes and paddings


def as_tuple(size: Size, rank: int, what: str, least: int = 1) -> tuple[int, ...]:
    """An int for every one of `rank` spatial axes, from an int or from a sequence of `rank` ints, each at least `least`.

    `what` names the quantity in the GeometryError.
    """
    size = plain(size)
    sizes = size if isinstance(size, tuple) else (size,) * rank
    if len(sizes) != rank:
        raise GeometryError(f"{what} {sizes} has {len(sizes)} values for {rank} spatial axes: give one number, or one per axis")
    for value in sizes:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise GeometryError(f"{what} is {value!r}: it must be an integer of at least {least}")
    return sizes


def axis_pads(n: int, k: int, s: int, d: int, padding: str | int | Sequence[int]) -> tuple[int, int]:
    """Positions added (before, after) one axis.

    'same' keeps ceil(n / s) outputs and gives the odd position to the end, as TensorFlow and Keras do; 'same_lower' gives
    it to the start. 'full' adds (k - 1) * d at both ends, so that every input meets every weight; 'causal' adds them all
    at the start. An int is added at both ends; a pair is (before, after).
    """
    reach = (k - 1) * d
    padding = plain(padding)
    match padding:
        case "valid":
            return 0, 0
        case "same" | "same_lower":
            total = max((-(-n // s) - 1) * s + reach + 1 - n, 0)
            less, more = total // 2, total - total // 2
            return (less, more) if padding == "same" else (more, less)
        case "full":
            return reach, reach
        case "causal":
            return reach, 0
        case str():
            raise GeometryError(
                f"unknown padding {padding!r}: one of {', '.join(PADDING_AMOUNTS)}, an integer, or a (low, high) pair per axis"
            )
        case int():
            low = high = padding
        case _:
            low, high = as_tuple(tuple(padding), 2, "a (low, high) pair of padding", least=0)
    if low < 0 or high < 0:
        raise GeometryError(f"padding is {padding!r}: it must not be negative")
    return low, high


def resolve_pads(
    spatial: Sequence[int], kernel: Size, strides: Size, dilation: Size, padding: Padding
) -> tuple[tuple[int, int], ...]:
    """The (low, high) pads of every spatial axis for an input of shape `spatial`."""
    rank, padding = len(spatial), plain(padding)
    if padding == "causal" and rank != 1:
        raise GeometryError(f"padding 'causal' is for one spatial axis, not {rank}: use one of valid, same, same_lower, full")
    per_axis: Sequence = [padding] * rank if isinstance(padding, str | int) else padding
    if len(per_axis) != rank:
        raise GeometryError(
            f"padding {padding} has {len(per_axis)} pairs for {rank} spatial axes: give a (low, high) pair per axis"
        )
    kernel, strides = as_tuple(kernel, rank, "kernel_size"), as_tuple(strides, rank, "strides")
    dilation = as_tuple(dilation, rank, "dilation")
    return tuple(axis_pads(*axis) for axis in zip(spatial, kernel, strides, dilation, per_axis, strict=True))


def output_size(n: int, k: int, s: int, d: int, low: int, high: int) -> int:
    """Outputs along one axis: floor((n + low + high - (k - 1) * d - 1) / s) + 1, and 0 where the kernel does not fit."""
    return max((n + low + high - (k - 1) * d - 1) // s + 1, 0)


def check_fill(spatial: Sequence[int], pads: Sequence[tuple[int, int]], mode: str) -> None:
    """Raises GeometryError where a single copy of the image does not reach as far as the padding mode has to fill.

    'reflect' leaves the edge itself out and can fill n - 1 positions of an axis of n, 'symmetric' and 'circular' n.
    """
    for n, pair in zip(spatial, pads, strict=True):
        widest = {"reflect": n - 1, "symmetric": n, "circular": n}.get(mode, math.inf)
        if max(pair) > widest:
            raise GeometryError(
                f"{mode} padding of {max(pair)} is wider than its input {_times(spatial)} can fill (at most {widest}): "
                "use --padding=replicate, a smaller --kernel_size or fewer layers"
            )


def transpose_geometry(
    spatial: Sequence[int], kernel: Size, strides: Size, dilation: Size, padding: Padding, output_padding: Size = 0
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Pads and output sizes of a transposed convolution over an input of shape `spatial`.

    The pads are those of the convolution that it is the gradient of, so they are cut off. Outputs along an axis:
    (n - 1) * s + (k - 1) * d + 1 - low - high + output_padding; under 'same' and 'same_lower' they are n * s, as in Keras
    (so there `output_padding` must be 0).
    """
    rank = len(spatial)
    k_S, s_S = as_tuple(kernel, rank, "kernel_size"), as_tuple(strides, rank, "strides")
    d_S = as_tuple(dilation, rank, "dilation")
    extra_S = as_tuple(output_padding, rank, "output_padding", least=0)
    padding = plain(padding)
    same = padding in ("same", "same_lower")
    forward_S = [n * s for n, s in zip(spatial, s_S, strict=True)]
    pads = resolve_pads(forward_S if same else spatial, k_S, s_S, d_S, padding)
    if same and any(extra_S):
        raise GeometryError(f"output_padding is {output_padding} under padding {padding!r}: it must be 0 there")
    for extra, s, d in zip(extra_S, s_S, d_S, strict=True):
        if extra and extra >= max(s, d):
            raise GeometryError(f"output_padding is {extra}: it must be smaller than strides {s} or dilation {d}")
    axes = zip(spatial, k_S, s_S, d_S, pads, extra_S, strict=True)
    out_S = tuple(
        n * s if same else (n - 1) * s + (k - 1) * d + 1 - low - high + extra for n, k, s, d, (low, high), extra in axes
    )
    if min(out_S) < 1:
        raise GeometryError(f"padding {padding!r} cuts off all of its output: use less padding or a larger kernel_size")
    return pads, out_S


# --------------------------------------------------------------------------------------------------------- layer tables


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """One layer of a network for one image.

    Shapes are without the batch. A receptive field is the number of input positions that one output can see along an axis,
    borders ignored; the effective stride is how many input positions apart neighbouring outputs look. Both are an int where
    all axes agree, else a tuple, and None where there is no such number: after a global pooling or a flatten, and after a
    transposed convolution with strides (what an output sees depends on where it is). Statistics of norms are left out.
    MACs are multiply-accumulates of convolutions and dense layers (and of the distances of an RBF layer), without bias;
    products with padding are counted.
    activation_bytes is the output as float32; 0 for a flatten, which moves nothing.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int = 0
    macs: int = 0
    receptive_field: int | tuple[int, ...] | None = None
    effective_stride: int | tuple[int, ...] | None = None
    pads: tuple[tuple[int, int], ...] | None = None
    activation_bytes: int = 0
    warning: str = ""


@dataclasses.dataclass(frozen=True)
class Description:
    """A network's layers in order of computation, and their totals; params are trained values, not running statistics."""

    input_shape: tuple[int, ...]
    layers: tuple[LayerInfo, ...]
    model: str = ""

    @functools.cached_property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @functools.cached_property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @functools.cached_property
    def activation_bytes(self) -> int:
        return sum(layer.activation_bytes for layer in self.layers)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(f"{layer.name}: {layer.warning}" for layer in self.layers if layer.warning)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.layers[-1].output_shape if self.layers else self.input_shape

    @property
    def receptive_field(self) -> int | tuple[int, ...] | None:
        """That of the last layer that has one."""
        return next((la.receptive_field for la in reversed(self.layers) if la.receptive_field is not None), None)


def layer_table(spec: Sequence[Layer], input_shape: Sequence[int]) -> Description:
    """Output shapes, parameters, MACs and receptive fields of a network on images of shape `input_shape` (*S, C).

    The layers inside a `Residual` or a `Branch` are rows of their own, before the row of the whole, which costs nothing.
    Raises GeometryError naming the layer that is wrong or does not fit, and UsageError for two layers of one name.
    """
    return _layer_table(tuple(spec), plain(input_shape))


@functools.lru_cache(maxsize=4096)
def _layer_table(spec: Spec, input_shape: tuple[int, ...]) -> Description:
    if not input_shape or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in input_shape):
        raise GeometryError(f"input shape {input_shape} is not legal: give (*spatial sizes, channels), integers of at least 1")
    for layer in spec:
        if not isinstance(layer, get_args(Layer)):
            kinds = ", ".join(kind.__name__ for kind in get_args(Layer))
            raise GeometryError(f"{type(layer).__name__} is not a layer: one of {kinds}")
    rows: list[LayerInfo] = []
    _run(named(spec), _Signal(input_shape, (_Field(),) * (len(input_shape) - 1)), rows)
    return Description(input_shape, tuple(rows))


@dataclasses.dataclass(frozen=True)
class _Field:
    """Along one axis: the first output sees the `size` input positions from `start`, the next output `jump` further on."""

    start: int = 0
    size: int = 1
    jump: int = 1

    def through(self, k: int, s: int, d: int, low: int) -> "_Field":
        """Seen through a window over this signal. After Araujo, Norris and Sim, Distill 2019, equations for r, j and start."""
        return _Field(self.start - low * self.jump, self.size + (k - 1) * d * self.jump, self.jump * s)

    @property
    def twice_centre(self) -> int:
        return 2 * self.start + self.size - 1


_Fields = tuple[_Field, ...]


@dataclasses.dataclass(frozen=True)
class _Signal:
    """What flows between two layers: shape (*S, C), and a field per spatial axis or None."""

    shape: tuple[int, ...]
    fields: _Fields | None

    @property
    def spatial(self) -> tuple[int, ...]:
        return self.shape[:-1]


@dataclasses.dataclass(frozen=True)
class _Step:
    """What a layer makes of a signal, and what it costs."""

    out: _Signal
    params: int = 0
    macs: int = 0
    pads: tuple[tuple[int, int], ...] | None = None
    warning: str = ""


_LEGAL = {
    "activation": ACTIVATIONS,
    "padding_mode": PADDING_MODES,
    "kernel_init": INITIALIZERS,
    "bias_init": INITIALIZERS,
}


def _run(layers: Spec, x: _Signal, rows: list[LayerInfo]) -> _Signal:
    for layer in layers:
        for field, legal in _LEGAL.items():
            if (value := getattr(layer, field, legal[0])) not in legal:
                raise GeometryError(f"{layer.name}: unknown {field} {value!r}: one of {', '.join(legal)}")
        match layer:
            case Residual():
                paths = [_run(layer.body, x, rows), _run(layer.shortcut, x, rows)]
                step = _join(layer.name, paths, concat=False)
            case Branch():
                if layer.merge not in ("concat", "add") or not layer.branches:
                    raise GeometryError(f"{layer.name}: merge is {layer.merge!r}: one of concat, add, over at least one branch")
                paths = [_run(branch, x, rows) for branch in layer.branches]
                step = _join(layer.name, paths, concat=layer.merge == "concat")
            case _:
                try:
                    step = _step(layer, x)
                except GeometryError as error:
                    raise GeometryError(f"{layer.name}: {error}") from None
        x = step.out
        rows.append(
            LayerInfo(
                name=layer.name,
                kind=layer.kind,
                output_shape=x.shape,
                params=step.params,
                macs=step.macs,
                receptive_field=_per_axis(f.size for f in x.fields or ()),
                effective_stride=_per_axis(f.jump for f in x.fields or ()),
                pads=step.pads,
                activation_bytes=0 if isinstance(layer, Flatten) else 4 * math.prod(x.shape),
                warning=step.warning,
            )
        )
    return x


def _per_axis(values: Iterable[int]) -> int | tuple[int, ...] | None:
    values = tuple(values)
    return None if not values else values[0] if len(set(values)) == 1 else values


def _join(name: str, paths: list[_Signal], concat: bool) -> _Step:
    """Adds or concatenates branches. Branches that look at different places of the image are a warning: the network runs."""
    shapes = [p.shape for p in paths]
    if len({shape[:-1] if concat else shape for shape in shapes}) > 1:
        raise GeometryError(f"{name}: its branches do not fit together: their outputs are {' and '.join(map(_times, shapes))}")
    shape = (*shapes[0][:-1], sum(s[-1] for s in shapes)) if concat else shapes[0]
    fields = [p.fields for p in paths if p.fields is not None]
    if len(fields) < len(paths):
        return _Step(_Signal(shape, None))
    jumps = [tuple(f.jump for f in path) for path in fields]
    if len(set(jumps)) > 1:
        strides = " and ".join(map(_times, jumps))
        return _Step(_Signal(shape, None), warning=f"its branches have different effective strides: {strides} pixels")
    centres = [tuple(f.twice_centre / 2 for f in path) for path in fields]
    warning = ""
    if len(set(centres)) > 1:
        warning = (
            f"its branches are misaligned: their receptive fields are centred {' and '.join(map(_times, centres))} pixels "
            f"into the image, at an effective stride of {_times(jumps[0])}; odd kernels with equal padding on both sides align"
        )
    return _Step(_Signal(shape, tuple(map(_union, zip(*fields, strict=True)))), warning=warning)


def _union(fields: tuple[_Field, ...]) -> _Field:
    """The smallest field that covers all of `fields`, which have one jump."""
    start = min(f.start for f in fields)
    return _Field(start, max(f.start + f.size for f in fields) - start, fields[0].jump)


def _times(sizes: Iterable[float]) -> str:
    return "x".join(f"{size:g}" for size in sizes)


def _count(value: int, what: str) -> int:
    return as_tuple(value, 1, what)[0]


def _slide(
    x: _Signal, what: str, window: Size, strides: Size, padding: Padding, dilation: Size = 1, mode: str = "zeros"
) -> tuple[tuple[int, ...], _Step]:
    """A window that slides over `x`: its sizes, and the step with the channels unchanged and no costs."""
    n_S, rank = x.spatial, len(x.spatial)
    if not rank:
        raise GeometryError(f"it slides over spatial axes, but its input has none: {_times(x.shape)} values")
    k_S = as_tuple(window, rank, "kernel_size" if what == "kernel" else what)
    s_S, d_S = as_tuple(strides, rank, "strides"), as_tuple(dilation, rank, "dilation")
    pads = resolve_pads(n_S, k_S, s_S, d_S, padding)
    out_S = tuple(output_size(n, k, s, d, *p) for n, k, s, d, p in zip(n_S, k_S, s_S, d_S, pads, strict=True))
    if 0 in out_S:
        dilated = f" with dilation {_times(d_S)}" if max(d_S) > 1 else ""
        smaller = "a smaller --kernel_size or" if what == "kernel" else "smaller --strides or"
        raise GeometryError(
            f"{what} {_times(k_S)}{dilated} is larger than its input {_times(n_S)} under padding {padding!r}: "
            f"use --padding=same, {smaller} fewer layers"
        )
    check_fill(n_S, pads, mode)
    fields = None if x.fields is None else tuple(map(_Field.through, x.fields, k_S, s_S, d_S, (low for low, _ in pads)))
    return k_S, _Step(_Signal((*out_S, x.shape[-1]), fields), pads=pads)


def _transpose(layer: ConvTranspose, x: _Signal) -> tuple[tuple[int, ...], _Step]:
    n_S, rank = x.spatial, len(x.spatial)
    if not rank:
        raise GeometryError(f"it slides over spatial axes, but its input has none: {_times(x.shape)} values")
    k_S, s_S = as_tuple(layer.kernel_size, rank, "kernel_size"), as_tuple(layer.strides, rank, "strides")
    d_S = as_tuple(layer.dilation, rank, "dilation")
    pads, out_S = transpose_geometry(n_S, k_S, s_S, d_S, layer.padding, layer.output_padding)
    fields = None
    if x.fields is not None and max(s_S) == 1:  # then it is a convolution with the flipped kernel
        lows = ((k - 1) * d - low for k, d, (low, _) in zip(k_S, d_S, pads, strict=True))
        fields = tuple(map(_Field.through, x.fields, k_S, s_S, d_S, lows))
    return k_S, _Step(_Signal((*out_S, x.shape[-1]), fields), pads=pads)


def _step(layer: Layer, x: _Signal) -> _Step:
    """A layer without layers inside. Its errors do not name it."""
    channels = x.shape[-1]

    def costs(step: _Step, channels: int, params: int, macs: int = 0) -> _Step:
        return _Step(_Signal((*step.out.spatial, channels), step.out.fields), params, macs, step.pads)

    match layer:
        case Conv():
            filters = _count(layer.filters, "filters")
            k_S, step = _slide(x, "kernel", layer.kernel_size, layer.strides, layer.padding, layer.dilation, layer.padding_mode)
            links = _links(layer, channels) * math.prod(k_S)
            return costs(step, filters, links + filters * layer.use_bias, links * math.prod(step.out.spatial))
        case DepthwiseConv() | SeparableConv():
            k_S, step = _slide(x, "kernel", layer.kernel_size, layer.strides, layer.padding, layer.dilation, layer.padding_mode)
            filters = channels * _count(layer.multiplier, "multiplier")
            weights = filters * math.prod(k_S)
            if isinstance(layer, SeparableConv):
                weights += filters * _count(layer.filters, "filters")
                filters = layer.filters
            return costs(step, filters, weights + filters * layer.use_bias, weights * math.prod(step.out.spatial))
        case ConvTranspose():
            filters = _count(layer.filters, "filters")
            k_S, step = _transpose(layer, x)
            weights = channels * filters // _groups(layer.groups, channels, filters) * math.prod(k_S)
            # Every input meets every weight once: what the convolution costs of which this is the gradient.
            return costs(step, filters, weights + filters * layer.use_bias, weights * math.prod(x.spatial))
        case MaxPool() | AvgPool():
            strides = layer.window if layer.strides is None else layer.strides
            return _slide(x, "window", layer.window, strides, layer.padding, getattr(layer, "dilation", 1))[1]
        case Subsample():
            step = _slide(x, "window", layer.window, layer.window, "valid")[1]
            return costs(step, channels, 2 * channels)
        case GlobalMaxPool() | GlobalAvgPool():
            return _Step(_Signal((channels,), None))
        case Flatten():
            return _Step(_Signal((math.prod(x.shape),), None))
        case BatchNorm():
            return _Step(x, channels * (layer.use_scale + layer.use_bias))
        case GroupNorm():
            _groups(layer.groups, channels)
            return _Step(x, 2 * channels)
        case LayerNorm():
            return _Step(x, 2 * channels)
        case Activation():
            return _Step(x)
        case Dropout():
            if not 0 <= layer.rate < 1:
                raise GeometryError(f"rate is {layer.rate}: it must be at least 0 and below 1")
            return _Step(x)
        case Dense():
            units = _count(layer.units, "units")
            weights = channels * units
            return costs(_Step(x), units, weights + units * layer.use_bias, weights * math.prod(x.spatial))
        case RBF():
            if {len(code) for code in layer.codes} != {channels}:
                raise GeometryError(f"its codes must have one value for each of its {channels} inputs")
            return costs(_Step(x), len(layer.codes), 0, len(layer.codes) * math.prod(x.shape))
        case PadChannels():
            if layer.filters < channels:
                raise GeometryError(f"filters is {layer.filters}: it must be at least its input's {channels} channels")
            return costs(_slide(x, "kernel", 1, layer.strides, "valid")[1], layer.filters, 0)
    raise GeometryError(f"{layer!r} is not a layer")


def _links(layer: Conv, channels: int) -> int:
    """Pairs of input channel and filter that are connected."""
    groups = _groups(layer.groups, channels, layer.filters)
    if layer.connections is None:
        return channels * layer.filters // groups
    legal = len(layer.connections) == layer.filters and all(
        inputs and len(set(inputs)) == len(inputs) and set(inputs) <= set(range(channels)) for inputs in layer.connections
    )
    if not legal or groups > 1:
        raise GeometryError(
            f"connections must list, for each of its {layer.filters} filters, some of the input channels 0 to {channels - 1} "
            "once each, and groups must be 1"
        )
    return sum(map(len, layer.connections))


def _groups(groups: int, *channels: int) -> int:
    for c in channels:
        if c % _count(groups, "groups"):
            raise GeometryError(f"groups {groups} do not divide {c} channels: use a divisor of {c}")
    return groups
