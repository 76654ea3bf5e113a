"""Part of the image that a network uses. N images, *S spatial axes, C channels."""

from collections.abc import Mapping, Sequence

import numpy as np

from cnn_jax.analysis.measures.sample import accuracy, test_sample
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset

ENOUGH = 0.95  # of the accuracy above chance, the share of the most frequent class
_TRAIN = 5000  # training images averaged for the mean image


def used_field(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Measure the smallest sufficient centred window: accuracy with everything outside it masked.

    Masked pixels are replaced by those of the mean training image, which has no information about the class and no sharp edges.
    A window is sufficient if it and all larger ones reach `ENOUGH` of the accuracy with the whole image, both minus the share
    of the most frequent class. Source: windows as in Brendel and Bethge 2019, "Approximating CNNs with bag-of-local-features
    models", where the architecture limits the field; here the part used by the trained network is measured.

    Returns:
      'used_field' for 'image': width in pixels along the shorter axis; 'used_share': its share of that axis;
      'accuracy_in_window' for 'window 2', 'window 4', ...
    """
    images, labels = test_sample(network, dataset)
    mean = dataset.train_images[:_TRAIN].mean(axis=0).round().astype(images.dtype)
    found = {w: accuracy(network, masked(images, margin, mean), labels) for w, margin in windows(images.shape[1:-1])}
    chance = np.bincount(labels).max() / len(labels)
    width = enough(found, float(chance))
    return {
        "used_field": {"image": width},
        "used_share": {"image": width / min(images.shape[1:-1])},
        "accuracy_in_window": {f"window {width}": value for width, value in found.items()},
    }


def windows(spatial: Sequence[int]) -> list[tuple[int, int]]:
    """Return the widths of the centred windows along the shorter axis, increasing, each with its margin on every side."""
    side = min(spatial)
    return [(side - 2 * margin, margin) for margin in reversed(range((side + 1) // 2))]


def masked(images_NSC: np.ndarray, margin: int, fill_SC: np.ndarray) -> np.ndarray:
    """Replace the outermost `margin` positions of every spatial axis by those of the image `fill_SC`."""
    inside = tuple(slice(margin, n - margin) for n in images_NSC.shape[1:-1])
    out = np.broadcast_to(fill_SC, images_NSC.shape).astype(images_NSC.dtype)
    out[:, *inside] = images_NSC[:, *inside]
    return out


def enough(accuracy_by_width: Mapping[int, float], chance: float) -> float:
    """Return the smallest width from which accuracy above chance stays at `ENOUGH` of the largest window's; nan if none."""
    whole = accuracy_by_width[max(accuracy_by_width)] - chance
    if whole <= 0:
        return float("nan")
    width = max(accuracy_by_width)
    for candidate in sorted(accuracy_by_width, reverse=True):
        if accuracy_by_width[candidate] - chance < ENOUGH * whole:
            break
        width = candidate
    return float(width)
