"""Worker processes on this machine: one per core, pinned to it; on an accelerator one process, which owns all its devices.

Unpinned thread pools compete for the cores, and the numbers of a program on one core do not depend on other processes.
"""

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
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from cnn_jax import cache_folder, plugins
from cnn_jax.aliases import JsonObject
from cnn_jax.execution import cores
from cnn_jax.execution.messages import Assignment, Event, Lost, WorkerConfig
from cnn_jax.execution.scheduler import MOST_LANES
from cnn_jax.ops import native
from cnn_jax.records import store


def warm_up(units: Iterable[str]) -> None:
    """Compile libraries of `ops.native` at the same time, in threads, if workers will need them."""
    for unit in () if accelerator() else units:
        threading.Thread(target=native.library, args=[unit], daemon=True).start()


class LocalBackend:
    """Worker processes on this machine.

    Each worker has its own cores. Without `workers`, cores held by another run are left alone until that run ends, unless all
    are held when this run begins: then they are shared. With `workers`, a worker for which no core is free shares one.
    """

    def __init__(self, config: WorkerConfig, workers: int | None):
        self.config = config
        on_accelerator = accelerator()
        self.most_lanes = MOST_LANES if on_accelerator and config.devices * config.hosts == 1 else 1
        count = len(cores.allowed()) or os.cpu_count() or 1
        self.share = min(config.devices, count)
        self.most = 1 if on_accelerator or config.hosts > 1 else min(workers or count, count // self.share)
        self.pinned = bool(cores.allowed()) and not on_accelerator
        self.shared, self.claims = workers is not None, cores.Claims()
        self.cores: dict[int, list[int]] = {}  # of each worker; empty: it is not pinned
        self.spare: list[list[int]] = []  # of the next worker
        out = store.folder(config.out)
        ours = store.is_local(out) and config.host == 0
        self.logs = (out if ours else cache_folder.cache_folder()) / "logs"
        self.selector = selectors.DefaultSelector()
        self.workers: dict[int, _Process] = {}
        self.lost: set[int] = set()

    @property
    def size(self) -> int:
        """Number of workers that can run now: those that are running, and one more if cores are free."""
        if not self.spare and len(self.workers) < self.most:
            mine = self.claims.take(self.share, shared=self.shared) if self.pinned else []
            if self.pinned and not mine and not self.workers:
                self.shared = True
                mine = self.claims.take(self.share, shared=True)
            self.spare += [mine] if mine or not self.pinned else []
        return len(self.workers) + len(self.spare)

    def start(self, number: int) -> None:
        self.cores[number] = self.spare.pop() if self.size > len(self.workers) else []
        setup = {"parent": os.getpid(), "cores": self.cores[number], "config": dataclasses.asdict(self.config)}
        # A damaged entry in the compilation cache may have killed the worker: the next one runs without the cache.
        fresh = {"JAX_ENABLE_COMPILATION_CACHE": "false"} if number in self.lost else {}
        with store.reporting(self.config.out):
            self.logs.mkdir(parents=True, exist_ok=True)
            worker = _Process(setup, self.logs / f"worker-{number}.log", fresh)
        self.workers[number] = worker
        self.selector.register(worker.inbox, selectors.EVENT_READ, number)

    def send(self, number: int, task: Assignment) -> None:
        self.workers[number].send(dataclasses.asdict(task))

    def poll(self, seconds: float) -> list[tuple[int, Event]]:
        events: list[tuple[int, Event]] = []
        for key, _ in self.selector.select(timeout=seconds):
            number = key.data
            received = self.workers[number].receive()
            if received is None:
                self.selector.unregister(key.fileobj)
                self.lost.add(number)
                received = [Lost(self.workers.pop(number).end(time.monotonic() + 1))]
                self.claims.release(self.cores.pop(number))
            events += [(number, event) for event in received]
        return events

    def release(self, number: int) -> None:
        self.workers[number].release()

    def shutdown(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for worker in self.workers.values():
            worker.release()
            worker.process.send_signal(signal.SIGTERM)
        for worker in self.workers.values():
            worker.end(deadline)
        self.workers.clear()
        self.selector.close()
        for mine in (*self.cores.values(), *self.spare):
            self.claims.release(mine)


class _Process:
    """A worker process and its pipes."""

    def __init__(self, setup: JsonObject, log: Path, extra: dict[str, str]):
        read, write = os.pipe()
        try:
            with open(log, "ab") as file:
                self.process = subprocess.Popen(
                    python("cnn_jax.execution.worker", str(write)),
                    stdin=subprocess.PIPE,
                    stdout=file,
                    stderr=file,
                    pass_fds=[write],
                    env={**os.environ, **environment(setup["config"]["devices"]), **extra},
                    process_group=0,  # only the parent handles Ctrl-C
                )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.inbox, self._rest = read, b""
        self.send(setup)

    def send(self, message: JsonObject) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: its output ends
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def receive(self) -> "list[Event] | None":
        """Return the events received; None at the end of its output."""
        chunk = os.read(self.inbox, 1 << 16)
        if not chunk:
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [Event.from_json(json.loads(line)) for line in lines]

    def release(self) -> None:
        """Close its input: it writes checkpoints of its tasks and ends."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def end(self, deadline: float) -> str:
        """Wait for its end, kill it after the deadline, and return how it ended."""
        self.release()
        try:
            code = self.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        os.close(self.inbox)
        if code == -signal.SIGKILL:
            return "killed by SIGKILL (by a user, or by the system when out of memory)"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def accelerator() -> bool:
    """Whether JAX will find a GPU or TPU, without importing it: by JAX_PLATFORMS, or a device file and a plugin."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked:
        return asked.split(",")[0] != "cpu"
    files = glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*") + glob.glob("/dev/kfd")
    plugins = importlib.util.find_spec("libtpu") or importlib.util.find_spec("jax_plugins")
    return bool(files and plugins)


DETERMINISTIC = "--xla_gpu_deterministic_ops"

# Settings of JAX that change results but are not recorded: workers use JAX's defaults.
PINNED = {
    "JAX_ENABLE_X64": "0",
    "JAX_NUMPY_DTYPE_PROMOTION": "standard",
    "JAX_NUMPY_RANK_PROMOTION": "allow",
    "JAX_DEFAULT_PRNG_IMPL": "threefry2x32",
    "JAX_RANDOM_SEED_OFFSET": "0",
    "JAX_DISABLE_JIT": "0",
}


def overridden() -> list[str]:
    """The variables of `PINNED` that the user has set to another value."""
    no = ("", "0", "n", "no", "f", "false", "off")
    found = {name: os.environ.get(name, value) for name, value in PINNED.items()}
    return [f"{name}={v}" for name, v in found.items() if v != PINNED[name] and not (PINNED[name] == "0" and v.lower() in no)]


def environment(devices: int) -> dict[str, str]:
    """Variables of a worker's environment beyond those of this process: cache of compiled programs, flags of XLA."""
    defaults = {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    # The widest vectors of the processor: a sweep of small networks runs 15 to 30 % faster. Deterministic operations: the same
    # command gives the same numbers on a GPU. The user's own flags come last, and win.
    xla = f"--xla_cpu_prefer_vector_width=512 {DETERMINISTIC}=true {os.environ.get('XLA_FLAGS', '')}"
    if devices > 1:  # CPU devices; no effect on other platforms
        xla += f" --xla_force_host_platform_device_count={devices}"
    # Large pages: a deep network allocates its activations anew in every chunk of steps. The user's own settings come last.
    pages = ":".join(filter(None, ["glibc.malloc.hugetlb=1", os.environ.get("GLIBC_TUNABLES")]))
    mine = ("CNN_JAX_CACHE", "CNN_JAX_NATIVE", "CNN_JAX_CFLAGS", "CC", "TFDS_DATA_DIR", "JAX_PLATFORMS")
    found = {name: os.environ.get(name, default) for name, default in defaults.items()}
    found |= {name: os.environ[name] for name in mine if name in os.environ}
    found["JAX_COMPILATION_CACHE_DIR"] = _programs_folder()
    found |= {"XLA_FLAGS": xla, "GLIBC_TUNABLES": pages} | PINNED
    return found


def python(module: str, argument: str) -> list[str]:
    """The command that runs `main()` of a module of this package, with one argument and this process's search path.

    PYTHONPATH and `python -m` would put folders before the standard library: a queue.py of the user would shadow Python's.
    """
    plugins.search_current_folder()
    start = f"import sys; sys.path[:] = sys.argv[2:]; from {module} import main; main()"
    return [sys.executable, "-P", "-c", start, argument, *filter(None, sys.path)]


def _programs_folder() -> str:
    """Return where JAX keeps compiled programs: $JAX_COMPILATION_CACHE_DIR or the cache, with the same check of both."""
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen and "://" in chosen:
        return chosen
    folder = cache_folder.checked(Path(chosen).absolute()) if chosen else cache_folder.cache_folder() / "xla"
    with contextlib.suppress(OSError):  # JAX works without a cache
        cache_folder.create(folder)
    return str(folder)
