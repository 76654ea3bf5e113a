"""npz:FILE: the four arrays of keras.datasets in one file: x_train, y_train, x_test, y_test. Never unpickles."""

import math
import zipfile
from pathlib import Path

import numpy as np

from cnn_jax.data import warn
from cnn_jax.data.source import (
    DatasetInfo,
    Raw,
    Source,
    check_labels,
    check_memory,
    check_shapes,
    count_classes,
    files_identity,
    image_shape,
    raw_from_arrays,
)
from cnn_jax.errors import UsageError

KEYS = ("x_train", "y_train", "x_test", "y_test")


def source(file: str) -> Source:
    """Return the data set in an .npz file. Raises UsageError if it is missing; `describe` and `read` check its contents."""
    what, path = f"--dataset=npz:{file}", Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"{what}: no such file; must be an .npz file with the arrays {', '.join(KEYS)}")
    identity = ["npz", *files_identity(path.parent, [path])]

    def read() -> Raw:
        return raw_from_arrays(what, _load(what, path, KEYS))

    # Nothing is decoded, so a dry run can check every pixel.
    return Source(identity, read, lambda: _describe(what, path), warnings=lambda: warn.of_raw(read()))


def _describe(what: str, path: Path) -> DatasetInfo:
    """Describe the data set from the headers of the images and the labels; pixels are not read."""
    headers = _headers(what, path)
    shapes = {k: image_shape(f"{what}: {k}", *headers[k]) for k in ("x_train", "x_test")}
    check_shapes(f"{what}: x_train", shapes["x_train"], f"{what}: x_test", shapes["x_test"])
    labels = _load(what, path, ("y_train", "y_test"))
    train = check_labels(f"{what}: y_train", labels["y_train"], shapes["x_train"][0])
    test = check_labels(f"{what}: y_test", labels["y_test"], shapes["x_test"][0])
    names = tuple(map(str, range(count_classes(what, train, test))))
    return DatasetInfo(what.removeprefix("--dataset="), shapes["x_train"][1:], len(names), len(train), len(test), names)


def _load(what: str, path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    headers = _headers(what, path)
    check_memory(what, sum(math.prod(headers[k][0]) * headers[k][1].itemsize for k in keys))
    arrays = {}
    with np.load(path, allow_pickle=False) as npz:
        for key in keys:
            try:
                arrays[key] = npz[key]
            except Exception as error:  # zipfile, zlib and numpy raise different types
                raise UsageError(f"{what}: {key} cannot be read: {_line(error)}") from error
    return arrays


def _headers(what: str, path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Read shape and dtype of every array. A header larger than its file is rejected before memory is allocated."""
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            names = {n.removesuffix(".npy") for n in archive.namelist()}
            for key in KEYS:
                if key not in names:
                    raise UsageError(f"{what}: {key} is missing; must hold the arrays {', '.join(KEYS)}")
                member = archive.getinfo(f"{key}.npy")
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(file)
                    if dtype.hasobject:
                        raise UsageError(f"{what}: {key} holds Python objects, which are never loaded: must be numbers")
                    if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                        raise UsageError(f"{what}: {key} is damaged: its size is not that of {shape} {dtype}")
                headers[key] = shape, dtype
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{what} cannot be read as an .npz file: {_line(error)}") from error
    return headers


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
