"""Top-activating images of each channel. N images, *S spatial axes, C channels, T top images."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.analysis.network import Apply, TrainedNetwork, Variables

MOST = 9


@dataclasses.dataclass(frozen=True)
class Responses:
    """Outputs of one layer for a set of images: per image and channel, the maximum over positions and its position.

    `values` is (N, C); `positions` (N, C, rank) is the first position of the maximum in row-major order; rank is 0 for layers
    without spatial axes.
    """

    values: np.ndarray
    positions: np.ndarray

    def most(self, count: int = MOST) -> "Top":
        """Return the `count` images with the largest value of each channel; ties go to the lower index."""
        order_TC = np.argsort(-self.values, axis=0, kind="stable")[:count]
        values_TC = np.take_along_axis(self.values, order_TC, axis=0)
        positions_TCR = np.take_along_axis(self.positions, order_TC[..., None], axis=0)
        return Top(order_TC.T, values_TC.T, positions_TCR.swapaxes(0, 1))

    @property
    def silent(self) -> np.ndarray:
        """Whether a channel (C,) has no positive value for any image (with relu: a dead channel)."""
        return np.asarray(self.values.max(axis=0, initial=-np.inf) <= 0)


@dataclasses.dataclass(frozen=True)
class Top:
    """Top-activating images of each channel: images (C, T), values (C, T), positions (C, T, rank)."""

    images: np.ndarray
    values: np.ndarray
    positions: np.ndarray


def responses(network: TrainedNetwork, images_NSC: np.ndarray, layers: Sequence[str]) -> dict[str, Responses]:
    """Compute the responses of layers to all images in one pass, in batches; feature maps are kept for one batch only.

    Args:
      network: the network.
      images_NSC: uint8, or floats as the network was trained on.
      layers: names.

    Raises:
      UsageError: a layer does not exist.
    """
    return logits_and_responses(network, images_NSC, layers)[1]


def logits_and_responses(
    network: TrainedNetwork, images_NSC: np.ndarray, layers: Sequence[str]
) -> tuple[np.ndarray, dict[str, Responses]]:
    """Compute logits (N, K) and responses in one pass; arguments and errors as in `responses`."""
    names = tuple(network.layer(name) for name in layers)
    variables = jax.device_put(network.variables)
    logits: list[np.ndarray] = []
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in names}
    for piece, count in network.batches(images_NSC):
        logits_BK, extremes = _maxima(network.apply, names, variables, network.inputs(piece))
        logits.append(np.asarray(logits_BK)[:count])
        for name, (value, index) in extremes.items():
            found[name].append((np.asarray(value)[:count], np.asarray(index)[:count]))
    out = {}
    for name, parts in found.items():
        values_NC, index_NC = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        spatial = network.feature_shapes[name][:-1]
        positions = np.stack(np.unravel_index(index_NC, spatial), -1) if spatial else np.zeros((*index_NC.shape, 0), int)
        out[name] = Responses(values_NC, positions)
    return np.concatenate(logits), out


@functools.partial(jax.jit, static_argnums=(0, 1))
def _maxima(
    apply: Apply, names: tuple[str, ...], variables: Variables, x_NSC: jax.Array
) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
    logits_NK, features = apply(variables, x_NSC)
    out = {}
    for name in names:
        y_NPC = features[name].reshape(len(x_NSC), -1, features[name].shape[-1])
        out[name] = jnp.max(y_NPC, axis=1), jnp.argmax(y_NPC, axis=1)
    return logits_NK, out
