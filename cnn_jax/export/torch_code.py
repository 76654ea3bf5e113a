"""Operations as lines of a PyTorch module. Tensors are NCHW, and (N, C) after flattening."""

import keyword
import re
from collections.abc import Callable, Sequence

import numpy as np

from cnn_jax.lowering import Op

Shape = tuple[int, ...]  # of one image, channels last

_ACTIVATIONS = {
    "linear": "{}",
    "relu": "F.relu({})",
    "leaky_relu": "F.leaky_relu({}, 0.01)",
    "relu6": "F.relu6({})",
    "elu": "F.elu({})",
    "selu": "F.selu({})",
    "gelu": "F.gelu({})",
    "silu": "F.silu({})",
    "softplus": "F.softplus({})",
    "sigmoid": "torch.sigmoid({})",
    "tanh": "torch.tanh({})",
    "scaled_tanh": "1.7159 * torch.tanh((2 / 3) * ({}))",
}
_SYMMETRIC = '''def pad_symmetric(x, left, right, top, bottom):
    """Mirror the image, repeating its edge: F.pad has no such mode."""
    for dim, low, high in ((2, top, bottom), (3, left, right)):
        n = x.shape[dim]
        index = torch.cat([torch.arange(low - 1, -1, -1), torch.arange(n), torch.arange(n - 1, n - 1 - high, -1)])
        x = x.index_select(dim, index.to(x.device))
    return x
'''
_AVERAGE = '''def avg_pool(x, size, stride, pad, count_include_pad):
    """F.avg_pool2d, padded by any amount (left, right, top, bottom)."""
    mean = F.avg_pool2d(F.pad(x, pad), size, stride)
    if count_include_pad:
        return mean
    return mean / F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), pad), size, stride)
'''
_SUBSAMPLE = '''class Subsample(nn.Module):
    """Pooling of LeNet-5: the sum over a window times a trained scale, plus a trained bias, per channel."""

    def __init__(self, channels, size):
        super().__init__()
        self.size = size
        self.scale = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        sums = F.avg_pool2d(x, self.size, divisor_override=1)
        return sums * self.scale[:, None, None] + self.bias[:, None, None]
'''
_RBF = '''class RBF(nn.Module):
    """Output layer of LeNet-5: minus half the squared distance to a fixed code per class."""

    def __init__(self, classes, length):
        super().__init__()
        self.register_buffer("codes", torch.zeros(classes, length))

    def forward(self, x):
        return -0.5 * (x[:, None] - self.codes).square().sum(dim=-1)
'''
# Attribute names of modules, known without importing torch: not usable as layer names.
_RESERVED = {
    "T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children", "compile", "cpu", "cuda",
    "double", "dump_patches", "eval", "extra_repr", "float", "forward", "get_buffer", "get_extra_state", "get_parameter",
    "get_submodule", "half", "ipu", "load_state_dict", "modules", "mtia", "named_buffers", "named_children", "named_modules",
    "named_parameters", "normalize", "parameters", "register_backward_hook", "register_buffer", "register_module",
    "register_parameter", "requires_grad_", "set_extra_state", "set_submodule", "share_memory", "state_dict", "to", "to_empty",
    "train", "training", "type", "xpu", "zero_grad",
}  # fmt: skip


