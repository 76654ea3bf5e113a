"""Types and checks for all kinds of data sets: description, raw arrays, valid shapes, types and ranges."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Properties of a data set for planning. `info` and `load` count images after the split, a `Source` before it."""

    name: str
    input_shape: tuple[int, int, int]  # height, width, channels
    num_classes: int
    train_examples: int
    test_examples: int
    class_names: tuple[str, ...]
    validation_examples: int = 0


class Raw(NamedTuple):
    """A data set as read: images uint8 (N, H, W, C), labels int32 (N,) starting at 0."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """Source of a data set.

    `identity` is JSON that changes whenever the images may have changed; its hash names the cache entry. `read` is slow and
    called once per identity. `describe` is cheap; None: the data must be read. `notes` are warnings about other files,
    `warnings` returns those about the images that need not read all of them.
    """

    identity: Sequence[object]
    read: Callable[[], Raw]
    describe: Callable[[], DatasetInfo] | None = None
    notes: Sequence[str] = ()
    warnings: Callable[[], list[str]] = list


def files_identity(root: Path, files: Iterable[Path]) -> list[object]:
    """Return the path of the root, then path, size in bytes and modification time in ns of each file."""
    stats = ((str(file), file.stat()) for file in files)
    return [str(root.resolve()), sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)]


def check_memory(what: str, nbytes: int) -> None:
    """Raise UsageError if `nbytes` of images exceed this machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if nbytes > memory:
        raise UsageError(f"{what}: its images take {nbytes / 1e9:.1f} GB as arrays and this machine has {memory / 1e9:.1f} GB")


def describe_raw(name: str, raw: Raw) -> DatasetInfo:
    """Describe a data set that has been read."""
    height, width, channels = raw.train_images.shape[1:]
    sizes = len(raw.train_labels), len(raw.test_labels)
    return DatasetInfo(name, (height, width, channels), len(raw.class_names), *sizes, raw.class_names)


def image_shape(what: str, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int, int, int]:
    """Convert the shape (N, H, W) or (N, H, W, C) to (N, H, W, C). Raises UsageError for other shapes and types."""
    if dtype.kind not in "uif":
        hint = "; convert it with astype('float32')" if dtype.kind == "b" else ""
        raise UsageError(f"{what} has dtype {dtype}: must be uint8, or floats in [0, 1]{hint}")
    if len(shape) not in (3, 4) or 0 in shape:
        raise UsageError(f"{what} has shape {shape}: must be (N, H, W) or (N, H, W, C), without 0")
    n, height, width, channels = (*shape, 1)[:4]
    return n, height, width, channels


def check_labels(what: str, labels: np.ndarray, num_images: int) -> np.ndarray:
    """Convert labels (N,) or (N, 1) to int32 (N,). Raises UsageError unless there is one non-negative integer per image."""
    if labels.dtype.kind not in "ui":
        raise UsageError(f"{what} has dtype {labels.dtype}: must be integers that start at 0")
    if labels.shape not in ((num_images,), (num_images, 1)):
        raise UsageError(f"{what} has shape {labels.shape}: must be ({num_images},) or ({num_images}, 1), a label per image")
    labels = labels.reshape(num_images)
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise UsageError(f"{what} has labels from {labels.min()} to {labels.max()}: must be integers that start at 0")
    return labels.astype(np.int32)


def count_classes(what: str, train_labels: np.ndarray, test_labels: np.ndarray) -> int:
    """Return the largest label plus 1. Raises UsageError for a single class, or more classes than training images."""
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    if not 2 <= classes <= len(train_labels):
        raise UsageError(f"{what}: labels up to {classes - 1} for {len(train_labels)} training images: must start at 0")
    if (train_labels == train_labels[0]).all():
        raise UsageError(f"{what}: every training image has label {train_labels[0]}: at least two classes are needed")
    return classes


def check_shapes(train: str, train_shape: tuple[int, ...], test: str, test_shape: tuple[int, ...]) -> None:
    """Raise UsageError if two parts of shapes (N, H, W, C) differ in size or channels. `train` and `test` name them."""
    if train_shape[1:] != test_shape[1:]:
        raise UsageError(f"{test} holds images of shape {test_shape[1:]}, the training images are {train_shape[1:]}")


def check_scales(train: str, train_images: np.ndarray, test: str, test_images: np.ndarray) -> None:
    """Raise UsageError if the range of one part is 0 to 1 and that of the other 0 to 255. `train` and `test` name them.

    A part of zeros matches any scale. Integers up to 1 with floats up to 1 are also rejected: 1 is white in one and black in
    the other.
    """
    unit, whole = [], []
    for images in (train_images, test_images):
        high = images.max()
        if high > 0:
            unit.append(high <= 1)
            whole.append(high > 1 or images.dtype.kind != "f")
    if len(set(unit)) > 1 or len(set(whole)) > 1:
        ranges = [f"{a.min():g} to {a.max():g} ({a.dtype})" for a in (train_images, test_images)]
        raise UsageError(
            f"{train} has values from {ranges[0]} and {test.rpartition(': ')[2]} from {ranges[1]}: "
            "both parts must have the same scale, floats in [0, 1] or whole numbers from 0 to 255"
        )


def _check_values(what: str, images: np.ndarray) -> None:
    low, high = images.min(), images.max()
    if not (np.isfinite(low) and np.isfinite(high)):  # minimum and maximum propagate NaN
        raise UsageError(f"{what} holds NaN or infinity: must be uint8, or floats in [0, 1]")
    if low < 0 or high > 255:
        raise UsageError(f"{what} has values from {low:g} to {high:g}: must be uint8, or floats in [0, 1]")
    if images.dtype.kind == "f" and high > 1 and not (images == np.rint(images)).all():
        raise UsageError(f"{what} has fractions up to {high:g}: must be uint8, or floats in [0, 1] or whole from 0 to 255")


def raw_from_arrays(what: str, arrays: Mapping[str, np.ndarray]) -> Raw:
    """Check the four arrays of a data set (training images, labels, test images, labels; keys name them in errors).

    Floats up to 1 are multiplied by 255 and rounded; other floats must be whole. Raises UsageError otherwise, naming `what` and
    the key.
    """
    (train_x, train), (train_y, train_labels), (test_x, test), (test_y, test_labels) = (
        (f"{what}: {key}", np.asarray(array)) for key, array in arrays.items()
    )
    images = {}
    for name, array in ((train_x, train), (test_x, test)):
        images[name] = array.reshape(image_shape(name, array.shape, array.dtype))
        if array.dtype != np.uint8:
            _check_values(name, array)
    check_shapes(train_x, images[train_x].shape, test_x, images[test_x].shape)
    check_scales(train_x, train, test_x, test)
    train_labels = check_labels(train_y, train_labels, len(train))
    test_labels = check_labels(test_y, test_labels, len(test))
    fractions = max(train.max(), test.max()) <= 1

    def to_uint8(a: np.ndarray) -> np.ndarray:
        return np.rint(a * 255 if fractions and a.dtype.kind == "f" else a).astype(np.uint8) if a.dtype != np.uint8 else a

    class_names = tuple(str(c) for c in range(count_classes(what, train_labels, test_labels)))
    return Raw(to_uint8(images[train_x]), train_labels, to_uint8(images[test_x]), test_labels, class_names)
