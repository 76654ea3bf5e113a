"""Consistency of predictions under shifts. N images, *S spatial axes, C channels."""

import itertools

import numpy as np

from cnn_jax.analysis.measures.sample import test_sample
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset

MOST = 4  # positions, and at most a quarter of an axis


def shift(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Measure the share of test images with the same prediction before and after a shift by 1, 2, ... positions.

    Source: Zhang 2019, "Making convolutional networks shift-invariant again" (consistency); circular shifts, which lose no
    pixels, as in Chaman and Dokmanic 2021, "Truly shift-invariant convolutional neural networks". The prediction need not be
    correct. `analysis.shifts` measures every shift, also with blank pixels instead of wrapped ones.

    Returns:
      'shift' for 'shift 1', 'shift 2', ...: the mean over both directions of every spatial axis.
    """
    images, _ = test_sample(network, dataset)
    answers = network.logits(images).argmax(axis=-1)
    axes = range(1, images.ndim - 1)
    out = {}
    for distance in range(1, min(MOST, min(images.shape[1:-1]) // 4) + 1):
        moved = [network.logits(rolled(images, axis, step * distance)) for axis, step in itertools.product(axes, (-1, 1))]
        out[f"shift {distance}"] = float(np.mean([logits.argmax(axis=-1) == answers for logits in moved]))
    return {"shift": out}


def rolled(images: np.ndarray, axis: int, by: int) -> np.ndarray:
    """Shift images circularly along an axis of the array."""
    return np.roll(images, by, axis=axis)
