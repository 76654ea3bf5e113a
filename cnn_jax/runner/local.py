"""Worker processes on this machine: one per core, each pinned to its own (unpinned thread pools fight over the cores, and a
program on one core is the same whatever runs beside it); on an accelerator one process, which owns all its devices."""

import contextlib
import dataclasses
import glob
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cnn_jax import data, store
from cnn_jax.runner.bench import Orders


class Processes:
    """The staff of this machine."""

    def __init__(self, orders: Orders, workers: int | None):
        self.orders = orders
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        count = len(cores) or os.cpu_count() or 1
        self.size = 1 if accelerator() else min(workers or count, max(1, count // orders.devices))
        if workers and not accelerator() and orders.devices == 1:
            self.size = workers
        # Each worker its own cores; more workers than cores begin again with the first.
        share = min(orders.devices, max(1, count))
        self.cores = [[cores[(n * share + i) % count] for i in range(share)] if cores else [] for n in range(self.size)]
        if accelerator():
            self.cores = [[]]
        out = store.folder(orders.out)
        self.logs = (out if store.is_local(out) else data.cache.root(None)) / "logs"
        self.selector = selectors.DefaultSelector()
        self.workers: dict[int, _Process] = {}
        self.lost: set[int] = set()

    def hire(self, number: int) -> None:
        setup = {"parent": os.getpid(), "cores": self.cores[number], "orders": dataclasses.asdict(self.orders)}
        # A worker may have died of a damaged entry of the compiler's cache: the next one compiles anew.
        environment = _environment(self.orders.devices, cached=number not in self.lost)
        with store.reporting(self.orders.out):
            self.logs.mkdir(parents=True, exist_ok=True)
            worker = _Process(setup, self.logs / f"worker-{number}.log", environment)
        self.workers[number] = worker
        self.selector.register(worker.inbox, selectors.EVENT_READ, number)

    def give(self, number: int, message: dict[str, Any]) -> None:
        self.workers[number].send(message)

    def wait(self, seconds: float) -> list[tuple[int, dict[str, Any]]]:
        events = []
        for key, _ in self.selector.select(timeout=seconds):
            number = key.data
            messages = self.workers[number].receive()
            if messages is None:
                self.selector.unregister(key.fileobj)
                self.lost.add(number)
                messages = [{"event": "lost", "how": self.workers.pop(number).bury(time.monotonic() + 1)}]
            events += [(number, message) for message in messages]
        return events

    def dismiss(self, number: int) -> None:
        self.workers[number].dismiss()

    def stop(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for worker in self.workers.values():
            worker.dismiss()
            worker.process.send_signal(signal.SIGTERM)
        for worker in self.workers.values():
            worker.bury(deadline)
        self.workers.clear()
        self.selector.close()


class _Process:
    """A worker process as its parent sees it."""

    def __init__(self, setup: dict[str, Any], log: Path, environment: dict[str, str]):
        read, write = os.pipe()
        try:
            with open(log, "ab") as file:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "cnn_jax.runner.worker", str(write)],
                    stdin=subprocess.PIPE,
                    stdout=file,
                    stderr=file,
                    pass_fds=[write],
                    env=environment,
                    process_group=0,  # Ctrl-C is for the parent alone to handle
                )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.inbox, self._rest = read, b""
        self.send(setup)

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: the end of its messages says so too
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come; None at their end."""
        chunk = os.read(self.inbox, 1 << 16)
        if not chunk:
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def dismiss(self) -> None:
        """Asks it to go: what it has under way is checkpointed."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def bury(self, deadline: float) -> str:
        """Makes sure that it is gone, by force after the deadline; says how it went."""
        self.dismiss()
        try:
            code = self.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        os.close(self.inbox)
        if code == -signal.SIGKILL:
            return "killed by SIGKILL (by hand, or for want of memory)"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def accelerator() -> bool:
    """Whether JAX will find a GPU or TPU here, without importing it: JAX_PLATFORMS, or a device file and its plugin."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked:
        return asked.split(",")[0] != "cpu"
    files = glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*") + glob.glob("/dev/kfd")
    plugins = importlib.util.find_spec("libtpu") or importlib.util.find_spec("jax_plugins")
    return bool(files and plugins)


def _environment(devices: int, cached: bool) -> dict[str, str]:
    here = str(Path(__file__).resolve().parents[2])
    flags = os.environ.get("XLA_FLAGS", "")
    if devices > 1:  # of CPU: elsewhere it does nothing
        flags += f" --xla_force_host_platform_device_count={devices}"
    return {
        "JAX_COMPILATION_CACHE_DIR": str(data.cache.root(None) / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "XLA_FLAGS": flags,
        **({} if cached else {"JAX_ENABLE_COMPILATION_CACHE": "false"}),
        # A fork's modules are found where the command was given; this package where it lies.
        "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), here, os.environ.get("PYTHONPATH")])),
    }
