"""Data sets that are functions: two of ours, and any `package.module:attribute` of a fork.

Such a function takes nothing and returns training images, training labels, test images, test labels: images (N, H, W) or
(N, H, W, C) as uint8 or as floats in [0, 1], labels as integers from 0. It is called once; then the cache is read, until the
module's file changes.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cnn_jax import plugins
from cnn_jax.data.source import DatasetInfo, Raw, Source, files_identity, raw_from_arrays
from cnn_jax.errors import UsageError

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def order(seed: int, n: int) -> np.ndarray:
    """A random permutation of n, int64 (n,).

    The ranks of n raw outputs of Philox: unlike `Generator.permutation`, its stream is promised never to change.
    """
    return np.argsort(np.random.Philox(key=seed).random_raw(n), kind="stable")


def digits() -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey: 0..16 is scaled to 0..255, 359 (20 %) are the test set.

    scikit-learn gives them without a division; ours is `order` with seed 0, its first fifth. They are the test part of
    UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x_NHW = np.rint(x.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    test, train = np.split(order(0, len(y)), [round(len(y) * 0.2)])
    return x_NHW[train], y[train], x_NHW[test], y[test]


_SIDE, _BOX = 32, 4
_TOP, _BOTTOM = 3, 19  # first of the eight rows at which a box may start


def _boxes(seed: int, n: int, swap: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """n images of a red and a green box; class 0, red left of green, at the top and class 1 at the bottom, or swapped."""
    u = (np.random.Philox(key=seed).random_raw((n, 4)) >> np.uint64(11)) * 2.0**-53  # uniform in [0, 1)
    label_N = np.arange(n) % 2
    left_N = (u[:, 0] * 10).astype(int)
    right_N = left_N + _BOX + 1 + (u[:, 1] * (_SIDE - 2 * _BOX - 1 - left_N)).astype(int)
    first_row_N = np.where((label_N == 0) ^ swap, _TOP, _BOTTOM)
    images_NHWC = np.zeros((n, _SIDE, _SIDE, 3), np.uint8)
    for column_N, v_N, colour_N in ((left_N, u[:, 2], label_N), (right_N, u[:, 3], 1 - label_N)):
        rows_NB = (first_row_N + (v_N * 8).astype(int))[:, None] + np.arange(_BOX)
        columns_NB = column_N[:, None] + np.arange(_BOX)
        images_NHWC[np.arange(n)[:, None, None], rows_NB[:, :, None], columns_NB[:, None, :], colour_N[:, None, None]] = 255
    return images_NHWC, label_N


def red_green() -> Arrays:
    """Is red left of green? Two 4 x 4 boxes on black, 32 x 32 x 3; the location gives the class away, in the test set too.

    The "similar" task of Kayhan and van Gemert, "On Translation Invariance in CNNs", CVPR 2020, with the
    geometry of their published program: class 0 (red left of green) in the upper half, class 1 in the lower; the left box
    starts in columns 0..9, the other at least 5 further right and up to column 27, rows vary by 8. Their 2,000 training and
    1,000 validation images are our 3,000 training images; 1,000 test images. Their program draws all
    three with the same seed, so that the test images are among the training images; ours are new.
    """
    return *_boxes(0, 3000), *_boxes(1, 1000)


def red_green_dissimilar() -> Arrays:
    """`red_green` with the test images 16 rows further down or up, so that only left and right tell the classes apart.

    A network that is blind to absolute location is as good here as on the similar test set; one that reads it is always wrong.
    """
    return *_boxes(0, 3000), *_boxes(1, 1000, swap=True)


DATASETS: dict[str, Callable[[], Arrays]] = {
    "digits": digits,
    "red_green": red_green,
    "red_green:dissimilar": red_green_dissimilar,
}
_REVISION = 1  # raise it when one of the functions above returns other images
_ORDERS = ("red left of green", "green left of red")
INFO = {
    "digits": DatasetInfo("digits", (8, 8, 1), 10, 1438, 359, tuple("0123456789")),
    "red_green": DatasetInfo("red_green", (_SIDE, _SIDE, 3), 2, 3000, 1000, _ORDERS),
    "red_green:dissimilar": DatasetInfo("red_green:dissimilar", (_SIDE, _SIDE, 3), 2, 3000, 1000, _ORDERS),
}


def source(name: str) -> Source:
    """One of `DATASETS`, described without being read."""
    read = DATASETS[name]
    return Source(
        ["builtin", name, _REVISION],
        read=lambda: _raw(name, read)._replace(class_names=INFO[name].class_names),
        describe=lambda: INFO[name],
    )


def plugin(name: str) -> Source:
    """The data set of a fork, by `package.module:attribute`. Raises UsageError if it cannot be imported or called."""
    function = plugins.load_attribute(name, f"--dataset={name}")
    if not callable(function):
        raise UsageError(f"--dataset={name} is not a function that returns the four arrays of a data set")
    module = sys.modules[name.partition(":")[0]]
    file = Path(getattr(module, "__file__", None) or "")  # "": a module without a file is taken never to change
    return Source(["plugin", name, *files_identity(file.parent, [file])], read=lambda: _raw(name, function))


def _raw(name: str, function: Callable[[], Arrays]) -> Raw:
    with plugins.reporting(f"--dataset={name} failed", function):
        returned = tuple(np.asarray(a) for a in function())
    keys = ("train_images", "train_labels", "test_images", "test_labels")
    if len(returned) != len(keys):
        raise UsageError(f"--dataset={name} returned {len(returned)} arrays: must be the four {', '.join(keys)}")
    return raw_from_arrays(f"--dataset={name}", dict(zip(keys, returned, strict=True)))
