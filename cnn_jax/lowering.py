"""A trained network as a flat list of operations: integers and arrays alone. No JAX.

The page and the exported files are made from it. Padding amounts are resolved, depthwise and separable convolutions are grouped
ones, and sparse kernels are dense ones with zeros. `fold` then removes operations that evaluation does not need.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax import nn
from cnn_jax.aliases import JsonObject
from cnn_jax.nn.padding import as_tuple, resolve_pads, transpose_geometry
from cnn_jax.nn.spec import Field, Signal
from cnn_jax.nn.weighted import Weighted

Variables = Mapping[str, np.ndarray]


class NotLowered(ValueError):
    """A layer is not from this package, or the parameters do not match the network."""


@dataclasses.dataclass(frozen=True)
class Op:
    """An operation of a forward pass.

    Attributes:
        kind: What is computed; `_MAKERS` says which layers are of which kind. 'affine' comes from `fold` alone.
        name: Of the layer, as in its features.
        shape: Of the output for one image.
        settings: Parameters of the operation other than arrays, as JSON in the page.
        arrays: Parameters; no 'bias' or 'scale' where the layer has none.
        paths: Operations of the branches of a residual block or a branch.
        fields: Receptive field (start, size, jump) along height and width; None where there is none.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    settings: JsonObject = dataclasses.field(default_factory=dict)
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    paths: tuple[tuple["Op", ...], ...] = ()
    fields: tuple[tuple[int, int, int], ...] | None = None


def lower(spec: Sequence[nn.Layer], input_shape: tuple[int, ...], variables: Variables) -> tuple[Op, ...]:
    """Lower a network for images (H, W, C) to operations, in order.

    Args:
        spec: The network.
        input_shape: Of one image.
        variables: Trained values by path, as `store.load_params` returns them.

    Raises:
        NotLowered: A layer is not from this package, or an array is missing or has another shape.
    """
    if len(input_shape) != 3:
        raise NotLowered(f"images of shape {input_shape}: must be (height, width, channels)")
    ops, _ = _run(nn.named(tuple(spec)), Signal(input_shape, (Field(), Field())), variables)
    return ops


def fold(ops: Sequence[Op]) -> tuple[Op, ...]:
    """Return the operations for evaluation alone: batch norms are 'affine', dropout is left out, and every bias is there."""
    folded = []
    for op in ops:
        if op.kind == "dropout":
            continue
        if op.kind == "batch_norm":
            op = dataclasses.replace(op, kind="affine", settings={}, arrays=_affine(op))
        elif op.kind in ("conv", "conv_transpose", "dense") and "bias" not in op.arrays:
            op = dataclasses.replace(op, arrays=op.arrays | {"bias": np.zeros(op.shape[-1], np.float32)})
        folded.append(dataclasses.replace(op, paths=tuple(fold(path) for path in op.paths)))
    return tuple(folded)


def _affine(op: Op) -> dict[str, np.ndarray]:
    """Factor and shift per channel of a batch norm with its running statistics."""
    mean, var = op.arrays["mean"], op.arrays["var"]
    slope = op.arrays.get("scale", np.ones_like(var)).astype(np.float64) / np.sqrt(
        var.astype(np.float64) + op.settings["epsilon"]
    )
    shift = op.arrays.get("bias", np.zeros_like(mean)) - mean * slope
    return {"slope": slope.astype(np.float32), "shift": shift.astype(np.float32)}


def _run(layers: Sequence[nn.Layer], x: Signal, variables: Variables) -> tuple[tuple[Op, ...], Signal]:
    ops: list[Op] = []
    for layer in layers:
        make = _MAKERS.get(type(layer))
        if make is None:
            raise NotLowered(f"layer {layer.name!r}: {type(layer).__name__} is not one of this package's layers")
        get = functools.partial(_array, variables, layer.name)
        if layer.nested:
            found = [_run(part, x, variables) for part in layer.nested]
            out = layer.join([signal for _, signal in found]).out
            made = [dataclasses.replace(op, paths=tuple(ops for ops, _ in found)) for op in make(layer, x, get)]
        else:
            out = layer.geometry(x).out
            made = make(layer, x, get)
        fields = None if out.fields is None else tuple((f.start, f.size, f.jump) for f in out.fields)
        ops += [dataclasses.replace(op, name=op.name or layer.name, shape=op.shape or out.shape, fields=fields) for op in made]
        x = out
    return tuple(ops), x


