"""How much of the image a network uses. N images, *S spatial axes, C channels."""

from collections.abc import Mapping, Sequence

import numpy as np

from cnn_jax.analysis.measures.sample import accuracy, test_sample
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset

ENOUGH = 0.95  # of the accuracy above that of the most frequent class
_TRAIN = 5000  # training images of the mean image


def used_field(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Width of the smallest centred window that the network needs: accuracy when everything outside of it is masked.

    The masked pixels are those of the mean training image, which says nothing about the class and has no edge of its own.
    Enough is `ENOUGH` of the accuracy with the whole image, both less the share of the most frequent class, for this window
    and all larger ones. Source: windows as in Brendel and Bethge 2019, "Approximating CNNs with bag-of-local-features models",
    where the architecture limits the field; here the trained network is asked how much of it it uses.

    Returns:
      'used_field' for 'image': width in pixels along the shorter axis; 'used_share': the same as a share of that axis;
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
    """Widths of the centred windows along the shorter axis, increasing, with the margin that each leaves on every side."""
    side = min(spatial)
    return [(side - 2 * margin, margin) for margin in reversed(range((side + 1) // 2))]


def masked(images_NSC: np.ndarray, margin: int, fill_SC: np.ndarray) -> np.ndarray:
    """Images with the outermost `margin` positions of every spatial axis replaced by those of an image."""
    inside = tuple(slice(margin, n - margin) for n in images_NSC.shape[1:-1])
    out = np.broadcast_to(fill_SC, images_NSC.shape).astype(images_NSC.dtype)
    out[:, *inside] = images_NSC[:, *inside]
    return out


def enough(accuracy_by_width: Mapping[int, float], chance: float) -> float:
    """Smallest width from which on the accuracy above chance stays at `ENOUGH` of that of the largest; nan if that is none."""
    whole = accuracy_by_width[max(accuracy_by_width)] - chance
    if whole <= 0:
        return float("nan")
    width = max(accuracy_by_width)
    for candidate in sorted(accuracy_by_width, reverse=True):
        if accuracy_by_width[candidate] - chance < ENOUGH * whole:
            break
        width = candidate
    return float(width)
