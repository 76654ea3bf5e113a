"""The forward pass of lowered steps in NumPy: what the page will answer, known before the page is written.

It decides where half precision may be used. Axes: N images, H height, W width, C channels, F filters.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import scipy

from cnn_jax.lowering import Op

Function = Callable[[np.ndarray], np.ndarray]

_PadMode = Literal["reflect", "symmetric", "edge", "wrap"]
_PAD_MODES: dict[str, _PadMode] = {
    "reflect": "reflect",
    "symmetric": "symmetric",
    "replicate": "edge",
    "circular": "wrap",
}
ACTIVATIONS: dict[str, Function] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x >= 0, x, 0.01 * x),
    "relu6": lambda x: np.clip(x, 0, 6),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x * scipy.special.ndtr(x),
    "silu": lambda x: x * scipy.special.expit(x),
    "softplus": lambda x: np.logaddexp(x, 0),
    "sigmoid": lambda x: scipy.special.expit(x),  # SciPy is imported when it is used
    "tanh": np.tanh,
    "scaled_tanh": lambda x: 1.7159 * np.tanh(x * (2 / 3)),
}


def run(ops: Sequence[Op], x_NHWC: np.ndarray) -> np.ndarray:
    """The output of the last step for each image, in float64."""
    out = x_NHWC.astype(np.float64)
    for _, y in outputs(ops, x_NHWC):
        out = y
    return out


def outputs(ops: Sequence[Op], x_NHWC: np.ndarray) -> Iterator[tuple[Op, np.ndarray]]:
    """Each step with its output for each image, in float64."""
    x = x_NHWC.astype(np.float64)
    for op in ops:
        x = _STEPS[op.kind](op, x)
        yield op, x


def _activated(op: Op, x: np.ndarray) -> np.ndarray:
    return ACTIVATIONS[op.settings["activation"]](x)


def _windows(op: Op, x_NHWC: np.ndarray, fill: float = 0.0) -> np.ndarray:
    """The input under each tap of a window, (N, H', W', C, taps)."""
    (k_h, k_w), (s_h, s_w), (d_h, d_w) = (op.settings[name] for name in ("size", "strides", "dilation"))
    widths, mode = ((0, 0), *op.settings["pads"], (0, 0)), op.settings.get("mode", "zeros")
    padded = np.pad(x_NHWC, widths, constant_values=fill) if mode == "zeros" else np.pad(x_NHWC, widths, mode=_PAD_MODES[mode])
    height, width = op.shape[:2]
    taps = [
        padded[:, a * d_h : a * d_h + (height - 1) * s_h + 1 : s_h, b * d_w : b * d_w + (width - 1) * s_w + 1 : s_w]
        for a in range(k_h)
        for b in range(k_w)
    ]
    return np.stack(taps, axis=-1)


def _conv(op: Op, x_NHWC: np.ndarray) -> np.ndarray:
    taps, kernel, groups = _windows(op, x_NHWC), op.arrays["kernel"], op.settings["groups"]
    kernel_TCF = kernel.reshape(-1, *kernel.shape[2:])
    parts = [
        np.einsum("nhwct,tcf->nhwf", one, weights, optimize=True)
        for one, weights in zip(np.split(taps, groups, axis=3), np.split(kernel_TCF, groups, axis=2), strict=True)
    ]
    return _activated(op, np.concatenate(parts, axis=-1) + op.arrays["bias"])


def _conv_transpose(op: Op, x_NHWC: np.ndarray) -> np.ndarray:
    (s_h, s_w), (d_h, d_w), groups = op.settings["strides"], op.settings["dilation"], op.settings["groups"]
    kernel, ((low_h, _), (low_w, _)) = op.arrays["kernel"], op.settings["pads"]  # (kh, kw, F // groups, C)
    n, height, width, _ = x_NHWC.shape
    room_h, room_w = (height - 1) * s_h + kernel.shape[0] * d_h, (width - 1) * s_w + kernel.shape[1] * d_w
    y = np.zeros((n, max(room_h, low_h + op.shape[0]), max(room_w, low_w + op.shape[1]), op.shape[2]))
    for a in range(kernel.shape[0]):
        for b in range(kernel.shape[1]):
            pairs = zip(np.split(x_NHWC, groups, axis=3), np.split(kernel[a, b], groups, axis=1), strict=True)
            part = np.concatenate([one @ weights.T for one, weights in pairs], axis=-1)
            y[:, a * d_h : a * d_h + (height - 1) * s_h + 1 : s_h, b * d_w : b * d_w + (width - 1) * s_w + 1 : s_w] += part
    cut = y[:, low_h : low_h + op.shape[0], low_w : low_w + op.shape[1]]
    return _activated(op, cut + op.arrays["bias"])


def _avg_pool(op: Op, x_NHWC: np.ndarray) -> np.ndarray:
    if op.settings["count_include_pad"]:
        return _windows(op, x_NHWC).mean(axis=-1)
    return np.nanmean(_windows(op, x_NHWC, math.nan), axis=-1)


def _norm(op: Op, x: np.ndarray) -> np.ndarray:
    groups = op.settings["groups"]
    shaped = x.reshape(len(x), -1, groups, x.shape[-1] // groups) if groups else x
    axes = (1, 3) if groups else (-1,)
    mean, var = shaped.mean(axes, keepdims=True), shaped.var(axes, keepdims=True)
    normalized = ((shaped - mean) / np.sqrt(var + op.settings["epsilon"])).reshape(x.shape)
    return normalized * op.arrays["scale"] + op.arrays["bias"]


def _residual(op: Op, x: np.ndarray) -> np.ndarray:
    return _activated(op, run(op.paths[0], x) + run(op.paths[1], x))


def _branch(op: Op, x: np.ndarray) -> np.ndarray:
    found = [run(path, x) for path in op.paths]
    return np.concatenate(found, axis=-1) if op.settings["merge"] == "concat" else sum(found[1:], found[0])


def _pad_channels(op: Op, x_NHWC: np.ndarray) -> np.ndarray:
    s_h, s_w = op.settings["strides"]
    return np.pad(x_NHWC[:, ::s_h, ::s_w], ((0, 0), (0, 0), (0, 0), (0, op.shape[2] - x_NHWC.shape[3])))


def _subsample(op: Op, x_NHWC: np.ndarray) -> np.ndarray:
    k_h, k_w = op.settings["size"]
    height, width = op.shape[:2]
    cut = x_NHWC[:, : height * k_h, : width * k_w]
    sums = cut.reshape(len(cut), height, k_h, width, k_w, -1).sum(axis=(2, 4))
    return _activated(op, sums * op.arrays["scale"] + op.arrays["bias"])


def _rbf(op: Op, x: np.ndarray) -> np.ndarray:
    return -0.5 * ((x[:, None] - op.arrays["codes"]) ** 2).sum(axis=-1)


_STEPS: dict[str, Callable[[Op, np.ndarray], np.ndarray]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": lambda op, x: _windows(op, x, -math.inf).max(axis=-1),
    "avg_pool": _avg_pool,
    "global_max": lambda op, x: x.max(axis=(1, 2)),
    "global_avg": lambda op, x: x.mean(axis=(1, 2)),
    "affine": lambda op, x: x * op.arrays["slope"] + op.arrays["shift"],
    "norm": _norm,
    "activation": _activated,
    "flatten": lambda op, x: x.reshape(len(x), -1),
    "dense": lambda op, x: _activated(op, x @ op.arrays["kernel"] + op.arrays["bias"]),
    "residual": _residual,
    "branch": _branch,
    "pad_channels": _pad_channels,
    "subsample": _subsample,
    "rbf": _rbf,
}
