"""Compilation of the programs of a bucket: settings of XLA, and one compilation per program and machine."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax

from cnn_jax import locks

Options = Mapping[str, str | bool | int]

# For a worker with one core, with convolutions in C: one piece of LLVM code, less optimized. Of nine networks none ran slower;
# ResNet-20 compiles 14 % faster and runs 6 % faster, the chapter's network with gelu 25 % and 26 %.
_CPU: Options = {"xla_cpu_parallel_codegen_split_count": 1, "xla_backend_optimization_level": 1}
# Multiply-accumulates of training, forward only, below which a program is compiled quickly: some seconds of one core.
_SHORT = 1e11
_LOCKS = 64  # files; programs that share one wait for each other


def options_for(macs: float, all_in_c: bool) -> Options:
    """Settings of XLA for a CPU with our C. They depend on the trial alone, as its results do.

    Without its MLIR emitters, XLA's CPU compiler takes half the time and generates slower code. For layers in C that pays off
    in a short training: LeNet-5 compiles in 0.7 s instead of 1.4 s and needs 0.4 ms more for a step of 6.3 ms, the chapter's
    network 0.45 s instead of 1.0 s and no more for a step. For others it does not: ResNet-20 needs 80 ms more for each.

    Args:
      macs: multiply-accumulates of all training steps, forward only.
      all_in_c: whether all layers are in C.
    """
    return {**_CPU, "xla_cpu_use_fusion_emitters": False} if all_in_c and macs < _SHORT else _CPU


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
            return lowered.compile(compiler_options=dict(options))  # type: ignore[arg-type]
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
