"""A folder of checksummed .npy files per data set: written once, complete or absent, mapped by every process that reads it.

CACHE/NAME-HASH/*.npy, sidecar.json      HASH is of the identity of what was read; the sidecar has its own checksum too
CACHE/NAME-HASH.lock                     held by the process that is writing it
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from cnn_jax import cache_folder, locks
from cnn_jax.aliases import JsonObject
from cnn_jax.errors import UsageError

FORMAT = 2  # raise it when the same source is read differently: old entries are then left alone
_SIDECAR = "sidecar.json"

Made = tuple[Mapping[str, np.ndarray], JsonObject | None]  # arrays by name, and JSON that is kept beside them


class Entry(NamedTuple):
    """Arrays mapped read-only, the JSON kept beside them, and the SHA-256 of names, shapes, types and bytes of all arrays."""

    arrays: dict[str, np.ndarray]
    notes: JsonObject
    checksum: str


def entry(folder: Path, label: str, identity: object, make: Callable[[], Made], *, verify: bool = False) -> Entry:
    """The cache entry of `identity`, made if it is missing or damaged. `label` is for people who look into the folder.

    Damage to the sidecar and to files' names, sizes or headers is always seen; `verify` also compares the checksum of every
    byte of the arrays, and is for the one process that starts others. Waits for another process that is making the same
    entry. Raises UsageError if the folder cannot be written, and what `make` raises.
    """
    home = _home(folder, label, identity)
    if found := _open(home, verify):
        return found
    with _writing(folder):
        cache_folder.create(folder)
        lock = locks.acquire(home.with_name(home.name + ".lock"))
    with contextlib.closing(lock):
        if found := _open(home, verify):  # made by another process while this one waited
            return found
        made = make()
        with _writing(folder):
            _write(home, *made)
        if found := _open(home, verify=False):
            return found
        raise UsageError(f"the image cache {home} was damaged while it was written: set CNN_JAX_CACHE to another folder")


def find(folder: Path, label: str, identity: object) -> Entry | None:
    """The cache entry that `entry` would return, or None if it would have to be made. Compares no array with its checksum."""
    return _open(_home(folder, label, identity), verify=False)


def _home(folder: Path, label: str, identity: object) -> Path:
    text = json.dumps([FORMAT, identity], sort_keys=True)
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", label).strip("-.")[:40]
    return folder / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _sidecar_checksum(sidecar: JsonObject) -> str:
    """SHA-256 of all of the sidecar but this checksum itself."""
    rest = {key: value for key, value in sidecar.items() if key != "sidecar_checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def _open(home: Path, verify: bool) -> Entry | None:
    """The entry, or None if it is missing or damaged."""
    try:
        sidecar = json.loads((home / _SIDECAR).read_bytes())
        if sidecar["sidecar_checksum"] != _sidecar_checksum(sidecar):
            return None
        arrays = {}
        for name, (shape, dtype) in sidecar["arrays"].items():
            array = np.load(home / f"{name}.npy", mmap_mode="r", allow_pickle=False)  # fails if the file is cut short
            if list(array.shape) != shape or array.dtype.str != dtype:
                return None
            arrays[name] = array
        if verify and _checksum(arrays) != sidecar["checksum"]:
            return None
        return Entry(arrays, sidecar["notes"], sidecar["checksum"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError):
        return None


def _write(home: Path, arrays: Mapping[str, np.ndarray], notes: JsonObject | None) -> None:
    for stale in home.parent.glob(f".{home.name}.*"):  # left by a process that was killed: we hold the lock
        shutil.rmtree(stale)
    part = home.with_name(f".{home.name}.{os.getpid()}")
    part.mkdir(mode=0o700)
    try:
        rows = {}
        for name, array in arrays.items():
            with open(part / f"{name}.npy", "xb") as file:
                np.save(file, array, allow_pickle=False)
                _sync(file)
                rows[name] = [list(array.shape), array.dtype.str]
        sidecar = {"arrays": rows, "checksum": _checksum(arrays), "notes": notes}
        with open(part / _SIDECAR, "x") as file:
            json.dump(sidecar | {"sidecar_checksum": _sidecar_checksum(sidecar)}, file)
            _sync(file)
        if home.exists():
            home.rename(part / "damaged")  # a process that has it mapped keeps its pages
        part.rename(home)
        shutil.rmtree(home / "damaged", ignore_errors=True)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _sync(file: IO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns an error of the file system into one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        message = f"the image cache {folder} cannot be written ({reason}): set CNN_JAX_CACHE to another folder"
        raise UsageError(message) from error
