"""CPU cores for workers: each worker gets its own, and cores held by another run of the same user are left alone.

A core is held by locking a file in the temporary folder; the kernel releases the lock when the process ends, however it ends,
so no stale lock remains. Results never depend on which cores a worker gets: their number is always that of the devices of its
trials. Runs that see different folders of temporary files (containers, TMPDIR) do not see each other.
"""

import contextlib
import dataclasses
import os
import stat
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from cnn_jax import locks

SHARERS = 4  # runs on one core that are counted; further ones share it uncounted


def allowed() -> list[int]:
    """The cores that this process may use; empty where the system cannot pin processes, as on macOS."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


class Claims:
    """The cores that this process holds, until `release` or its end."""

    def __init__(self) -> None:
        self._held: list[_Core] = []

    def take(self, count: int, *, shared: bool) -> list[int]:
        """Claim `count` cores that this object does not hold yet, or fewer if this process may not use so many.

        Args:
            count: how many cores.
            shared: whether to take held cores where too few are free, those with the fewest holders first.

        Returns:
            The cores; empty if too few are free and `shared` is False.
        """
        candidates = [core for core in allowed() if core not in {held.number for held in self._held}]
        count = min(count, len(candidates))
        with _probing():
            found = sorted((_probe(core) for core in candidates), key=lambda core: (core.holders, core.number))
            free = all(core.holders == 0 for core in found[:count])
            taken = found[:count] if shared or free else []
            for core in found[len(taken) :]:
                core.release()
        self._held += taken
        return sorted(core.number for core in taken)

    def release(self, numbers: Collection[int]) -> None:
        """Release cores."""
        for core in [core for core in self._held if core.number in numbers]:
            self._held.remove(core)
            core.release()


def claim(count: int) -> None:
    """Pin this process to `count` cores until it ends: free ones, or else those with the fewest holders."""
    if mine := _claims.take(count, shared=True):
        os.sched_setaffinity(0, mine)


_claims = Claims()  # of a process without a parent that assigns cores


@dataclasses.dataclass
class _Core:
    number: int
    holders: int  # others
    lock: BinaryIO | None  # ours; None where files cannot be locked, or too many hold the core

    def release(self) -> None:
        if self.lock:
            self.lock.close()


def _probe(number: int) -> _Core:
    """Count the holders of a core, and add this process to them."""
    core = _Core(number, 0, None)
    for place in range(SHARERS):
        with contextlib.suppress(OSError):
            file = locks.acquire(_folder() / f"core-{number}-{place}", wait=False)
            if file is None:
                core.holders += 1
            elif core.lock:
                file.close()
            else:
                core.lock = file
    return core


@contextlib.contextmanager
def _probing() -> Iterator[None]:
    """Context in which no other process probes: a probe holds every core for a moment."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(contextlib.closing(locks.acquire(_folder() / "probing")))
        yield


def _folder() -> Path:
    """The folder of the locks. Raises OSError if it cannot be made, or belongs to another user."""
    folder = Path(tempfile.gettempdir()) / f"cnn_jax-{os.getuid()}-cores"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a folder of this user")
    return folder
