"""Initializers by name: distributions drawn by NumPy, and the same distributions as JAX functions for the linen modules.

A CNN's initial values are drawn by NumPy: compiling random number generation takes longer than compiling the network.
Only `for_jax` imports JAX.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

Draw = Callable[..., np.ndarray]  # (generator, shape, dtype) -> array
JaxDraw = Callable[..., "jax.Array"]  # (key, shape, dtype) -> array
_Drawn = TypeVar("_Drawn", np.ndarray, "jax.Array")

# Standard deviation of the standard normal distribution truncated at 2.
_TRUNCATED = 0.87962566103423978


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same value everywhere."""

    value: float

    def __call__(self, rng: np.random.Generator, shape: Sequence[int], dtype: type[np.floating]) -> np.ndarray:
        return np.full(shape, self.value, dtype)


@dataclasses.dataclass(frozen=True)
class Normal:
    """Normal distribution around 0."""

    deviation: float

    def __call__(self, rng: np.random.Generator, shape: Sequence[int], dtype: type[np.floating]) -> np.ndarray:
        return (rng.standard_normal(shape, dtype) * self.deviation).astype(dtype)


@dataclasses.dataclass(frozen=True)
class VarianceScaling:
    """Variance scale / fan for a kernel (*K, in, out), as in `jax.nn.initializers.variance_scaling`.

    Uniform between plus and minus sqrt(3 variance), or normal, truncated at two standard deviations and rescaled to keep the
    variance. Sources: Glorot and Bengio 2010 (fan_avg), He et al. 2015 (scale 2), LeCun et al. 1998 (fan_in).
    """

    scale: float
    fan: Literal["fan_in", "fan_avg"]
    distribution: Literal["uniform", "truncated_normal"]

    def __call__(self, rng: np.random.Generator, shape: Sequence[int], dtype: type[np.floating]) -> np.ndarray:
        *receptive, inputs, outputs = shape
        fan = inputs if self.fan == "fan_in" else (inputs + outputs) / 2
        deviation = math.sqrt(self.scale / (fan * math.prod(receptive)))
        if self.distribution == "uniform":
            return ((2 * rng.random(shape, dtype) - 1) * (math.sqrt(3) * deviation)).astype(dtype)
        z = rng.standard_normal(shape, dtype)
        while (out := np.abs(z) > 2).any():
            z[out] = rng.standard_normal(out.sum(), dtype)
        return (z * (deviation / _TRUNCATED)).astype(dtype)


Initializer = Constant | Normal | VarianceScaling
INITIALIZERS: dict[str, Initializer] = {
    "zeros": Constant(0.0),
    "ones": Constant(1.0),
    "glorot_uniform": VarianceScaling(1, "fan_avg", "uniform"),
    "glorot_normal": VarianceScaling(1, "fan_avg", "truncated_normal"),
    "he_uniform": VarianceScaling(2, "fan_in", "uniform"),
    "he_normal": VarianceScaling(2, "fan_in", "truncated_normal"),
    "lecun_uniform": VarianceScaling(1, "fan_in", "uniform"),
    "lecun_normal": VarianceScaling(1, "fan_in", "truncated_normal"),
    # PyTorch's default: kaiming_uniform_ with a = sqrt(5)
    "pytorch_uniform": VarianceScaling(1 / 3, "fan_in", "uniform"),
    "normal": Normal(0.01),
}
# Initializers without fans, usable for biases.
WITHOUT_FANS = tuple(name for name, rule in INITIALIZERS.items() if not isinstance(rule, VarianceScaling))


@functools.cache
def for_jax(name: str) -> JaxDraw:
    """Return the initializer `name` of INITIALIZERS as a JAX function: (key, shape, dtype) -> array."""
    import jax

    match INITIALIZERS[name]:
        case Constant(value):
            return jax.nn.initializers.constant(value)
        case Normal(deviation):
            return jax.nn.initializers.normal(deviation)
        case VarianceScaling(scale, fan, distribution):
            return jax.nn.initializers.variance_scaling(scale, fan, distribution)


def connection_indices(connections: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return channel and filter of every connection, in the order of the packed kernel of a sparsely connected `Conv`."""
    pairs = [(channel, filter_) for filter_, channels in enumerate(connections) for channel in channels]
    channels_I, filters_I = np.array(pairs, int).reshape(-1, 2).T
    return channels_I, filters_I


def packed(init: Callable[..., _Drawn], connections: Sequence[Sequence[int]]) -> Callable[..., _Drawn]:
    """Draw a packed kernel (*K, I) as the connected entries of a dense one, over the channels used by any filter."""
    channels_I, filters_I = connection_indices(connections)

    def draw(key: object, shape: Sequence[int], dtype: np.typing.DTypeLike = np.float32) -> _Drawn:
        return init(key, (*shape[:-1], channels_I.max() + 1, len(connections)), dtype)[..., channels_I, filters_I]

    return draw