class Code:
    """Lines of `__init__` and `forward`, the state dict, and the required helpers."""

    def __init__(self) -> None:
        self.modules: list[str] = []
        self.forward: list[str] = []
        self.state: dict[str, np.ndarray] = {}
        self.helpers: list[str] = []
        self._names: set[str] = set()
        self._variables = 0

    def module(self, op: Op, made: str, state: dict[str, np.ndarray]) -> str:
        """Add a module with its values; return its name, 'self.conv1'."""
        base = re.sub(r"\W+", "_", op.name).strip("_")
        if not base.isidentifier() or not base.isascii() or keyword.iskeyword(base) or base in _RESERVED:
            base = f"layer_{re.sub('[^A-Za-z0-9]+', '_', base)}"
        name = base
        while name in self._names:
            name = f"{base}_{len(self._names)}"
        self._names.add(name)
        self.modules.append(f"self.{name} = {made}")
        self.state |= {f"{name}.{part}": value for part, value in state.items()}
        return f"self.{name}"

    def line(self, variable: str, value: str, op: Op) -> None:
        """Add an assignment, with the shape for one image in a comment."""
        if value != variable:
            sizes = (op.shape[-1], *op.shape[:-1])
            self.forward.append(f"{variable} = {value}  # {' x '.join(map(str, sizes))}")

    def helper(self, text: str) -> None:
        if text not in self.helpers:
            self.helpers.append(text)

    def variable(self, prefix: str) -> str:
        """Return a new local variable name."""
        self._variables += 1
        return f"{prefix}{self._variables}"


def emit(code: Code, ops: Sequence[Op], x: str, shape: Shape) -> Shape:
    """Add operations that update the variable `x`, of `shape` per image; return the shape of the output."""
    for op in ops:
        _MAKERS[op.kind](code, op, x, shape)
        shape = op.shape
    return shape


# -------------------------------------------------------------------------------------------------------------------- values


def _activated(op: Op, value: str) -> str:
    return _ACTIVATIONS[op.settings["activation"]].format(value)


def _arguments(*values: object, **named: object) -> str:
    """Format the arguments of a call; a pair of equal values is written as one."""
    texts = [_short(value) for value in values]
    return ", ".join(texts + [f"{name}={_short(value)}" for name, value in named.items()])


def _short(value: object) -> str:
    if isinstance(value, tuple) and all(isinstance(v, int) for v in value) and len(set(value)) == 1:
        value = value[0]
    return repr(value)


def _options(**given: tuple[object, object]) -> dict[str, object]:
    """Return the named arguments that differ from PyTorch's defaults: name=(value, default)."""
    return {name: value for name, (value, default) in given.items() if value != default}


def _sides(pads: Sequence[tuple[int, int]]) -> tuple[int, int, int, int]:
    """Convert ((top, bottom), (left, right)) to the order of F.pad."""
    (top, bottom), (left, right) = pads
    return left, right, top, bottom


def _weights(op: Op, kernel: np.ndarray) -> dict[str, np.ndarray]:
    return {"weight": kernel} | ({"bias": op.arrays["bias"]} if "bias" in op.arrays else {})


def _channels_last(shape: Shape, function: str, x: str) -> str:
    """Format a call of a function on the last axis."""
    return f"{function}({x})" if len(shape) == 1 else f"{function}({x}.movedim(1, -1)).movedim(-1, 1)"


# ------------------------------------------------------------------------------------------------------------------- sliding


def _conv(code: Code, op: Op, x: str, shape: Shape) -> None:
    s = op.settings
    low, high = zip(*s["pads"], strict=True)
    mode = s["mode"] if any(low + high) else "zeros"
    inside = low == high and mode != "symmetric"  # padding by the module
    value = x
    if mode == "symmetric":
        code.helper(_SYMMETRIC)
        value = f"pad_symmetric({x}, {_arguments(*_sides(s['pads']))})"
    elif not inside:
        value = f"F.pad({x}, {_sides(s['pads'])}" + ("" if mode == "zeros" else f", mode={mode!r}") + ")"
    options = _options(
        stride=(s["strides"], (1, 1)), padding=(low if inside else (0, 0), (0, 0)), dilation=(s["dilation"], (1, 1)),
        groups=(s["groups"], 1), bias=("bias" in op.arrays, True), padding_mode=(mode if inside else "zeros", "zeros"),
    )  # fmt: skip
    made = f"nn.Conv2d({_arguments(shape[-1], op.shape[-1], s['size'], **options)})"
    name = code.module(op, made, _weights(op, op.arrays["kernel"].transpose(3, 2, 0, 1)))
    code.line(x, _activated(op, f"{name}({value})"), op)


