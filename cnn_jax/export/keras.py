"""Export to a .keras file with standard layers, for every backend of Keras 3. Unsupported layers are errors."""

import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn, Protocol

import numpy as np

from cnn_jax.data.normalization import Normalization
from cnn_jax.errors import UsageError
from cnn_jax.export.exportable import Exportable, Files
from cnn_jax.export.requirement import require
from cnn_jax.lowering import Op
from cnn_jax.nn.padding import resolve_pads

FORMAT = "keras"
Shape = tuple[int, ...]  # of one image, channels last

_INSTEAD = "use another format"


class _Tensor(Protocol):
    """A symbolic tensor of Keras."""

    shape: Shape


class _Layer(Protocol):
    """A layer of Keras; merging layers take a list of tensors."""

    def __call__(self, x: _Tensor | list[_Tensor]) -> _Tensor: ...

    def set_weights(self, weights: list[np.ndarray]) -> None: ...


def _keras() -> ModuleType:
    os.environ.setdefault("KERAS_BACKEND", "jax")  # instead of TensorFlow, which may not be installed
    return require("keras", FORMAT)


def files(network: Exportable) -> Files:
    """Export a model from images 0 to 255 (batch, H, W, C) to logits (batch, K)."""
    ops = network.ops
    keras = _keras()
    build = _Build(network.label, keras.layers)
    image = keras.Input(network.input_shape, name="image", dtype="float32")
    x = _normalized(build, image, network.normalization, network.input_shape)
    logits, _ = build.run(ops, x, network.input_shape)
    model = keras.Model(image, logits, name=_plain(network.name))
    for layer, arrays in build.weights:
        layer.set_weights(arrays)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        data = io.BytesIO(path.read_bytes())
    sizes = ", ".join(map(str, network.input_shape))
    about = network.about(f"image, 0 to 255 (batch, {sizes}), uint8 or float32, normalized inside")
    with zipfile.ZipFile(data, "a") as file:  # ignored by Keras
        file.writestr("cnn_jax.json", json.dumps(about, indent=1))
    return {".keras": data.getvalue()}


def logits(files: Files, images: np.ndarray) -> np.ndarray:
    """Run the model on uint8 images (N, H, W, C)."""
    keras = _keras()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(files[".keras"])
        return np.asarray(keras.ops.convert_to_numpy(keras.saving.load_model(path, compile=False)(images)))


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_")


def _normalized(build: "_Build", x: _Tensor, normalization: Normalization, shape: Shape) -> _Tensor:
    """Add the steps of `Normalization`."""
    layers = build.layers
    if normalization.kind == "standardize":
        # 1 / values is added to the variance instead of being its minimum: this differs only for nearly constant images.
        more = {"epsilon": 1 / int(np.prod(shape)), "center": False, "scale": False}
        return layers.LayerNormalization(axis=[1, 2, 3], name="normalize", **more)(x)
    if normalization.kind == "per_channel":
        scale = [1 / 255 / s for s in normalization.std]
        offset = [-m / s for m, s in zip(normalization.mean, normalization.std, strict=True)]
        return layers.Rescaling(scale, offset, name="normalize")(x)
    return layers.Rescaling(1 / 255, name="normalize")(x)


