"""Data sets as functions: the built-in ones, and any `package.module:attribute` of a fork.

Such a function takes no arguments and returns training images, training labels, test images, test labels: images (N, H, W) or
(N, H, W, C) as uint8 or as floats in [0, 1], labels as integers from 0. It is called once; afterwards the cache is used until
the module's file changes.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cnn_jax import plugins
from cnn_jax.data import red_green
from cnn_jax.data.order import order
from cnn_jax.data.source import DatasetInfo, Raw, Source, files_identity, raw_from_arrays
from cnn_jax.errors import UsageError

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def digits() -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey: 0..16 is scaled to 0..255, 359 (20 %) are the test set.

    scikit-learn does not split them; the test set is the first fifth of `order` with seed 0. The images are the test part of
    UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x_NHW = np.rint(x.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    test, train = np.split(order(0, len(y)), [round(len(y) * 0.2)])
    return x_NHW[train], y[train], x_NHW[test], y[test]


DATASETS: dict[str, Callable[[], Arrays]] = {
    "digits": digits,
    "red_green": red_green.similar,
    "red_green:dissimilar": red_green.dissimilar,
    "red_green:published": red_green.published,
    "red_green:published_dissimilar": red_green.published_dissimilar,
}
_REVISION = 1  # increase when a function above returns different images
_SQUARE = (red_green.SIDE, red_green.SIDE, 3)
INFO = {
    "digits": DatasetInfo("digits", (8, 8, 1), 10, 1438, 359, tuple("0123456789")),
    **{name: DatasetInfo(name, _SQUARE, 2, 3000, 1000, red_green.CLASS_NAMES) for name in DATASETS if name != "digits"},
}


def source(name: str) -> Source:
    """Return one of `DATASETS`, described without reading it."""
    read = DATASETS[name]
    return Source(
        ["builtin", name, _REVISION],
        read=lambda: _raw(name, read)._replace(class_names=INFO[name].class_names),
        describe=lambda: INFO[name],
    )


def plugin(name: str) -> Source:
    """Return a fork's data set, named `package.module:attribute`. Raises UsageError if it cannot be imported or called."""
    function = plugins.load_attribute(name, f"--dataset={name}")
    if not callable(function):
        raise UsageError(f"--dataset={name} is not a function that returns the four arrays of a data set")
    module = sys.modules[name.partition(":")[0]]
    file = Path(getattr(module, "__file__", None) or "")  # "": a module without a file is assumed not to change
    return Source(["plugin", name, *files_identity(file.parent, [file])], read=lambda: _raw(name, function))


def _raw(name: str, function: Callable[[], Arrays]) -> Raw:
    with plugins.reporting(f"--dataset={name} failed", function):
        returned = tuple(np.asarray(a) for a in function())
    keys = ("train_images", "train_labels", "test_images", "test_labels")
    if len(returned) != len(keys):
        raise UsageError(f"--dataset={name} returned {len(returned)} arrays: must be the four {', '.join(keys)}")
    return raw_from_arrays(f"--dataset={name}", dict(zip(keys, returned, strict=True)))
