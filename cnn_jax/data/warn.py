"""Warnings about valid but suspicious data, a sentence each; `data.warnings` collects them."""

from collections.abc import Iterable

import numpy as np

from cnn_jax.data.source import Raw

_MOST_LABELS = 5  # listed in a warning
_DARK = 32  # of 255


def of_shape(shape_HWC: tuple[int, ...]) -> list[str]:
    """Warn about images whose channels come before height and width, as in PyTorch."""
    height, width, channels = shape_HWC
    if height not in (1, 3, 4) or channels <= 4:
        return []
    return [
        f"images of height {height}, width {width} and {channels} channels look channels-first: "
        "images are (N, H, W, C), np.moveaxis(images, 1, -1) converts them"
    ]


def of_labels(train_labels_N: np.ndarray, num_classes: int) -> list[str]:
    """Warn about classes without training images, for example because labels start at 1."""
    idle = sorted(set(range(num_classes)) - set(np.unique(train_labels_N).tolist()))
    if not idle:
        return []
    shown = ", ".join(map(str, idle[:_MOST_LABELS])) + (" ..." if len(idle) > _MOST_LABELS else "")
    hint = ": if labels count from 1, subtract 1" if idle == [0] else ""
    return [f"no training image has label {shown}, of {num_classes} classes counted from 0{hint}"]


def of_contrast(images: Iterable[np.ndarray]) -> list[str]:
    """Warn about training images in the darkest eighth of 0 to 255, such as masks of 0 and 1."""
    largest = 0
    for piece in images:
        largest = max(largest, int(piece.max()))
        if largest >= _DARK:
            return []
    return [
        f"the largest pixel of the training images is {largest} of 255, a contrast of {largest}/255: "
        "scale them to 0 to 255, or use --normalize=per_channel"
    ]


def of_raw(raw: Raw) -> list[str]:
    """Collect the warnings about shape, labels and pixels of a data set."""
    train, test = int(raw.train_images.max()), int(raw.test_images.max())
    found = of_shape(raw.train_images.shape[1:])
    found += of_labels(raw.train_labels, len(raw.class_names)) + of_contrast([raw.train_images])
    if train and test and max(train, test) >= 2 * min(train, test):
        found.append(f"training pixels go up to {train}, test pixels to {test}: are both scaled the same way?")
    return found
