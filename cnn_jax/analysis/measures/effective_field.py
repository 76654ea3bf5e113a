"""Effective receptive field: distribution of a unit's gradient over the image. N images, *S spatial axes, C channels."""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.analysis.measures.sample import representations, signals, test_sample, untrained
from cnn_jax.analysis.network import Apply, TrainedNetwork, Variables
from cnn_jax.data import Dataset
from cnn_jax.nn import Field, Signal, flat

IMAGES = 64  # at most; fewer for deep networks, whose gradients are computed layer by layer
_MACS = 2e10  # limit on the forward passes over all layers and images


def effective_field(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Measure the width of the effective receptive field of each layer, before and after training.

    Source: Luo et al. 2016, "Understanding the effective receptive field in deep convolutional neural networks": the gradient
    of a centre unit with respect to the image. The weight of a pixel is the mean over test images of
    |d sum_c s_c y_c / d x|, summed over the channels of the image, with y_c the centre unit of channel c and s_c a random
    sign; `width` has the formulas. For n convolutions with k x k kernels of ones, the weights are the n-fold convolution of a
    box: std sqrt(n (k^2 - 1) / 12) per axis, and its share of the theoretical field falls as 1 / sqrt(n).

    Returns:
      Per layer with a receptive field: 'field_std', the standard deviation in pixels, and 'field_share', the share of the
      theoretical field; 'field_std_untrained' and 'field_share_untrained' before training. Empty for a linen module that is not
      a `CNN`, because its theoretical field is unknown.
    """
    known = signals(network)
    fields = {name: known[name] for name in representations(network) if name in known and _has_field(known[name])}
    if not fields:
        return {}
    affordable = int(_MACS // (max(network.macs, 1) * len(fields)))
    images = test_sample(network, dataset)[0][: max(4, min(IMAGES, network.batch_size, affordable))]
    circular = any(getattr(layer, "padding_mode", "") == "circular" for layer in flat(network.spec or ()))
    out: dict[str, dict[str, float]] = {}
    for suffix, one in (("", network), ("_untrained", untrained(network))):
        found = {
            name: width(weights, fields[name], circular) for name, weights in gradient_weights(one, images, fields).items()
        }
        out[f"field_std{suffix}"] = {name: std for name, (std, _) in found.items()}
        out[f"field_share{suffix}"] = {name: share for name, (_, share) in found.items()}
    return out


def _has_field(signal: Signal) -> bool:
    return signal.fields is not None and max(signal.spatial, default=1) > 1


def gradient_weights(
    network: TrainedNetwork, images: np.ndarray, fields: Mapping[str, Signal], seed: int = 0
) -> dict[str, np.ndarray]:
    """Compute the weight (*S,) of each pixel for the centre unit of each layer; images as in `TrainedNetwork.inputs`."""
    rng = np.random.default_rng(seed)
    x_NSC = jnp.asarray(network.inputs(images))
    signs = {name: rng.choice(np.array([-1, 1], np.float32), (len(images), signal.channels)) for name, signal in fields.items()}
    centres = tuple((name, tuple(n // 2 for n in signal.spatial)) for name, signal in fields.items())
    variables = jax.device_put(network.variables)
    out = {}
    for name in fields:
        chosen = {other: jnp.float32(other == name) for other in fields}
        out[name] = np.asarray(_weights(network.apply, centres, variables, x_NSC, signs, chosen), np.float64)
    return out


@functools.partial(jax.jit, static_argnums=(0, 1))
def _weights(
    apply: Apply,
    centres: tuple[tuple[str, tuple[int, ...]], ...],
    variables: Variables,
    x_NSC: jax.Array,
    signs: Mapping[str, jax.Array],
    chosen: Mapping[str, jax.Array],
) -> jax.Array:
    """Compute the weights of one layer, selected by a 1 in `chosen`, so that all layers share a compiled program."""

    def units(x: jax.Array) -> jax.Array:
        features = apply(variables, x)[1]
        return sum(
            (chosen[name] * (signs[name] * features[name][(slice(None), *at)]).sum() for name, at in centres), jnp.float32(0)
        )

    return jnp.abs(jax.grad(units)(x_NSC)).sum(-1).mean(0)


def width(weights_S: np.ndarray, signal: Signal, circular: bool = False) -> tuple[float, float]:
    """Compute the standard deviation of the weights in pixels, and their share of the theoretical field; nan for zero weights.

    Per axis, with normalized weights p(i) summed over the other axes: var = sum p(i) (i - mean)^2. The standard deviation is
    sqrt(mean over axes of var). The share is the mean over axes of sqrt(12 var + 1) / r: the width of a uniform box with that
    variance, divided by the number r of image positions in the field of the centre unit, clipped at the borders. It exceeds 1
    if the weights are concentrated at the edge of the field.

    Args:
      weights_S: weight of each pixel.
      signal: output geometry of the layer.
      circular: whether any layer pads circularly, so that the field wraps around the image.
    """
    if not weights_S.sum() > 0:
        return float("nan"), float("nan")
    variances: list[float] = []
    shares: list[float] = []
    for axis, (field, outputs) in enumerate(zip(signal.fields or (), signal.spatial, strict=True)):
        others = tuple(other for other in range(weights_S.ndim) if other != axis)
        p_i = weights_S.sum(axis=others) / weights_S.sum()
        n = len(p_i)
        low, high = _seen(field, outputs // 2)
        if circular:
            p_i = np.roll(p_i, n // 2 - (low + high) // 2)
            low, high = 0, min(high - low + 1, n) - 1
        i = np.arange(n)
        variance = float(p_i @ i**2) - float(p_i @ i) ** 2
        variances.append(variance)
        shares.append(math.sqrt(12 * max(variance, 0.0) + 1) / (min(high, n - 1) - max(low, 0) + 1))
    return math.sqrt(max(sum(variances) / len(variances), 0.0)), sum(shares) / len(shares)


def _seen(field: Field, position: int) -> tuple[int, int]:
    """Return the first and last input position of an output's field, borders ignored."""
    first = field.start + position * field.jump
    return first, first + field.size - 1
