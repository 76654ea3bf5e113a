"""Kernels of the first layer with weights. *K kernel axes, C channels of the image, F filters."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cnn_jax.aliases import PyTree
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.nn import Conv, Dense, Layer, flat
from cnn_jax.nn.initializers import connection_indices


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Kernels of one layer: `values` is (F, *K, C); the kernel of a dense layer has the shape of an image."""

    layer: str
    values: np.ndarray

    @property
    def scaled(self) -> np.ndarray:
        """Return kernels as images of 0..1 on a common scale: 0.5 is a weight of 0; 1 and 0 are plus and minus the largest."""
        largest = float(np.abs(self.values).max(initial=0.0))
        return 0.5 + 0.5 * self.values / (largest or 1.0)


def first_kernels(network: TrainedNetwork) -> Kernels | None:
    """Return the kernels applied to the image itself; None if the first weights are not.

    They belong to the first layer with weights: a convolution, or a dense layer on all pixels, as in an mlp. In a linen module
    without a spec, they are the first parameter 'kernel', by name, whose channel axis matches the image.
    """
    params, shape = network.variables["params"], network.input_shape
    if network.spec is None:
        kernels = [(path, array) for path, array in _leaves(params) if path.rpartition("/")[2] == "kernel"]
        fits = ((path, array) for path, array in kernels if array.ndim == len(shape) + 1 and array.shape[-2] == shape[-1])
        path, array = next(fits, ("", None))
        return None if array is None else Kernels(path.rpartition("/")[0], np.moveaxis(array, -1, 0))
    for layer in flat(network.spec):
        values = params.get(layer.name, {})
        array = next((np.asarray(values[name]) for name in ("kernel", "depthwise_kernel") if name in values), None)
        if array is not None:
            return _of_layer(layer, array, shape)
    return None


@dataclasses.dataclass(frozen=True)
class Film:
    """First-layer kernels during training: `values` is (E, F, *K, C), from the snapshots of `epochs`."""

    layer: str
    epochs: tuple[int, ...]
    values: np.ndarray

    @property
    def scaled(self) -> np.ndarray:
        """Return kernels as images, as `Kernels.scaled`, on one scale for all epochs."""
        return Kernels(self.layer, self.values).scaled


def film(networks: Sequence[TrainedNetwork]) -> Film | None:
    """Return the first-layer kernels of a network's snapshots; None without snapshots or such kernels."""
    found = [(network.epoch, first_kernels(network)) for network in networks]
    frames = [(epoch, kernels) for epoch, kernels in found if epoch is not None and kernels is not None]
    if not frames:
        return None
    epochs = tuple(epoch for epoch, _ in frames)
    return Film(frames[0][1].layer, epochs, np.stack([kernels.values for _, kernels in frames]))


def _of_layer(layer: Layer, array: np.ndarray, shape: tuple[int, ...]) -> Kernels | None:
    if isinstance(layer, Dense):
        if len(array) != np.prod(shape):
            return None
        return Kernels(layer.name, array.T.reshape(-1, *shape))
    if isinstance(layer, Conv) and layer.connections is not None:
        channels_I, filters_I = connection_indices(layer.connections)
        dense = np.zeros((*array.shape[:-1], shape[-1], layer.filters), array.dtype)
        dense[..., channels_I, filters_I] = array
        array = dense
    return Kernels(layer.name, np.moveaxis(array, -1, 0))


def _leaves(tree: Mapping[str, PyTree], path: str = "") -> list[tuple[str, np.ndarray]]:
    found: list[tuple[str, np.ndarray]] = []
    for name in sorted(tree):
        where = f"{path}/{name}" if path else name
        found += _leaves(tree[name], where) if isinstance(tree[name], Mapping) else [(where, np.asarray(tree[name]))]
    return found
