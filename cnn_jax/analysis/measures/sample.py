"""Shared inputs of measures: test images and their features, the untrained network, kernels, receptive fields.

N images, *S spatial axes, C channels, *K kernel axes, F filters.
"""

import dataclasses
import functools
import itertools
import weakref
from collections.abc import Callable, Hashable
from typing import TypeVar

import flax.traverse_util
import numpy as np

from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset
from cnn_jax.nn import Conv, Dense, DepthwiseConv, Dropout, Flatten, Layer, SeparableConv, Signal, flat, layer_table

SAMPLE = 1000  # test images at most
_BYTES = 2**28  # limit on the features of a sample


Found = TypeVar("Found")


def once_per_network(function: Callable[..., Found]) -> Callable[..., Found]:
    """Cache the results of a function of a network and hashable arguments for the lifetime of the network."""

    found: weakref.WeakKeyDictionary[TrainedNetwork, dict[tuple[Hashable, ...], Found]] = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def cached(network: TrainedNetwork, *rest: Hashable) -> Found:
        kept = found.setdefault(network, {})
        if rest not in kept:
            kept[rest] = function(network, *rest)
        return kept[rest]

    return cached


@once_per_network
def untrained(network: TrainedNetwork) -> TrainedNetwork:
    """Return the network before training, with the trial's initial values; seed 0 for a network without a trial."""
    return network.randomized(network.trial.seed if network.trial else 0)


def test_sample(network: TrainedNetwork, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the first test images (N, *S, C) and labels (N,): `SAMPLE`, or fewer if features are large."""
    values = sum(int(np.prod(shape)) for shape in network.feature_shapes.values())
    count = int(np.clip(_BYTES // (4 * max(values, 1)), 16, SAMPLE))
    return dataset.test_images[:count], dataset.test_labels[:count]


@once_per_network
def sample_features(network: TrainedNetwork, dataset: Dataset) -> dict[str, np.ndarray]:
    """Compute the outputs of `representations` for the images of `test_sample`."""
    return network.features(test_sample(network, dataset)[0], representations(network))


def representations(network: TrainedNetwork) -> tuple[str, ...]:
    """Return the layers that compute new values: all but flatten and dropout."""
    if network.spec is None:
        return network.layers
    passing = {layer.name for layer in flat(network.spec) if isinstance(layer, Flatten | Dropout)}
    return tuple(name for name in network.layers if name not in passing)


def hidden_units(network: TrainedNetwork) -> tuple[str, ...]:
    """Return the layers with units: convolutions, dense layers and activations, without the logits.

    If a layer's activation is a separate layer, the latter is returned. For a linen module that is not a `CNN`: all layers.
    """
    if network.spec is None:
        return network.layers
    layers = flat(network.spec)
    kept = [a.name for a, b in itertools.pairwise(layers) if _computes(a) and b.kind != "activation"]
    return tuple(name for name in kept if name in network.layers)


def _computes(layer: Layer) -> bool:
    return isinstance(layer, Conv | DepthwiseConv | SeparableConv | Dense) or layer.kind == "activation"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Kernel (*K, C, F) of a convolution, at `path` in the parameters."""

    layer: str
    path: tuple[str, ...]
    value: np.ndarray


def kernels(network: TrainedNetwork) -> list[Kernel]:
    """Return the kernels of convolutions in order of computation, except transposed and sparse ones; the last axis is filters.

    For a linen module that is not a `CNN`: parameters named kernel with three axes or more, in alphabetical order.
    """
    params = flax.traverse_util.flatten_dict(network.variables["params"])
    if network.spec is None:
        found = [(("/".join(map(str, path[:-1]))), path) for path in sorted(params) if path[-1] == "kernel"]
    else:
        found = [(layer.name, (layer.name, name)) for layer in flat(network.spec) if (name := _kernel_name(layer))]
    arrays = [Kernel(name, path, np.asarray(params[path])) for name, path in found]
    return [kernel for kernel in arrays if kernel.value.ndim > 2]


def _kernel_name(layer: Layer) -> str:
    if isinstance(layer, SeparableConv):
        return "pointwise_kernel"
    dense = isinstance(layer, Conv) and layer.connections is None
    return "kernel" if dense or isinstance(layer, DepthwiseConv) else ""


def signals(network: TrainedNetwork) -> dict[str, Signal]:
    """Return the output geometry and receptive field of every layer; empty for a linen module that is not a `CNN`."""
    rows = layer_table(network.spec, network.input_shape).layers if network.spec is not None else ()
    return {row.name: Signal(row.output_shape, row.fields) for row in rows}


def accuracy(network: TrainedNetwork, images: np.ndarray, labels: np.ndarray) -> float:
    """Compute the share of images (N, *S, C) whose largest logit is that of their label."""
    return float(np.mean(network.logits(images).argmax(axis=-1) == labels))