class _Build:
    """Layers of Keras, called on symbolic tensors, and the weights to set after all layers are built."""

    def __init__(self, label: str, layers: ModuleType) -> None:
        self.label = label
        self.layers = layers  # keras.layers
        self.weights: list[tuple[_Layer, list[np.ndarray]]] = []

    def run(self, ops: Sequence[Op], x: _Tensor, shape: Shape) -> tuple[_Tensor, Shape]:
        for op in ops:
            if op.kind not in _MAKERS:
                self.refuse(op, f"layer of kind {op.kind}")
            x = _MAKERS[op.kind](self, op, x, shape)
            shape = op.shape
        return x, shape

    def refuse(self, op: Op, what: str) -> NoReturn:
        raise UsageError(f"--format={FORMAT}: {self.label}: layer {op.name!r}: Keras has no {what}: {_INSTEAD}")

    def layer(
        self,
        kind: str,
        op: Op,
        x: _Tensor | list[_Tensor],
        weights: Sequence[np.ndarray] = (),
        suffix: str = "",
        **arguments: object,
    ) -> _Tensor:
        """Create a layer of Keras with `arguments` and call it; `suffix` is appended to its name."""
        made: _Layer = getattr(self.layers, kind)(name=_plain(op.name) + suffix, **arguments)
        if weights:
            self.weights.append((made, list(weights)))
        return made(x)

    def activated(self, op: Op, x: _Tensor, suffix: str = "_activation") -> _Tensor:
        name = op.settings["activation"]
        match name:
            case "linear":
                return x
            case "leaky_relu":
                return self.layer("LeakyReLU", op, x, negative_slope=0.01, suffix=suffix)
            case "scaled_tanh":
                x = self.layer("Rescaling", op, x, scale=2 / 3, suffix="_inner")
                x = self.layer("Activation", op, x, activation="tanh", suffix="_tanh")
                return self.layer("Rescaling", op, x, scale=1.7159, suffix=suffix)
        return self.layer("Activation", op, x, activation=name, suffix=suffix)

    def padding(self, op: Op, x: _Tensor, shape: Shape) -> tuple[_Tensor, str]:
        """Return x, padded by a layer if Keras has no name for the padding, and the name of the remaining padding."""
        pads = op.settings["pads"]
        name = _padding_name(op, shape)
        if name:
            return x, name
        return self.layer("ZeroPadding2D", op, x, padding=pads, suffix="_padding"), "valid"


_Maker = Callable[[_Build, Op, _Tensor, Shape], _Tensor]


def _padding_name(op: Op, shape: Shape) -> str:
    """'valid', 'same', or '' for other amounts."""
    s = op.settings
    if not any(map(any, s["pads"])):
        return "valid"
    return "same" if s["pads"] == resolve_pads(shape[:-1], s["size"], s["strides"], s["dilation"], "same") else ""


def _with_bias(op: Op, *arrays: np.ndarray) -> list[np.ndarray]:
    return [*arrays, op.arrays["bias"]] if "bias" in op.arrays else list(arrays)


def _check_dilation(build: _Build, op: Op) -> None:
    if max(op.settings["dilation"]) > 1 and max(op.settings["strides"]) > 1:
        build.refuse(op, "convolution with strides and dilation")


def _conv(build: _Build, op: Op, x: _Tensor, shape: Shape) -> _Tensor:
    s, kernel = op.settings, op.arrays["kernel"]
    if s["mode"] != "zeros" and any(map(any, s["pads"])):
        build.refuse(op, f"padding mode {s['mode']!r}")
    _check_dilation(build, op)
    x, padding = build.padding(op, x, shape)
    common = {
        "kernel_size": s["size"], "strides": s["strides"], "padding": padding, "dilation_rate": s["dilation"],
        "use_bias": "bias" in op.arrays,
    }  # fmt: skip
    channels = shape[-1]
    if s["groups"] == channels > 1:
        if len(set(s["strides"])) > 1:
            build.refuse(op, f"depthwise convolution with strides {s['strides']}")
        multiplier = op.shape[-1] // channels
        kernel = kernel.reshape(*s["size"], channels, multiplier)
        y = build.layer("DepthwiseConv2D", op, x, _with_bias(op, kernel), depth_multiplier=multiplier, **common)
    else:
        y = build.layer("Conv2D", op, x, _with_bias(op, kernel), filters=op.shape[-1], groups=s["groups"], **common)
    return build.activated(op, y)


def _conv_transpose(build: _Build, op: Op, x: _Tensor, shape: Shape) -> _Tensor:
    s = op.settings
    if s["groups"] > 1:
        build.refuse(op, "transposed convolution with groups")
    _check_dilation(build, op)
    common = {"filters": op.shape[-1], "kernel_size": s["size"], "strides": s["strides"], "dilation_rate": s["dilation"]}
    weights = _with_bias(op, op.arrays["kernel"])
    y = build.layer("Conv2DTranspose", op, x, weights, use_bias="bias" in op.arrays, padding="valid", **common)
    low = [before for before, _ in s["pads"]]
    cuts = tuple((low[i], y.shape[1 + i] - low[i] - op.shape[i]) for i in (0, 1))
    if min(map(min, cuts)) < 0:
        build.refuse(op, "transposed convolution with this output padding")
    if any(map(any, cuts)):
        y = build.layer("Cropping2D", op, y, cropping=cuts, suffix="_cropping")
    return build.activated(op, y)


