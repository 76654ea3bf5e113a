"""Locks between the processes of a machine: files under flock(2), which the kernel releases when their process ends. No JAX."""

import errno
import os
from pathlib import Path
from typing import BinaryIO, Literal, cast, overload

# Errors of file systems without locks, such as some mounted folders and object stores.
UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


@overload
def acquire(path: Path, *, wait: Literal[True] = True, mode: int = 0o600) -> BinaryIO: ...
@overload
def acquire(path: Path, *, wait: bool, mode: int = 0o600) -> BinaryIO | None: ...
def acquire(path: Path, *, wait: bool = True, mode: int = 0o600) -> BinaryIO | None:
    """Lock a file, which is created if it is missing, and return it; closing it releases the lock.

    Args:
      path: of the file, in a folder that exists.
      wait: for the process that holds the lock; otherwise return None.
      mode: of a file that is created, less the umask.

    Raises:
      OSError: the file cannot be opened, or its file system has no locks (`UNSUPPORTED`).
    """
    import fcntl  # not on Windows, where a sweep can be planned and reported on

    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
    file = cast(BinaryIO, os.fdopen(opened, "ab+", buffering=0))
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        file.close()
        raise
    return file
