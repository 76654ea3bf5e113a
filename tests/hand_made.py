"""Networks and data sets whose measures are known."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset, DatasetInfo
from cnn_jax.nn import Layer


def network(spec: tuple[Layer, ...], shape: tuple[int, ...], classes: int = 3, seed: int = 0, **params: Any) -> TrainedNetwork:
    """A network with parameters by layer in place of its initial ones: conv1={"kernel": ...}, a number fills all."""
    made = TrainedNetwork.from_model(spec, shape, classes, seed=seed)
    tree = {layer: dict(values) for layer, values in made.variables["params"].items()}
    for layer, values in params.items():
        for name, value in values.items():
            tree[layer][name] = np.broadcast_to(np.asarray(value, np.float32), tree[layer][name].shape)
    return made.with_variables({**made.variables, "params": tree})


def dataset(images: np.ndarray, labels: np.ndarray, parts: Mapping[str, int] | None = None) -> Dataset:
    """A data set whose training, validation and test parts are consecutive thirds of the images."""
    third = len(images) // 3
    cuts = [slice(0, third), slice(third, 2 * third), slice(2 * third, len(images))]
    classes = int(labels.max()) + 1
    info = DatasetInfo(
        "hand-made", images.shape[1:], classes, tuple(map(str, range(classes))), third, third, len(images) - 2 * third
    )
    (a, b, c), labels = cuts, labels.astype(np.int32)
    indices = np.arange(len(images))
    return Dataset(info, images[a], labels[a], images[b], labels[b], images[c], labels[c], indices[a], indices[b], "checksum")


def noise(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Images of independent uniform pixels, uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
