"""C code for convolution and batch normalization, compiled for the host's processor, once per machine. No JAX: see `ops.ffi`.

XLA's CPU backend neither keeps a layer's convolution, bias, relu and max-pool in registers nor runs the gradients of a
convolution at more than a fraction of the processor's speed inside a loop (docs/decisions/0006). A C compiler does, and
nearly every machine that trains networks has one. Without one, `library` gives the reason, and `ops.conv`
has implementations that need XLA only.

CACHE/native/UNIT-KEY-SHA.so      KEY: of sources, compiler, flags, processor; SHA: of the file itself, so damage is seen

Environment:

    CC                  the compiler, with options if need be; unset: cc, gcc or clang
    CNN_JAX_CFLAGS      flags after ours, split as a shell does; each value has a file of its own (`make test-sanitizers`)
    CNN_JAX_NATIVE=0    no C
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cnn_jax import cache_folder, locks

# A library each, of these files: a program waits only for those that it calls.
UNITS = {"conv": ("conv.c", "narrow.c"), "half": ("half.c",), "norm": ("norm.c",), "pool": ("pool.c",)}
_HEADERS = ("call.h", "lanes.h", "loops.h", "shape.h", "strips.h", "tiles.h", "vectors.h", "winograd.h")
_HEADER = "xla/ffi/api/c_api.h"
# The last two: a struct without a name within another.
_FLAGS = ("-O2", "-fno-math-errno", "-fPIC", "-std=gnu11", "-fms-extensions", "-Wno-microsoft-anon-tag")
WARNINGS = (  # of which the sources are free, as tested
    *("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wundef", "-Wcast-qual", "-Wpointer-arith", "-Wvla"),
    *("-Wdouble-promotion", "-Wstrict-prototypes", "-Wmissing-prototypes"),
)
_PROCESSOR = (("-march=native",), ("-mcpu=native",), ())  # the first that the compiler takes


class Library(NamedTuple):
    """The compiled file, or None and why not."""

    path: Path | None
    reason: str = ""


@functools.lru_cache(maxsize=len(UNITS))
def library(unit: str = "conv") -> Library:
    """Finds the compiled file of one of UNITS in the cache or compiles it, which takes up to two seconds."""
    if os.environ.get("CNN_JAX_NATIVE") == "0":
        return Library(None, "CNN_JAX_NATIVE=0")
    headers = _headers()
    if headers is None:
        return Library(None, "jaxlib has no FFI headers")
    compiler = _compiler()
    if compiler is None:
        return Library(None, "there is no C compiler: install gcc or clang, or set CC")
    try:
        flags = shlex.split(os.environ.get("CNN_JAX_CFLAGS", ""))
        folder, name = cache_folder.cache_folder() / "native", f"{unit}-{_key(unit, compiler, flags, headers)}"
        with _locked(folder, name):
            return _found(folder, name) or _compiled(folder, name, compiler, flags, headers)
    except ValueError as error:
        return Library(None, f"CNN_JAX_CFLAGS: {error}")
    except (OSError, subprocess.SubprocessError) as error:
        return Library(None, f"{' '.join(compiler)}: {error}")


@functools.lru_cache(maxsize=1)
def has_half() -> bool:
    """Whether there is C that computes convolutions in bfloat16: by tiles that the processor has and this process may use."""
    path = library("half").path
    return path is not None and bool(ctypes.CDLL(str(path)).cnn_jax_has_half())


def _headers() -> Path | None:
    """The folder of XLA's headers, without importing jaxlib."""
    spec = importlib.util.find_spec("jaxlib")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "include" / _HEADER).is_file():
            return Path(place) / "include"
    return None


def _compiler() -> list[str] | None:
    for words in (shlex.split(os.environ.get("CC", "")), ["cc"], ["gcc"], ["clang"]):
        if words and (path := shutil.which(words[0])):
            return [path, *words[1:]]
    return None


def _key(unit: str, compiler: list[str], flags: list[str], headers: Path) -> str:
    binary = Path(compiler[0]).resolve()
    text = [*compiler, *_FLAGS, *flags, str(binary), str(binary.stat().st_mtime_ns), platform.platform(), _processor()]
    sources = (*_sources(unit), *map(Path(__file__).with_name, _HEADERS), headers / _HEADER)
    files = [source.read_bytes() for source in sources]
    return hashlib.sha256(b"\0".join([*(part.encode() for part in text), *files])).hexdigest()[:16]


def _processor() -> str:
    """Features of the processor, as it reports them: a home folder may be shared between different machines."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()


@contextlib.contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    cache_folder.create(folder)
    with contextlib.closing(locks.acquire(folder / f"{name}.lock")):
        yield


def _found(folder: Path, name: str) -> Library | None:
    for path in folder.glob(f"{name}-*.so"):
        if path.name == _file_name(name, path.read_bytes()):
            return Library(path)
        path.unlink()
    return None


def _file_name(name: str, contents: bytes) -> str:
    return f"{name}-{hashlib.sha256(contents).hexdigest()[:16]}.so"


def _compiled(folder: Path, name: str, compiler: list[str], flags: list[str], headers: Path) -> Library:
    told, unit = "", name.partition("-")[0]
    for left in folder.glob(f"making-{name}-*"):  # by a process that was killed; we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"making-{name}-") as scratch:
        made = Path(scratch) / "made.so"
        for processor in _PROCESSOR:
            for commands in _commands(unit, compiler, [*processor, *flags], headers, made):
                if told := _first_error(commands):
                    break
            else:
                path = folder / _file_name(name, made.read_bytes())
                made.replace(path)
                return Library(path)
    return Library(None, f"{' '.join(compiler)} failed: {told[:200]}")


def _commands(unit: str, compiler: list[str], flags: list[str], headers: Path, made: Path) -> list[list[list[str]]]:
    """The commands that compile the files of a unit, to be run at the same time; then the one that links them."""
    given, objects = [*compiler, *_FLAGS, *flags], [made.with_suffix(f".{source.stem}.o") for source in _sources(unit)]
    compiled = [
        [*given, "-c", "-isystem", str(headers), str(source), "-o", str(object)]
        for source, object in zip(_sources(unit), objects, strict=True)
    ]
    return [compiled, [[*given, "-shared", *map(str, objects), "-o", str(made)]]]


def _first_error(commands: list[list[str]]) -> str:
    """Run commands at the same time; return what one that fails says, or nothing. Warnings do not reach the terminal."""
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        told = [process.communicate(timeout=300)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    for process, text in zip(running, told, strict=True):
        if process.returncode:
            lines = text.strip().splitlines() or [f"exit status {process.returncode}"]
            return next((line for line in lines if "error" in line), lines[0])  # a warning may come before it
    return ""


def _sources(unit: str) -> list[Path]:
    return [Path(__file__).with_name(name) for name in UNITS[unit]]
