"""Compilation of the programs of a bucket: settings of XLA, and one compilation per program and machine."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax

from cnn_jax import locks

Options = Mapping[str, str | bool]

# Multiply-accumulates of training, forward only, below which a program is compiled quickly: some seconds of one core.
_SHORT = 1e11
_LOCKS = 64  # files; programs that share one wait for each other


def options_for(macs: float) -> Options:
    """Settings of XLA for a network whose layers are all in C. They depend on the trial alone, as its results do.

    Without its MLIR emitters, XLA's CPU compiler takes half the time, 0.8 s instead of 1.4 s, and generates slower code. That
    pays off in a short training, by 0 to 9 % of its time.

    Args:
      macs: multiply-accumulates of all training steps, forward only.
    """
    return {"xla_cpu_use_fusion_emitters": False} if macs < _SHORT else {}


def compile_once(programs: Mapping[str, jax.stages.Lowered], options: Options, name: str) -> dict[str, Callable]:
    """Compile each program in one process per machine at a time; the others load it from JAX's cache on disk.

    A process first compiles the programs that no other process is compiling, then waits for the rest.

    Args:
      programs: by their part in the bucket, most important first.
      options: settings of XLA.
      name: of the bucket, the same in every process.
    """
    compiled: dict[str, Callable] = {}
    for wait in (False, True):
        for part in [part for part in programs if part not in compiled]:
            with _locked(f"{name} {part}", wait) as free:
                if free:
                    compiled[part] = _compile(programs[part], options)
    return compiled


def _compile(lowered: jax.stages.Lowered, options: Options) -> Callable:
    """Compile with these options, or without them if this version of XLA does not know them."""
    if options:
        with contextlib.suppress(RuntimeError):
            return lowered.compile(compiler_options=dict(options))
    return lowered.compile()


@contextlib.contextmanager
def _locked(name: str, wait: bool) -> Iterator[bool]:
    """Lock a program. Yields False if another holds it and `wait` is False; True also where files cannot be locked.

    No process holds two locks, so there are no deadlocks.
    """
    folder = _cache_folder()
    if folder is None:
        yield True
        return
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16) % _LOCKS
    try:
        file = locks.acquire(folder / f"compiling-{number}.lock", wait=wait)
    except OSError:
        yield True
        return
    with file or contextlib.nullcontext():
        yield file is not None


def _cache_folder() -> Path | None:
    """Folder of JAX's compilation cache; None if there is no cache, or it is not in a folder of this machine."""
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not folder or "://" in folder or not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    return Path(folder)
