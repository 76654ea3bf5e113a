"""Cores for processes that share a machine and have no parent to share them out: each takes some that nobody else has."""

import fcntl
import os
import tempfile
from typing import Any

_claims: list[Any] = []  # files that stay open, and so locked, as long as this process lives


def claim(count: int) -> None:
    """Pins this process to so many cores, as local workers are; to a shared one where none is free."""
    free = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    mine: set[int] = set()
    for core in free:
        file = open(os.path.join(tempfile.gettempdir(), f"cnn_jax-{os.getuid()}-core-{core}"), "a")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        _claims.append(file)
        mine.add(core)
        if len(mine) == count:
            break
    if free:
        os.sched_setaffinity(0, mine or {free[os.getpid() % len(free)]})