def _pool(kind: str) -> _Maker:
    def make(build: _Build, op: Op, x: _Tensor, shape: Shape) -> _Tensor:
        s, padding = op.settings, _padding_name(op, shape)
        if max(s["dilation"]) > 1:
            build.refuse(op, "pooling with dilation")
        if s["count_include_pad"]:
            x, padding = build.layer("ZeroPadding2D", op, x, padding=s["pads"], suffix="_padding"), "valid"
        if not padding:
            build.refuse(op, f"pooling with padding {s['pads']}")
        return build.layer(kind, op, x, pool_size=s["size"], strides=s["strides"], padding=padding)

    return make


def _batch_norm(build: _Build, op: Op, x: _Tensor, shape: Shape) -> _Tensor:
    arrays, s = op.arrays, op.settings
    used = [arrays[name] for name in ("scale", "bias", "mean", "var") if name in arrays]
    more = {"scale": "scale" in arrays, "center": "bias" in arrays, "epsilon": s["epsilon"], "momentum": s["momentum"]}
    return build.layer("BatchNormalization", op, x, used, **more)


def _norm(build: _Build, op: Op, x: _Tensor, shape: Shape) -> _Tensor:
    groups, weights = op.settings["groups"], [op.arrays["scale"], op.arrays["bias"]]
    if groups:
        return build.layer("GroupNormalization", op, x, weights, groups=groups, epsilon=op.settings["epsilon"])
    return build.layer("LayerNormalization", op, x, weights, epsilon=op.settings["epsilon"])


def _dense(build: _Build, op: Op, x: _Tensor, shape: Shape) -> _Tensor:
    weights = _with_bias(op, op.arrays["kernel"])
    return build.activated(op, build.layer("Dense", op, x, weights, units=op.shape[-1], use_bias="bias" in op.arrays))


def _residual(build: _Build, op: Op, x: _Tensor, shape: Shape) -> _Tensor:
    paths = [build.run(path, x, shape)[0] for path in op.paths]
    return build.activated(op, build.layer("Add", op, paths))


def _branch(build: _Build, op: Op, x: _Tensor, shape: Shape) -> _Tensor:
    paths = [build.run(path, x, shape)[0] for path in op.paths]
    if len(paths) == 1:
        return paths[0]
    return build.layer("Concatenate" if op.settings["merge"] == "concat" else "Add", op, paths)


def _pad_channels(build: _Build, op: Op, x: _Tensor, shape: Shape) -> _Tensor:
    strides, more = op.settings["strides"], op.shape[-1] - shape[-1]
    if max(strides) > 1:
        x = build.layer("MaxPooling2D", op, x, pool_size=1, strides=strides, suffix="_strides")
    if not more:
        return x
    # 'channels_first' pads the last axis, which is the channel axis here.
    return build.layer("ZeroPadding2D", op, x, padding=((0, 0), (0, more)), data_format="channels_first")


_MAKERS: dict[str, _Maker] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": _pool("MaxPooling2D"),
    "avg_pool": _pool("AveragePooling2D"),
    "global_max": lambda build, op, x, shape: build.layer("GlobalMaxPooling2D", op, x),
    "global_avg": lambda build, op, x, shape: build.layer("GlobalAveragePooling2D", op, x),
    "batch_norm": _batch_norm,
    "norm": _norm,
    "activation": lambda build, op, x, shape: build.activated(op, x, suffix=""),
    "dropout": lambda build, op, x, shape: build.layer("Dropout", op, x, rate=op.settings["rate"]),
    "flatten": lambda build, op, x, shape: build.layer("Flatten", op, x) if len(shape) > 1 else x,
    "dense": _dense,
    "residual": _residual,
    "branch": _branch,
    "pad_channels": _pad_channels,
}
