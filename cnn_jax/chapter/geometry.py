"""Exact claims of the chapter: output sizes, padding, strides, and a convolution as a dense layer.

N images, *S spatial axes, C channels, *K kernel axes, F filters; n input size, k kernel size, s stride, p padding per side.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from cnn_jax.analysis.equal_dense import EqualDense, equal_dense
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.nn import Conv, Dense, Flatten, MaxPool
from cnn_jax.nn.functional import conv

# Tested settings: the chapter's 28, small and odd sizes.
SIZES, KERNELS, STRIDES, PADS = (5, 8, 13, 28), range(1, 6), range(1, 4), range(3)
_AXES = 3  # per trace
_ENTRIES = 2**24  # of the matrix of one filter: 128 MB
_MANY = 10  # minimum ratio for "far more" parameters of a dense layer
_ROUNDING = 1e-5  # tolerance of float32 sums, relative to the largest output
DRAWN = 9  # pixels along each axis of the crop whose matrix is drawn


@dataclasses.dataclass(frozen=True)
class Setting:
    """A convolution along one axis. `padding` is a name, or positions per side."""

    n: int
    k: int
    s: int
    padding: str | int = "valid"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Number of tested settings, and of those whose output size agrees with a formula."""

    agree: int
    tried: int

    @classmethod
    def of(cls, expected: Mapping[Setting, int]) -> "Sizes":
        """Compare with the output sizes of `conv`."""
        found = outputs(list(expected))
        return cls(sum(size == expected[setting] for setting, size in found.items()), len(found))


def outputs(settings: Sequence[Setting]) -> dict[Setting, int]:
    """Trace `conv` to get the output size of every setting; a trace has a setting per axis and one padding name."""
    found: dict[Setting, int] = {}
    groups: dict[str, list[Setting]] = {}
    for one in settings:
        groups.setdefault(one.padding if isinstance(one.padding, str) else "", []).append(one)
    for name, group in groups.items():
        for begin in range(0, len(group), _AXES):
            part = group[begin : begin + _AXES]
            x = jax.ShapeDtypeStruct((1, *(one.n for one in part), 1), np.float32)
            kernel = jax.ShapeDtypeStruct((*(one.k for one in part), 1, 1), np.float32)
            pads = name or tuple((int(one.padding), int(one.padding)) for one in part)
            traced = functools.partial(conv, strides=tuple(one.s for one in part), padding=pads)
            found |= dict(zip(part, jax.eval_shape(traced, x, kernel).shape[1:-1], strict=True))
    return found


