"""The cache folder if only its user can write to it; otherwise a private folder. No JAX.

Compiled code in the cache runs as the user that loads it, so a checksum is not enough: it verifies a file's contents, not its
author. A folder passes if the user or root owns it, everything in it and every folder above it, and no group or other user may
write there. Nobody else can then change the folder between this check and its use.
"""

import functools
import grp
import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_DEPTH = 2  # CACHE/native/FILE, CACHE/xla/FILE, CACHE/DATASET/FILE
_SHARED = stat.S_IWGRP | stat.S_IWOTH


def cache_root(cache_dir: str | os.PathLike | None = None) -> Path:
    """The folder of files made once per machine: `cache_dir`, $CNN_JAX_CACHE, $XDG_CACHE_HOME/cnn_jax or ~/.cache/cnn_jax.

    A user without a home folder, as in some containers, has it in the folder of temporary files.
    """
    if chosen := cache_dir or os.environ.get("CNN_JAX_CACHE"):
        return Path(chosen).expanduser()
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "cnn_jax"
    try:
        return Path.home() / ".cache" / "cnn_jax"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"cnn_jax-{os.getuid()}"


def cache_folder(cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the folder of compiled code, compiled programs and images: `cache_root`, or a private one in its place."""
    return checked(cache_root(cache_dir).absolute())


@functools.lru_cache(maxsize=64)
def checked(folder: Path) -> Path:
    """Return `folder` with symbolic links resolved, or a private folder if another user may have written in it.

    Creates nothing in `folder`, which may be absent. Prints one line on stderr if it is not used.
    """
    resolved = Path(os.path.realpath(folder))
    reason = distrust(resolved)
    if reason is None:
        return resolved
    private = _private_folder()
    print(f"cache: {reason}: using {private} instead of {folder}", file=sys.stderr)
    return private


def create(folder: Path) -> None:
    """Create a folder of the cache, and its missing parents, with mode 700.

    Raises:
      OSError: it cannot be created, or another user can write in it.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    if missing and (reason := distrust(Path(os.path.realpath(folder)))):
        raise PermissionError(1, reason, str(folder))


def distrust(folder: Path, depth: int = _DEPTH) -> str | None:
    """Return why a folder is not safe to load code from, naming the culprit; None if it is safe, or absent.

    Args:
      folder: path without symbolic links.
      depth: levels of its contents that are checked.
    """
    for parent in reversed(folder.parents):
        if reason := _distrust_parent(parent):
            return reason
    return next((reason for path in _contents(folder, depth) if (reason := _distrust_entry(path))), None)


def _contents(folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    if depth == 0 or folder.is_symlink() or not folder.is_dir():
        return
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        yield from _contents(folder / name, depth - 1)


def _distrust_parent(path: Path) -> str | None:
    try:
        found = os.lstat(path)
    except OSError:  # absent, or not to be entered: nothing can be loaded from below it
        return None
    if found.st_uid not in _owners():
        return f"{path} belongs to another user ({_user(found.st_uid)})"
    if found.st_mode & stat.S_ISVTX:  # as /tmp: others may add to it, but not rename what is ours
        return None
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _is_private_group(found.st_gid)):
        return _writable(path, found)
    return None


def _distrust_entry(path: Path) -> str | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if found.st_uid not in _owners():
        return f"{path} belongs to another user ({_user(found.st_uid)})"
    if stat.S_ISLNK(found.st_mode):
        return distrust(Path(os.path.realpath(path)), depth=1)
    if not found.st_mode & _SHARED:
        return None
    # With a umask such as 002, JAX's own files are writable by the group. They are out of its reach in a folder of mode 700.
    closed = not os.lstat(path.parent).st_mode & (stat.S_IXGRP | stat.S_IXOTH)
    if stat.S_ISREG(found.st_mode) and closed and not found.st_mode & _SHARED & _umask():
        return None
    return _writable(path, found)


def _writable(path: Path, found: os.stat_result) -> str:
    return f"{path} is writable by other users (mode {stat.S_IMODE(found.st_mode):o}; chmod -R go-w makes it safe)"


def _owners() -> set[int]:
    return {os.geteuid(), 0, os.lstat("/").st_uid}  # in some containers root has another number


def _is_private_group(gid: int) -> bool:
    """Whether a group has the user as its only member, as on systems where every user has a group of the same name."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"number {uid}"


@functools.cache
def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@functools.cache
def _private_folder() -> Path:
    """One folder per user in the temporary folder, so that the next process finds it; one per process if that is taken."""
    shared = Path(os.path.realpath(tempfile.gettempdir())) / f"cnn_jax-{os.geteuid()}"
    try:
        shared.mkdir(mode=0o700, exist_ok=True)
        if distrust(shared) is None and os.lstat(shared).st_uid == os.geteuid() and not shared.is_symlink():
            return shared
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="cnn_jax-"))
