"""Arrays as bytes of .npz files, read without running code."""

import io
import math
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Kept(NamedTuple):
    """Arrays of a trial that are kept; None: not kept."""

    params: Mapping[str, np.ndarray] | None = None  # variables at the end of training, by path ('params/conv1/kernel')
    snapshots: Mapping[str, np.ndarray] | None = None  # at epochs of it, by epoch and path ('4/params/conv1/kernel')


def to_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name as the bytes of an .npz file: the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_npz(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays that `to_npz` wrote.

    Objects are refused because loading them runs code, and compressed files because a few bytes may expand to gigabytes.

    Raises:
      ValueError: the file is damaged or not one of ours.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = file.infolist()
            if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > len(data):
                raise ValueError("a compressed .npz file")
            return {m.filename.removesuffix(".npy"): _array(file.read(m)) for m in members}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"damaged .npz file: {error}") from None


def _array(data: bytes) -> np.ndarray:
    """Read a .npy file. Its header must match the size of the file: a damaged one may declare an array of any size."""
    file = io.BytesIO(data)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError("a .npy file of an unknown version")
    shape, fortran_order, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("objects are not loaded: they are pickles, which run code")
    if dtype.itemsize * math.prod(shape) != len(data) - file.tell():
        raise ValueError("the size of an array is not that of its file")
    flat = np.frombuffer(data, dtype, offset=file.tell()).copy()
    return flat.reshape(shape, order="F" if fortran_order else "C")