def formula() -> Sizes:
    """Test the formula floor((n + 2 p - k) / s) + 1."""
    every = itertools.starmap(Setting, itertools.product(SIZES, KERNELS, STRIDES, PADS))
    return Sizes.of({one: (one.n + 2 * int(one.padding) - one.k) // one.s + 1 for one in every})


def paddings() -> tuple[Sizes, Sizes]:
    """Test that 'valid' gives n - k + 1 outputs and 'same' gives n, for stride 1 and kernels of 2 or more."""
    every = list(itertools.product(SIZES, KERNELS[1:]))
    return (
        Sizes.of({Setting(n, k, 1, "valid"): n - k + 1 for n, k in every}),
        Sizes.of({Setting(n, k, 1, "same"): n for n, k in every}),
    )


def strides() -> tuple[Sizes, Sizes]:
    """Test that a stride s of 2 or more gives ceil(n / s) outputs, with 'same' and with 'valid' padding."""
    every = list(itertools.product(SIZES, KERNELS, STRIDES[1:]))
    same, valid = (Sizes.of({Setting(n, k, s, name): -(-n // s) for n, k, s in every}) for name in ("same", "valid"))
    return same, valid


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer of the network: computed and predicted output shape, stored and predicted number of parameters."""

    layer: str
    shape: tuple[int, ...]
    expected_shape: tuple[int, ...]
    params: int
    expected_params: int

    @property
    def agrees(self) -> bool:
        """Whether both agree with the formulas."""
        return self.shape == self.expected_shape and self.params == self.expected_params


def layers(network: TrainedNetwork, image_SC: np.ndarray) -> list[Row]:
    """Compare the layers of the chapter's network with the chapter's arithmetic: convolution, pooling, flatten, dense."""
    features = network.features(image_SC[None])
    found, shape = [], network.input_shape
    for layer in network.spec or ():
        params = sum(int(np.size(a)) for a in jax.tree.leaves(network.variables["params"].get(layer.name, {})))
        own = features[layer.name].shape[1:] if layer.name in features else ()
        shape, expected = _expected(layer, shape)
        found.append(Row(layer.name, own, shape, params, expected))
    return found


def _expected(layer: object, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    match layer:
        case Conv():
            k, s = _one(layer.kernel_size), _one(layer.strides)
            added = {"valid": 0, "full": 2 * (k - 1)}
            sizes = tuple(
                -(-n // s) if layer.padding == "same" else (n + added[str(layer.padding)] - k) // s + 1 for n in shape[:-1]
            )
            return (*sizes, layer.filters), k * k * shape[-1] * layer.filters + layer.filters
        case MaxPool():
            return (*(n // _one(layer.window) for n in shape[:-1]), shape[-1]), 0
        case Flatten():
            return (math.prod(shape),), 0
        case Dense():
            return (layer.units,), (shape[0] + 1) * layer.units
    return shape, 0


def _one(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]


@dataclasses.dataclass(frozen=True)
class AsDense:
    """The first convolution of a network as a dense layer.

    Attributes:
      layer: name of the convolution.
      input_shape, output_shape: shapes of the convolution; its input is the image, or the centre if the matrix would be too
        large.
      error: largest difference of the outputs, relative to the largest output.
      conv_params, dense_params, connections: see `EqualDense`.
      kernel_KKC: kernel of the first filter.
      drawn: matrix of this filter for a crop of `DRAWN` pixels along each axis.
    """

    layer: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    error: float
    conv_params: int
    dense_params: int
    connections: int
    kernel_KKC: np.ndarray
    drawn: EqualDense

    @property
    def equal(self) -> bool:
        """Whether the outputs are equal up to rounding."""
        return self.error <= _ROUNDING

    @property
    def far_fewer(self) -> bool:
        """Whether the dense layer has at least ten times the parameters."""
        return self.dense_params >= _MANY * self.conv_params


def as_dense(network: TrainedNetwork, image_SC: np.ndarray) -> AsDense:
    """Build the dense layer equivalent to a network's first convolution, one filter at a time, and compare outputs."""
    layer = next(layer for layer in network.spec or () if isinstance(layer, Conv))
    params = network.variables["params"][layer.name]
    kernel, bias = np.asarray(params["kernel"]), np.asarray(params.get("bias", np.zeros(layer.filters)))
    x_NSC = _centre(np.asarray(network.inputs(image_SC[None])), math.isqrt(math.isqrt(_ENTRIES // image_SC.shape[-1])))
    settings = {"strides": layer.strides, "padding": layer.padding, "padding_mode": layer.padding_mode}
    expected = np.asarray(conv(x_NSC, kernel, bias, **settings))  # type: ignore[arg-type]
    error, conv_params, dense_params, connections = 0.0, 0, 0, 0
    for f in range(layer.filters):
        dense = equal_dense(kernel[..., f : f + 1], x_NSC.shape[1:], bias[f : f + 1], **settings)  # type: ignore[arg-type]
        error = max(error, float(np.abs(dense(x_NSC)[..., 0] - expected[..., f]).max()))
        conv_params, dense_params = conv_params + dense.conv_params, dense_params + dense.dense_params
        connections += dense.connections
    crop = _centre(x_NSC, DRAWN).shape[1:]
    return AsDense(
        layer.name, x_NSC.shape[1:], expected.shape[1:], error / float(np.abs(expected).max() or 1.0),
        conv_params, dense_params, connections, kernel[..., 0], equal_dense(kernel[..., :1], crop, **settings),  # type: ignore[arg-type]
    )  # fmt: skip


def _centre(x_NSC: np.ndarray, most: int) -> np.ndarray:
    cuts = [slice((n - min(n, most)) // 2, (n - min(n, most)) // 2 + min(n, most)) for n in x_NSC.shape[1:-1]]
    return x_NSC[(slice(None), *cuts)]