Get = Callable[..., np.ndarray]


def _array(variables: Variables, layer: str, name: str, shape: tuple[int, ...], collection: str = "params") -> np.ndarray:
    path = f"{collection}/{layer}/{name}"
    found = variables.get(path)
    if found is None or found.shape != shape or found.dtype.kind != "f":
        raise NotLowered(f"{path}: {'missing' if found is None else f'{found.dtype} of shape {found.shape}, not {shape}'}")
    return found.astype(np.float32)


def _op(kind: str, settings: JsonObject | None = None, **arrays: np.ndarray) -> Op:
    return Op(kind, "", (), settings or {}, arrays)


def _sliding(layer: nn.Conv | nn.DepthwiseConv | nn.SeparableConv, x: Signal) -> JsonObject:
    k, s, d = (as_tuple(v, 2, "size") for v in (layer.kernel_size, layer.strides, layer.dilation))
    pads = resolve_pads(x.spatial, k, s, d, layer.padding)
    return {"size": k, "strides": s, "dilation": d, "pads": pads, "mode": layer.padding_mode, "activation": layer.activation}


def _bias(layer: Weighted, get: Get, filters: int) -> dict[str, np.ndarray]:
    return {"bias": get("bias", (filters,))} if layer.use_bias else {}


def _conv(layer: nn.Conv, x: Signal, get: Get) -> list[Op]:
    settings = _sliding(layer, x) | {"groups": layer.groups}
    if layer.connections is None:
        kernel = get("kernel", (*settings["size"], x.channels // layer.groups, layer.filters))
    else:
        pairs = [(channel, f) for f, channels in enumerate(layer.connections) for channel in channels]
        packed = get("kernel", (*settings["size"], len(pairs)))
        kernel = np.zeros((*settings["size"], x.channels, layer.filters), np.float32)
        channels_I, filters_I = _connections(layer)
        kernel[..., channels_I, filters_I] = packed
    return [_op("conv", settings, kernel=kernel, **_bias(layer, get, layer.filters))]


def _connections(layer: nn.Conv) -> tuple[np.ndarray, np.ndarray]:
    from cnn_jax.nn.initializers import connection_indices

    assert layer.connections is not None
    return connection_indices(layer.connections)


def _depthwise(layer: nn.DepthwiseConv, x: Signal, get: Get) -> list[Op]:
    settings, filters = _sliding(layer, x), x.channels * layer.multiplier
    kernel = get("kernel", (*settings["size"], 1, filters))
    return [_op("conv", settings | {"groups": x.channels}, kernel=kernel, **_bias(layer, get, filters))]


def _separable(layer: nn.SeparableConv, x: Signal, get: Get) -> list[Op]:
    settings, between = _sliding(layer, x), x.channels * layer.multiplier
    depthwise = get("depthwise_kernel", (*settings["size"], 1, between))
    pointwise = get("pointwise_kernel", (1, 1, between, layer.filters))
    out = layer.geometry(x).out
    first = settings | {"groups": x.channels, "activation": "linear"}
    second = {"size": (1, 1), "strides": (1, 1), "dilation": (1, 1), "pads": ((0, 0), (0, 0)), "mode": "zeros", "groups": 1}
    one = _op("conv", first, kernel=depthwise)
    two = _op("conv", second | {"activation": layer.activation}, kernel=pointwise, **_bias(layer, get, layer.filters))
    named = dataclasses.replace(one, name=f"{layer.name} (depthwise)", shape=(*out.spatial, between))
    return [named, two]


def _conv_transpose(layer: nn.ConvTranspose, x: Signal, get: Get) -> list[Op]:
    k, s, d = (as_tuple(v, 2, "size") for v in (layer.kernel_size, layer.strides, layer.dilation))
    pads, _ = transpose_geometry(x.spatial, k, s, d, layer.padding, layer.output_padding)
    settings = {"size": k, "strides": s, "dilation": d, "pads": pads, "groups": layer.groups, "activation": layer.activation}
    kernel = get("kernel", (*k, layer.filters // layer.groups, x.channels))
    return [_op("conv_transpose", settings, kernel=kernel, **_bias(layer, get, layer.filters))]


def _pool(kind: str) -> Callable[[nn.MaxPool | nn.AvgPool, Signal, Get], list[Op]]:
    def make(layer: nn.MaxPool | nn.AvgPool, x: Signal, get: Get) -> list[Op]:
        size = as_tuple(layer.window, 2, "window")
        s = size if layer.strides is None else as_tuple(layer.strides, 2, "strides")
        d = as_tuple(getattr(layer, "dilation", 1), 2, "dilation")
        settings = {"size": size, "strides": s, "dilation": d, "pads": resolve_pads(x.spatial, size, s, d, layer.padding)}
        return [_op(kind, settings | {"count_include_pad": getattr(layer, "count_include_pad", False)})]

    return make


def _batch_norm(layer: nn.BatchNorm, x: Signal, get: Get) -> list[Op]:
    shape = (x.channels,)
    arrays = {name: get(name, shape, "batch_stats") for name in ("mean", "var")}
    arrays |= {name: get(name, shape) for name, used in (("scale", layer.use_scale), ("bias", layer.use_bias)) if used}
    return [_op("batch_norm", {"epsilon": layer.epsilon, "momentum": layer.momentum}, **arrays)]


def _norm(layer: nn.GroupNorm | nn.LayerNorm, x: Signal, get: Get) -> list[Op]:
    groups = layer.groups if isinstance(layer, nn.GroupNorm) else 0
    settings = {"groups": groups, "epsilon": layer.epsilon}
    return [_op("norm", settings, scale=get("scale", (x.channels,)), bias=get("bias", (x.channels,)))]


def _dense(layer: nn.Dense, x: Signal, get: Get) -> list[Op]:
    kernel = get("kernel", (x.channels, layer.units))
    return [_op("dense", {"activation": layer.activation}, kernel=kernel, **_bias(layer, get, layer.units))]


def _subsample(layer: nn.Subsample, x: Signal, get: Get) -> list[Op]:
    settings = {"size": as_tuple(layer.window, 2, "window"), "activation": layer.activation}
    return [_op("subsample", settings, scale=get("scale", (x.channels,)), bias=get("bias", (x.channels,)))]


def _pad_channels(layer: nn.PadChannels, x: Signal, get: Get) -> list[Op]:
    return [_op("pad_channels", {"strides": as_tuple(layer.strides, 2, "strides")})]


# Each takes layers of its kind.
_MAKERS: dict[type, Callable[[Any, Signal, Get], list[Op]]] = {
    nn.Conv: _conv,
    nn.DepthwiseConv: _depthwise,
    nn.SeparableConv: _separable,
    nn.ConvTranspose: _conv_transpose,
    nn.MaxPool: _pool("max_pool"),
    nn.AvgPool: _pool("avg_pool"),
    nn.GlobalMaxPool: lambda layer, x, get: [_op("global_max")],
    nn.GlobalAvgPool: lambda layer, x, get: [_op("global_avg")],
    nn.BatchNorm: _batch_norm,
    nn.GroupNorm: _norm,
    nn.LayerNorm: _norm,
    nn.Activation: lambda layer, x, get: [_op("activation", {"activation": layer.activation})],
    nn.Dropout: lambda layer, x, get: [_op("dropout", {"rate": layer.rate})],
    nn.Flatten: lambda layer, x, get: [_op("flatten")],
    nn.Dense: _dense,
    nn.Residual: lambda layer, x, get: [_op("residual", {"activation": layer.activation})],
    nn.Branch: lambda layer, x, get: [_op("branch", {"merge": layer.merge})],
    nn.PadChannels: _pad_channels,
    nn.Subsample: _subsample,
    nn.RBF: lambda layer, x, get: [_op("rbf", codes=np.array(layer.codes, np.float32))],
}