def _conv_transpose(code: Code, op: Op, x: str, shape: Shape) -> None:
    s = op.settings
    low = tuple(before for before, _ in s["pads"])
    axes = range(2)
    whole = [(shape[i] - 1) * s["strides"][i] + (s["size"][i] - 1) * s["dilation"][i] + 1 for i in axes]
    extra = tuple(op.shape[i] - whole[i] + 2 * low[i] for i in axes)  # at the end, if both ends are cropped equally
    inside = all(0 <= extra[i] < max(s["strides"][i], s["dilation"][i]) for i in axes)
    if not inside:
        extra = tuple(max(op.shape[i] + low[i] - whole[i], 0) for i in axes)
    options = _options(
        stride=(s["strides"], (1, 1)), padding=(low if inside else (0, 0), (0, 0)), output_padding=(extra, (0, 0)),
        groups=(s["groups"], 1), bias=("bias" in op.arrays, True), dilation=(s["dilation"], (1, 1)),
    )  # fmt: skip
    made = f"nn.ConvTranspose2d({_arguments(shape[-1], op.shape[-1], s['size'], **options)})"
    name = code.module(op, made, _weights(op, op.arrays["kernel"].transpose(3, 2, 0, 1)))
    rows, columns = (f"{low[i]}:{low[i] + op.shape[i]}" for i in axes)
    code.line(x, _activated(op, f"{name}({x})" + ("" if inside else f"[:, :, {rows}, {columns}]")), op)


