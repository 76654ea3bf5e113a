"""What the chapter says exactly: output sizes, padding, strides, and a convolution as a dense layer.

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

# Settings that are tried: the chapter's 28, small and odd sizes.
SIZES, KERNELS, STRIDES, PADS = (5, 8, 13, 28), range(1, 6), range(1, 4), range(3)
_AXES = 3  # of one trace
_ENTRIES = 2**24  # of the matrix of one filter: 128 MB
_MANY = 10  # a dense layer has "far more" parameters from here on, as a multiple
_ROUNDING = 1e-5  # of float32 sums, as a share of the largest output
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
    """How many settings give the output size that a formula says, and how many were tried."""

    agree: int
    tried: int

    @classmethod
    def of(cls, expected: Mapping[Setting, int]) -> "Sizes":
        """Compare with the outputs of `conv` itself."""
        found = outputs(list(expected))
        return cls(sum(size == expected[setting] for setting, size in found.items()), len(found))


def outputs(settings: Sequence[Setting]) -> dict[Setting, int]:
    """Output size of every setting, from traces of `conv` with a setting per axis; settings of a trace share a padding name."""
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
    """Settings with floor((n + 2 p - k) / s) + 1 outputs."""
    every = itertools.starmap(Setting, itertools.product(SIZES, KERNELS, STRIDES, PADS))
    return Sizes.of({one: (one.n + 2 * int(one.padding) - one.k) // one.s + 1 for one in every})


def paddings() -> tuple[Sizes, Sizes]:
    """Settings of stride 1 in which 'valid' gives n - k + 1 outputs, and in which 'same' gives n; kernels from 2 on."""
    every = list(itertools.product(SIZES, KERNELS[1:]))
    return (
        Sizes.of({Setting(n, k, 1, "valid"): n - k + 1 for n, k in every}),
        Sizes.of({Setting(n, k, 1, "same"): n for n, k in every}),
    )


def strides() -> tuple[Sizes, Sizes]:
    """Settings in which a stride s of 2 or more gives n / s outputs, rounded up: with 'same', and with 'valid' padding."""
    every = list(itertools.product(SIZES, KERNELS, STRIDES[1:]))
    same, valid = (Sizes.of({Setting(n, k, s, name): -(-n // s) for n, k, s in every}) for name in ("same", "valid"))
    return same, valid


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer of the network: its output as computed and by formula, its parameters as kept and by formula."""

    layer: str
    shape: tuple[int, ...]
    expected_shape: tuple[int, ...]
    params: int
    expected_params: int

    @property
    def agrees(self) -> bool:
        """Whether both are what the formulas say."""
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
      layer: its name.
      input_shape, output_shape: of the convolution; the input is the image, or its centre where the matrix would be too large.
      error: largest difference between the outputs of the two, as a share of the largest output.
      conv_params, dense_params, connections: see `EqualDense`.
      kernel_KKC: of the first filter.
      drawn: the matrix of this filter for a crop of `DRAWN` pixels along each axis.
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
        """Whether the outputs are equal to rounding."""
        return self.error <= _ROUNDING

    @property
    def far_fewer(self) -> bool:
        """Whether the dense layer has at least ten times the parameters."""
        return self.dense_params >= _MANY * self.conv_params


def as_dense(network: TrainedNetwork, image_SC: np.ndarray) -> AsDense:
    """Build the dense layer that equals a network's first convolution, a filter at a time, and compare their outputs."""
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
