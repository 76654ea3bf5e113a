"""A folder of checksummed .npy files per data set: written once and atomically, memory-mapped by every reader.

CACHE/NAME-HASH/*.npy, sidecar.json      HASH of the identity of the source; the sidecar has its own checksum
CACHE/NAME-HASH.lock                     held by the writing process
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

FORMAT = 2  # increase when reading of a source changes; old entries are then ignored
_SIDECAR = "sidecar.json"

Made = tuple[Mapping[str, np.ndarray], JsonObject | None]  # arrays by name, and JSON stored with them


class Entry(NamedTuple):
    """Read-only mapped arrays, their JSON, and the SHA-256 of names, shapes, types and bytes of all arrays."""

    arrays: dict[str, np.ndarray]
    notes: JsonObject
    checksum: str


def entry(folder: Path, label: str, identity: object, make: Callable[[], Made], *, verify: bool = False) -> Entry:
    """Return the cache entry of `identity`, created if missing or damaged. `label` makes folder names readable.

    Damage to the sidecar and to names, sizes or headers of files is always detected; `verify` also compares the checksums of
    the arrays, and is meant for the process that starts the others. Waits if another process is creating the same entry. Raises
    UsageError if the folder cannot be written, and any error of `make`.
    """
    home = _home(folder, label, identity)
    if found := _open(home, verify):
        return found
    with _writing(folder):
        cache_folder.create(folder)
        lock = locks.acquire(home.with_name(home.name + ".lock"))
    with contextlib.closing(lock):
        if found := _open(home, verify):  # created by another process in the meantime
            return found
        made = make()
        with _writing(folder):
            _write(home, *made)
        if found := _open(home, verify=False):
            return found
        raise UsageError(f"the image cache {home} was damaged during writing: set CNN_JAX_CACHE to another folder")


def find(folder: Path, label: str, identity: object) -> Entry | None:
    """Return the existing cache entry, or None if it is missing or damaged. Array checksums are not verified."""
    return _open(_home(folder, label, identity), verify=False)


def _home(folder: Path, label: str, identity: object) -> Path:
    text = json.dumps([FORMAT, identity], sort_keys=True)
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", label).strip("-.")[:40]
    return folder / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _sidecar_checksum(sidecar: JsonObject) -> str:
    """Compute the SHA-256 of the sidecar without its checksum."""
    rest = {key: value for key, value in sidecar.items() if key != "sidecar_checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def _open(home: Path, verify: bool) -> Entry | None:
    """Open an entry; None if it is missing or damaged."""
    try:
        sidecar = json.loads((home / _SIDECAR).read_bytes())
        if sidecar["sidecar_checksum"] != _sidecar_checksum(sidecar):
            return None
        arrays = {}
        for name, (shape, dtype) in sidecar["arrays"].items():
            array = np.load(home / f"{name}.npy", mmap_mode="r", allow_pickle=False)  # fails if the file is truncated
            if list(array.shape) != shape or array.dtype.str != dtype:
                return None
            arrays[name] = array
        if verify and _checksum(arrays) != sidecar["checksum"]:
            return None
        return Entry(arrays, sidecar["notes"], sidecar["checksum"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError):
        return None


def _write(home: Path, arrays: Mapping[str, np.ndarray], notes: JsonObject | None) -> None:
    for stale in home.parent.glob(f".{home.name}.*"):  # left by a killed process: this one holds the lock
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
            home.rename(part / "damaged")  # processes that have it mapped keep their pages
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
    """Convert file system errors into a one-line UsageError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        message = f"the image cache {folder} cannot be written ({reason}): set CNN_JAX_CACHE to another folder"
        raise UsageError(message) from error