def _pool_pads(op: Op) -> tuple[int, ...] | None:
    """Return the padding if PyTorch's pooling supports it: symmetric, at most half a window; else None."""
    low, high = zip(*op.settings["pads"], strict=True)
    return low if low == high and all(p <= k // 2 for p, k in zip(low, op.settings["size"], strict=True)) else None


def _max_pool(code: Code, op: Op, x: str, shape: Shape) -> None:
    s, padding, value = op.settings, _pool_pads(op), x
    if padding is None:
        padding, value = (0, 0), f"F.pad({x}, {_sides(s['pads'])}, value=float('-inf'))"
    options = _options(padding=(padding, (0, 0)), dilation=(s["dilation"], (1, 1)))
    code.line(x, f"F.max_pool2d({value}, {_arguments(s['size'], s['strides'], **options)})", op)


def _avg_pool(code: Code, op: Op, x: str, shape: Shape) -> None:
    s, padding = op.settings, _pool_pads(op)
    if padding is None:
        code.helper(_AVERAGE)
        arguments = _arguments(s["size"], s["strides"]) + f", {_sides(s['pads'])}, {s['count_include_pad']}"
        code.line(x, f"avg_pool({x}, {arguments})", op)
        return
    options = _options(padding=(padding, (0, 0)))
    options |= {"count_include_pad": s["count_include_pad"]} if any(padding) else {}
    code.line(x, f"F.avg_pool2d({x}, {_arguments(s['size'], s['strides'], **options)})", op)


def _subsample(code: Code, op: Op, x: str, shape: Shape) -> None:
    code.helper(_SUBSAMPLE)
    name = code.module(op, f"Subsample({_arguments(shape[-1], op.settings['size'])})", dict(op.arrays))
    code.line(x, _activated(op, f"{name}({x})"), op)


# ------------------------------------------------------------------------------------------------- channels and positions


def _batch_norm(code: Code, op: Op, x: str, shape: Shape) -> None:
    arrays, channels = op.arrays, shape[-1]
    affine = "scale" in arrays or "bias" in arrays
    options = _options(
        eps=(op.settings["epsilon"], 1e-5), momentum=(round(1 - op.settings["momentum"], 12), 0.1), affine=(affine, True)
    )
    state = {"running_mean": arrays["mean"], "running_var": arrays["var"], "num_batches_tracked": np.array(0)}
    if affine:
        ones = np.ones(channels, np.float32)
        state |= {"weight": arrays.get("scale", ones), "bias": arrays.get("bias", 0 * ones)}
    kind = "BatchNorm1d" if len(shape) == 1 else "BatchNorm2d"
    name = code.module(op, f"nn.{kind}({_arguments(channels, **options)})", state)
    code.line(x, f"{name}({x})", op)


def _norm(code: Code, op: Op, x: str, shape: Shape) -> None:
    groups, channels = op.settings["groups"], shape[-1]
    options = _options(eps=(op.settings["epsilon"], 1e-5))
    state = {"weight": op.arrays["scale"], "bias": op.arrays["bias"]}
    if groups:
        name = code.module(op, f"nn.GroupNorm({_arguments(groups, channels, **options)})", state)
        code.line(x, f"{name}({x})", op)
        return
    name = code.module(op, f"nn.LayerNorm({_arguments(channels, **options)})", state)
    code.line(x, _channels_last(shape, name, x), op)


def _dense(code: Code, op: Op, x: str, shape: Shape) -> None:
    options = _options(bias=("bias" in op.arrays, True))
    made = f"nn.Linear({_arguments(shape[-1], op.shape[-1], **options)})"
    name = code.module(op, made, _weights(op, op.arrays["kernel"].T))
    code.line(x, _activated(op, _channels_last(shape, name, x)), op)


def _flatten(code: Code, op: Op, x: str, shape: Shape) -> None:
    if len(shape) > 1:  # in the order of the trained network: channels last
        code.line(x, f"{x}.permute(0, 2, 3, 1).flatten(1)", op)


def _dropout(code: Code, op: Op, x: str, shape: Shape) -> None:
    name = code.module(op, f"nn.Dropout({_arguments(op.settings['rate'])})", {})
    code.line(x, f"{name}({x})", op)


def _rbf(code: Code, op: Op, x: str, shape: Shape) -> None:
    code.helper(_RBF)
    codes = op.arrays["codes"]
    name = code.module(op, f"RBF({_arguments(*codes.shape)})", {"codes": codes})
    code.line(x, f"{name}({x})", op)


# ------------------------------------------------------------------------------------------------------------------- blocks


def _paths(code: Code, op: Op, x: str, shape: Shape) -> list[str]:
    """Add the paths of a block; return the variables of their outputs, starting with `x`."""
    variables = [x] + [code.variable("shortcut" if op.kind == "residual" else "branch") for _ in op.paths[1:]]
    code.forward += [f"{variable} = {x}" for variable in variables[1:]]
    for path, variable in zip(op.paths, variables, strict=True):
        emit(code, path, variable, shape)
    return variables


def _residual(code: Code, op: Op, x: str, shape: Shape) -> None:
    body, shortcut = _paths(code, op, x, shape)
    code.line(x, _activated(op, f"{body} + {shortcut}"), op)


def _branch(code: Code, op: Op, x: str, shape: Shape) -> None:
    found = _paths(code, op, x, shape)
    if len(found) > 1:
        together = f"torch.cat([{', '.join(found)}], dim=1)" if op.settings["merge"] == "concat" else " + ".join(found)
        code.line(x, together, op)


def _pad_channels(code: Code, op: Op, x: str, shape: Shape) -> None:
    (down, across), more = op.settings["strides"], op.shape[-1] - shape[-1]
    value = x if down == across == 1 else f"{x}[:, :, ::{down}, ::{across}]"
    code.line(x, f"F.pad({value}, (0, 0, 0, 0, 0, {more}))" if more else value, op)


_MAKERS: dict[str, Callable[[Code, Op, str, Shape], None]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "global_max": lambda code, op, x, shape: code.line(x, f"{x}.amax(dim=(2, 3))", op),
    "global_avg": lambda code, op, x, shape: code.line(x, f"{x}.mean(dim=(2, 3))", op),
    "batch_norm": _batch_norm,
    "norm": _norm,
    "activation": lambda code, op, x, shape: code.line(x, _activated(op, x), op),
    "dropout": _dropout,
    "flatten": _flatten,
    "dense": _dense,
    "residual": _residual,
    "branch": _branch,
    "pad_channels": _pad_channels,
    "subsample": _subsample,
    "rbf": _rbf,
}
