"""Operations as nodes of an ONNX graph. Tensors are NCHW, and (N, C) after flattening."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from cnn_jax.lowering import Op

Shape = tuple[int, ...]  # of one image, channels last
_INPUT_AND_OUTPUT = ("image", "logits")  # names of the graph
_SELU = {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}


class Node(Protocol):
    """An onnx.NodeProto."""

    name: str


class Graph:
    """Nodes and constants, named by layer: 'conv1', with prefix for helpers such as 'conv1/pad'."""

    def __init__(self, onnx: ModuleType) -> None:
        self.onnx = onnx
        self.nodes: list[Node] = []
        self.constants: list[object] = []  # onnx.TensorProto
        self._layer = ""
        self._counts: dict[str, int] = {}

    @contextlib.contextmanager
    def naming(self, layer: str) -> Iterator[None]:
        """Name nodes and constants in this context by a layer; its last node and output get the layer's name."""
        before, first = self._layer, len(self.nodes)
        self._layer = layer
        yield
        self._layer = before
        if len(self.nodes) > first:
            self.nodes[-1].name = layer

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node; return the name of its output."""
        name = self._new(kind.lower())
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, array: ArrayLike) -> str:
        """Add an array; return its name."""
        full = self._new(name)
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), full))
        return full

    def _new(self, name: str) -> str:
        full = f"{self._layer}/{name}"
        self._counts[full] = self._counts.get(full, 0) + 1
        return full if self._counts[full] == 1 else f"{full}_{self._counts[full]}"


def emit(graph: Graph, ops: Sequence[Op], x: str, shape: Shape) -> tuple[str, Shape]:
    """Add operations on the tensor `x`, of `shape` per image; return name and shape of the output."""
    for op in ops:
        with graph.naming(f"{op.name}_layer" if op.name in _INPUT_AND_OUTPUT else op.name):
            x = _MAKERS[op.kind](graph, op, x, shape)
        shape = op.shape
    return x, shape


# -------------------------------------------------------------------------------------------------------------- activations


def _activated(graph: Graph, op: Op, x: str) -> str:
    return _activation(graph, op.settings["activation"], x)


def _activation(graph: Graph, name: str, x: str) -> str:
    def number(value: float) -> str:
        return graph.constant("constant", np.float32(value))

    match name:
        case "linear":
            return x
        case "relu" | "sigmoid" | "tanh" | "softplus" | "elu":
            return graph.node(name.capitalize(), x)
        case "leaky_relu":
            return graph.node("LeakyRelu", x, alpha=0.01)
        case "relu6":
            return graph.node("Clip", x, number(0), number(6))
        case "selu":
            return graph.node("Selu", x, **_SELU)
        case "gelu":  # x Phi(x); the operator Gelu is of opset 20
            erf = graph.node("Erf", graph.node("Mul", x, number(math.sqrt(0.5))))
            return graph.node("Mul", graph.node("Mul", x, number(0.5)), graph.node("Add", erf, number(1)))
        case "silu":
            return graph.node("Mul", x, graph.node("Sigmoid", x))
        case "scaled_tanh":
            return graph.node("Mul", graph.node("Tanh", graph.node("Mul", x, number(2 / 3))), number(1.7159))
    raise AssertionError(name)


# ------------------------------------------------------------------------------------------------------------------ sliding


def _window(op: Op, pads: bool = True) -> dict[str, Sequence[int]]:
    """Return the attributes of a node with a sliding window and zero padding."""
    attributes = {"kernel_shape": op.settings["size"], "strides": op.settings["strides"]}
    if pads:
        low, high = zip(*op.settings["pads"], strict=True)
        attributes["pads"] = [*low, *high]
    return attributes


def _padded(graph: Graph, op: Op, x: str, shape: Shape) -> tuple[str, bool]:
    """Return x, padded unless by zeros, and whether zero padding remains."""
    pads, mode = op.settings["pads"], op.settings["mode"]
    if mode == "zeros" or not any(map(any, pads)):
        return x, True
    if mode in ("reflect", "replicate"):
        (top, bottom), (left, right) = pads
        amounts = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
        return graph.node("Pad", x, graph.constant("pads", amounts), mode={"replicate": "edge"}.get(mode, mode)), False
    # Pad has no mode 'symmetric', and 'wrap' only since opset 19.
    numpy_mode: Literal["wrap", "symmetric"] = "wrap" if mode == "circular" else "symmetric"
    for axis, (pair, n) in enumerate(zip(pads, shape, strict=False)):
        if any(pair):
            indices = np.pad(np.arange(n, dtype=np.int64), pair, mode=numpy_mode)
            x = graph.node("Gather", x, graph.constant(f"{mode}_indices", indices), axis=2 + axis)
    return x, False


def _weights(graph: Graph, op: Op, kernel: np.ndarray) -> list[str]:
    found = [graph.constant("kernel", kernel)]
    return [*found, graph.constant("bias", op.arrays["bias"])] if "bias" in op.arrays else found


def _conv(graph: Graph, op: Op, x: str, shape: Shape) -> str:
    x, zeros = _padded(graph, op, x, shape)
    weights = _weights(graph, op, op.arrays["kernel"].transpose(3, 2, 0, 1))
    more = {"dilations": op.settings["dilation"], "group": op.settings["groups"]}
    return _activated(graph, op, graph.node("Conv", x, *weights, **_window(op, zeros), **more))


def _conv_transpose(graph: Graph, op: Op, x: str, shape: Shape) -> str:
    s, low, high, extra = op.settings, [], [], []
    for i in (0, 1):
        before, whole = s["pads"][i][0], (shape[i] - 1) * s["strides"][i] + (s["size"][i] - 1) * s["dilation"][i] + 1
        after = whole - before - op.shape[i]  # to crop from the output; missing if negative
        low.append(before)
        high.append(max(after, 0))
        extra.append(max(-after, 0))
    weights = _weights(graph, op, op.arrays["kernel"].transpose(3, 2, 0, 1))
    more = {"dilations": s["dilation"], "group": s["groups"], "pads": [*low, *high], "output_padding": extra}
    return _activated(graph, op, graph.node("ConvTranspose", x, *weights, **_window(op, pads=False), **more))


def _max_pool(graph: Graph, op: Op, x: str, shape: Shape) -> str:
    return graph.node("MaxPool", x, **_window(op), dilations=op.settings["dilation"])


def _avg_pool(graph: Graph, op: Op, x: str, shape: Shape) -> str:
    return graph.node("AveragePool", x, **_window(op), count_include_pad=int(op.settings["count_include_pad"]))


def _subsample(graph: Graph, op: Op, x: str, shape: Shape) -> str:
    size = op.settings["size"]
    mean = graph.node("AveragePool", x, kernel_shape=size, strides=size)
    scale = graph.constant("scale", _per_channel(op.arrays["scale"] * math.prod(size), op.shape))
    scaled = graph.node("Mul", mean, scale)
    return _activated(graph, op, graph.node("Add", scaled, graph.constant("bias", _per_channel(op.arrays["bias"], op.shape))))


def _global(kind: str) -> Callable[[Graph, Op, str, Shape], str]:
    return lambda graph, op, x, shape: graph.node("Flatten", graph.node(kind, x), axis=1)


# ------------------------------------------------------------------------------------------------- channels and positions


def _per_channel(array: np.ndarray, shape: Shape) -> np.ndarray:
    """Reshape (C,) for broadcasting to (N, C, H, W) or (N, C)."""
    return array.reshape(-1, *(1,) * (len(shape) - 1))


def _channels_last(graph: Graph, x: str, shape: Shape, function: Callable[[str], str]) -> str:
    """Apply `function` to x with channels as the last axis."""
    if len(shape) == 1:
        return function(x)
    return graph.node("Transpose", function(graph.node("Transpose", x, perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2])


def _batch_norm(graph: Graph, op: Op, x: str, shape: Shape) -> str:
    ones = np.ones(shape[-1], np.float32)
    arrays = {"scale": ones, "bias": 0 * ones} | op.arrays
    inputs = [graph.constant(name, arrays[name]) for name in ("scale", "bias", "mean", "var")]
    return graph.node("BatchNormalization", x, *inputs, epsilon=op.settings["epsilon"])


def _norm(graph: Graph, op: Op, x: str, shape: Shape) -> str:
    groups, epsilon, arrays = op.settings["groups"], op.settings["epsilon"], op.arrays
    if not groups:
        weights = [graph.constant(name, arrays[name]) for name in ("scale", "bias")]
        return _channels_last(
            graph, x, shape, lambda y: graph.node("LayerNormalization", y, *weights, axis=-1, epsilon=epsilon)
        )
    # GroupNormalization requires opset 21: use instance normalization with groups as channels.
    *spatial, channels = shape
    parts = graph.node("Reshape", x, graph.constant("groups", np.array([0, groups, -1], np.int64)))
    ones = np.ones(groups, np.float32)
    scale, bias = graph.constant("ones", ones), graph.constant("zeros", 0 * ones)
    parts = graph.node("InstanceNormalization", parts, scale, bias, epsilon=epsilon)
    y = graph.node("Reshape", parts, graph.constant("shape", np.array([0, channels, *spatial], np.int64)))
    y = graph.node("Mul", y, graph.constant("scale", _per_channel(arrays["scale"], shape)))
    return graph.node("Add", y, graph.constant("bias", _per_channel(arrays["bias"], shape)))


def _dense(graph: Graph, op: Op, x: str, shape: Shape) -> str:
    def product(y: str) -> str:
        weights = _weights(graph, op, op.arrays["kernel"])
        if len(shape) == 1:
            return graph.node("Gemm", y, *weights)
        y = graph.node("MatMul", y, weights[0])
        return graph.node("Add", y, weights[1]) if weights[1:] else y

    return _activated(graph, op, _channels_last(graph, x, shape, product))


def _flatten(graph: Graph, op: Op, x: str, shape: Shape) -> str:
    """Flatten images in the order of the trained network: channels last."""
    return x if len(shape) == 1 else graph.node("Flatten", graph.node("Transpose", x, perm=[0, 2, 3, 1]), axis=1)


def _rbf(graph: Graph, op: Op, x: str, shape: Shape) -> str:
    x = graph.node("Unsqueeze", x, graph.constant("class_axis", np.array([1], np.int64)))
    difference = graph.node("Sub", x, graph.constant("codes", op.arrays["codes"]))
    squares = graph.node("Mul", difference, difference)
    total = graph.node("ReduceSum", squares, graph.constant("axis", np.array([2], np.int64)), keepdims=0)
    return graph.node("Mul", total, graph.constant("factor", np.float32(-0.5)))


# ------------------------------------------------------------------------------------------------------------------- blocks


def _residual(graph: Graph, op: Op, x: str, shape: Shape) -> str:
    body, shortcut = (emit(graph, path, x, shape)[0] for path in op.paths)
    return _activated(graph, op, graph.node("Add", body, shortcut))


def _branch(graph: Graph, op: Op, x: str, shape: Shape) -> str:
    found = [emit(graph, path, x, shape)[0] for path in op.paths]
    if op.settings["merge"] == "concat":
        return graph.node("Concat", *found, axis=1)
    return graph.node("Sum", *found)


def _pad_channels(graph: Graph, op: Op, x: str, shape: Shape) -> str:
    strides = op.settings["strides"]
    if max(strides) > 1:
        names, values = ("starts", "ends", "axes", "steps"), ([0, 0], shape[:2], [2, 3], strides)
        x = graph.node("Slice", x, *(graph.constant(n, np.array(v, np.int64)) for n, v in zip(names, values, strict=True)))
    if op.shape[-1] == shape[-1]:
        return x
    amounts = np.array([0, 0, 0, 0, 0, op.shape[-1] - shape[-1], 0, 0], np.int64)
    return graph.node("Pad", x, graph.constant("pads", amounts))


_MAKERS: dict[str, Callable[[Graph, Op, str, Shape], str]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "global_max": _global("GlobalMaxPool"),
    "global_avg": _global("GlobalAveragePool"),
    "batch_norm": _batch_norm,
    "norm": _norm,
    "activation": lambda graph, op, x, shape: _activated(graph, op, x),
    "dropout": lambda graph, op, x, shape: x,
    "flatten": _flatten,
    "dense": _dense,
    "residual": _residual,
    "branch": _branch,
    "pad_channels": _pad_channels,
    "subsample": _subsample,
    "rbf": _rbf,
}
