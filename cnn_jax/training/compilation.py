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
    """Settings of XLA for a network whose layers are all in C. A function of the trial alone, so that its numbers are too.

    Without its MLIR emitters XLA's CPU compiler takes half the time, 0.8 s in place of 1.4, and its own code runs slower. That
    is worth it for a short training: 0 to 9 % of its time.

    Args:
      macs: multiply-accumulates of all training steps, forward only.
    """
    return {"xla_cpu_use_fusion_emitters": False} if macs < _SHORT else {}


def compile_once(programs: Mapping[str, jax.stages.Lowered], options: Options, name: str) -> dict[str, Callable]:
    """Compile programs, each in one process of this machine at a time; the others load it from JAX's cache on disk.

    A process compiles the programs that no other is compiling, before it waits for those.

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
    """Compile with those options, or without them under an XLA that does not know them."""
    if options:
        with contextlib.suppress(RuntimeError):
            return lowered.compile(compiler_options=dict(options))
    return lowered.compile()


@contextlib.contextmanager
def _locked(name: str, wait: bool) -> Iterator[bool]:
    """Lock a program. Yields False if another holds it and `wait` is False; True also where nothing can be locked.

    No process holds two locks, so none waits for itself or in a circle.
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
    """The folder in which JAX keeps compiled programs; None if it keeps none, or not in a folder of this machine."""
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not folder or "://" in folder or not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    return Path(folder)
