"""Activation maximisation: gradient ascent on images for the output of a channel. M images, *S axes, C channels.

Erhan, Bengio, Courville and Vincent 2009. Designed for images from 8x8 up, grey or colour: pixels stay in their legal range,
the ascent starts at grey, the activation of the maximised layer is omitted (so that every unit has a gradient), and gradients
are smoothed with a width that decreases to 0. The Fourier basis, rotations and large shifts of Olah, Mordvintsev and Schubert
2017 are unsuitable for small images.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.analysis.edits import without_activation
from cnn_jax.analysis.network import Apply, TrainedNetwork, Variables, evaluate
from cnn_jax.analysis.patches import ReceptiveField
from cnn_jax.data import Normalization

STEPS = 64
_FIRST_STEP, _LAST_STEP = 0.1, 0.02  # of a pixel's range 0..1, for the pixel with the steepest gradient
_WIDEST = 0.06  # standard deviation of the first smoothing, relative to the size of the receptive field


@dataclasses.dataclass(frozen=True)
class Maximised:
    """Maximised inputs of some channels of one layer.

    `pixels` (M, *S, C) are 0..1; pixels without influence are 0.5. `values` (M,) are the resulting outputs, and `position` is
    the position of that output: the centre of the layer's map, empty for a layer without spatial axes.
    """

    layer: str
    channels: tuple[int, ...]
    pixels: np.ndarray
    values: np.ndarray
    position: tuple[int, ...]


def maximise(network: TrainedNetwork, layer: str, channels: Sequence[int], *, steps: int = STEPS, seed: int = 0) -> Maximised:
    """Maximise the output of each channel at the centre of a layer's map.

    Args:
      network: the network.
      layer: name of a layer.
      channels: channel indices of that layer.
      steps: number of gradient steps.
      seed: seed of the 1 % noise in the starting image.

    Raises:
      UsageError: no layer has this name.
    """
    shape = network.feature_shapes[network.layer(layer)]
    position = tuple(n // 2 for n in shape[:-1])
    flat_position = int(np.ravel_multi_index(position, shape[:-1])) if position else 0
    apply = network.apply if network.spec is None else _linear_at(network, layer)
    seen = tuple(high - low for low, high in ReceptiveField.of(network, layer).seen(position))
    variables = jax.device_put(network.variables)
    size = max(1, network.batch_size // 4)
    noise = np.random.default_rng(seed).normal(0.5, 0.01, (1, *network.input_shape)).astype(np.float32)
    pixels, values = [], []
    for begin in range(0, len(channels), size):
        some = np.asarray(channels[begin : begin + size], np.int32)
        padded = np.concatenate([some, np.repeat(some[-1:], min(size, len(channels)) - len(some))])
        start = np.repeat(noise, len(padded), axis=0)
        ask = (apply, network.apply, layer, network.normalization, steps, flat_position, seen)
        x, value = _ascend(*ask, variables, start, padded)
        pixels.append(np.asarray(x)[: len(some)])
        values.append(np.asarray(value)[: len(some)])
    return Maximised(layer, tuple(int(c) for c in channels), np.concatenate(pixels), np.concatenate(values), position)


@functools.lru_cache(maxsize=64)
def _linear_apply(model: object, layer: str) -> Apply:
    return functools.partial(evaluate, without_activation(model, layer))  # type: ignore[arg-type]


def _linear_at(network: TrainedNetwork, layer: str) -> Apply:
    return _linear_apply(network.model, layer)


def _value(
    apply: Apply, layer: str, normalization: Normalization, variables: Variables, x: jax.Array, channels: jax.Array, place: int
) -> jax.Array:
    """Return the output (M,) of a channel per image, at a position of the flattened map."""
    features_M = apply(variables, normalization(255 * x))[1][layer]
    y_MPC = features_M.reshape(len(x), -1, features_M.shape[-1])
    return jnp.take_along_axis(y_MPC[:, place], channels[:, None], axis=1)[:, 0]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5, 6))
def _ascend(
    linear: Apply,
    apply: Apply,
    layer: str,
    normalization: Normalization,
    steps: int,
    place: int,
    seen: tuple[int, ...],
    variables: Variables,
    start: jax.Array,
    channels: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Ascend the gradient of `linear` from `start` (M, *S, C); return the pixels and the outputs (M,) of `apply` for them."""
    gradient = jax.grad(lambda x: _value(linear, layer, normalization, variables, x, channels, place).sum())
    axes = tuple(range(1, start.ndim - 1))
    widths = [_WIDEST * n for n in seen]

    def step(x: jax.Array, share: jax.Array) -> tuple[jax.Array, None]:
        sharp = gradient(x)
        g = jnp.where(sharp == 0, 0, _smoothed(sharp, [(1 - share) * width for width in widths]))
        largest = jnp.abs(g).max(axis=(*axes, -1), keepdims=True)
        size = _FIRST_STEP + (_LAST_STEP - _FIRST_STEP) * share
        # Square roots, so that pixels with a small gradient change too.
        return (x + size * jnp.sign(g) * jnp.sqrt(jnp.abs(g) / jnp.maximum(largest, 1e-12))).clip(0, 1), None

    x, _ = jax.lax.scan(step, jnp.asarray(start), jnp.linspace(0.0, 1.0, steps))
    return x, _value(apply, layer, normalization, variables, x, channels, place)


def _smoothed(g: jax.Array, widths: Sequence[jax.Array]) -> jax.Array:
    """Convolve g (M, *S, C) with a Gaussian of a standard deviation per spatial axis, in pixels; 0: no smoothing."""
    for axis, width in enumerate(widths, 1):
        n = g.shape[axis]
        distance = jnp.arange(n)[:, None] - jnp.arange(n)[None]
        weights = jnp.exp(-0.5 * (distance / jnp.maximum(width, 0.03)) ** 2)
        weights = weights / weights.sum(axis=1, keepdims=True)
        g = jnp.moveaxis(jnp.tensordot(weights, g, axes=(1, axis)), 0, axis)
    return g
