"""Files of a folder, local or in an object store: atomic writes, guarded reads, the lock."""

import contextlib
import errno
import os
import pathlib
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from cnn_jax import locks
from cnn_jax.errors import UsageError


class StoreError(OSError):
    """The folder can no longer be written: full, read-only or removed. The message is one line."""


def folder(dir: str | os.PathLike) -> Path:
    """Return `dir` as a path: of pathlib, or of etils.epath if it has a scheme such as gs://.

    In a string, a leading ~ or ~USER is the home folder. Raises UsageError if there is no such home or scheme.
    """
    if "://" not in os.fspath(dir):
        path = Path(dir)
        if not path.parts or not path.parts[0].startswith("~"):
            return path
        if not os.fspath(dir).startswith("~") or isinstance(dir, Path):  # as ./~, which a Path holds as ~
            return Path.cwd() / path
        try:
            return path.expanduser()
        except RuntimeError:
            raise UsageError(f"--out: {path.parts[0]} has no home folder on this machine: name the folder in full") from None
    from etils import epath

    try:
        return epath.Path(dir)  # type: ignore[return-value]
    except KeyError:
        raise UsageError(
            f"--out: {dir} has an unknown scheme: use gs://BUCKET/..., s3://BUCKET/... or a local folder"
        ) from None


def is_local(dir: Path) -> bool:
    """Whether the folder is in a file system, which can append, rename and lock; an object store can do none of them."""
    return isinstance(dir, pathlib.Path)


@contextlib.contextmanager
def reporting(dir: str | os.PathLike) -> Iterator[None]:
    """Turn an OSError inside into a StoreError that names the folder."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise StoreError(f"--out: {dir} cannot be written: {error.strerror or error}{where}") from error


def read_file(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file.

    Raises:
      OSError: it is missing, larger than `limit` bytes, or a FIFO, device, socket or folder, which are not opened.
    """
    if not is_local(path):
        return path.read_bytes()
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())  # of the opened file: the path may name another one by now
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data = file.read(limit + 1) if found.st_size <= limit else b""
    if found.st_size > limit or len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return data


def replace(path: Path, data: bytes) -> None:
    """Write a file atomically: whole, or not at all."""
    if not is_local(path):
        path.write_bytes(data)  # an object becomes visible when it is complete
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:  # never through an existing link
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def locked(dir: Path) -> Iterator[None]:
    """Lock the folder for this process. Raises UsageError naming the holder if another process has it.

    Where files cannot be locked (object stores, some mounted folders) nothing is locked: records of two writers do not
    interfere, and if a trial has two records, the first counts.
    """
    if not is_local(dir):
        yield
        return
    path = dir / "lock"
    with reporting(dir):
        dir.mkdir(parents=True, exist_ok=True)
        try:
            file = locks.acquire(path, wait=False, mode=0o666)
        except OSError as error:
            if error.errno not in locks.UNSUPPORTED:
                raise
            file = cast(BinaryIO, path.open("ab+", buffering=0))
        if file is None:
            holder = " ".join(path.read_bytes()[:200].decode(errors="replace").split())
            raise UsageError(f"--out: {dir} is in use by {holder or 'another process'}: wait, or name another folder")
    with file:
        with reporting(dir):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
