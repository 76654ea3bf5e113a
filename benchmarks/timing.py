"""Time and memory of a contender's processes from start to end."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contenders import ROOT, Contender, Found


@dataclasses.dataclass(frozen=True)
class Run(Found):
    """One process from start to end; the rest of `seconds` is imports, images, evaluation and reports."""

    _: dataclasses.KW_ONLY
    seconds: float
    memory: int | None  # bytes; None without /proc


def inherited() -> dict[str, str]:
    """Return this process's environment without a compilation cache, which would change the second round."""
    return {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}


def time_run(contender: Contender, timeout: float | None = None) -> Run:
    """Run a contender once. Raises RuntimeError with the end of its errors on failure or after `timeout` seconds."""
    contender.ready()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            contender.command,
            env={**inherited(), **contender.environment},
            cwd=ROOT,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        with peak_memory(process.pid) as peak:
            try:
                status = process.wait(timeout)
            except BaseException as error:
                end(process)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise RuntimeError(f"{contender.name} was stopped after {timeout:.0f} s") from None
                raise
        seconds = time.perf_counter() - began
        output.seek(0), errors.seek(0)
        if status:
            raise RuntimeError(f"{contender.name} failed with status {status}: {errors.read()[-2000:]}")
        found = contender.read(output.read())
    return Run(**dataclasses.asdict(found), seconds=seconds, memory=max(peak) or None)


def end(process: subprocess.Popen, grace: float = 5.0) -> None:
    """Terminate a process that leads a session, and after `grace` seconds kill the session's process group."""
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def peak_memory(session: int, interval: float = 2.0) -> Iterator[list[int]]:
    """Sample the resident bytes of all processes of a session, with shared pages counted once (Linux's PSS)."""
    samples, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(interval):
            samples.append(sum(map(_proportional_set, _members(session))))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def _members(session: int) -> Iterator[Path]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # "PID (NAME) STATE PARENT GROUP SESSION ..."; the name may have any character
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                yield process


def _proportional_set(process: Path) -> int:
    with contextlib.suppress(OSError):
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0
