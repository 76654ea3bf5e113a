"""Runs trials on the machine's devices: buckets -> workers -> store. This process never imports JAX.

On CPU one worker process per core, each pinned to its own (unpinned thread pools fight over the cores, and a program on one
core is the same whatever runs beside it); on an accelerator one process, which owns all its devices.
"""

import collections
import contextlib
import dataclasses
import datetime
import glob
import importlib.metadata
import importlib.util
import json
import os
import platform
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cnn_jax import data, store
from cnn_jax.config import Trial
from cnn_jax.runner.progress import Progress
from cnn_jax.runner.queue import Queue, Task
from cnn_jax.runner.worker import failure

STOP_SECONDS = 4.0  # for a checkpoint when interrupted; then a worker is killed, which loses only the time since its last one
DEATHS = 2  # of workers, before their trials are marked as failed
MOST_LANES = 16  # trials side by side on an accelerator; halved when they do not fit


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a sweep ended. `counts`: records by status, of the trials asked for; `problems`: a line per trial that failed."""

    counts: dict[str, int]
    ran: int
    problems: list[str]
    interrupted: bool = False
    broken: str | None = None


def run(
    trials: Sequence[Trial], out: Path, *, command: str, cost: Any, workers: int | None, keep_params: bool = True,
    checkpoint_seconds: float = 120.0, progress: Progress,
) -> Outcome:  # fmt: skip
    """Trains what `out` does not have yet of `trials`, and returns when every trial is recorded or the run is interrupted.

    cost: trial -> work, in any unit (the costliest start first). workers: processes at most; None: one per core, or one
    for all accelerators. The data must have been prepared. Raises UsageError if another process holds `out`, and StoreError if it cannot be written.
    """
    with store.locked(out):
        store.begin(out, command, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), trials)
        known = {record["trial"]: record["status"] for record in store.read(out)}
        missing = [trial for trial in trials if known.get(trial.id) not in store.FINISHED]
        outcome = None
        if missing:
            crew = _Crew(trials, missing, out, command, cost, workers, keep_params, checkpoint_seconds, progress)
            outcome = crew.work()
        return _outcome(trials, missing, out, outcome)


def _outcome(trials: Sequence[Trial], missing: Sequence[Trial], out: Path, crew: "_Crew | None") -> Outcome:
    records = {record["trial"]: record for record in store.read(out)}
    mine = [records[trial.id] for trial in trials if trial.id in records]
    counts = collections.Counter(record["status"] for record in mine)
    problems = [f"{r['trial']} {r['status']}: {r['reason']}" for r in mine if r["status"] != "done"]
    ran = sum(trial.id in records for trial in missing)
    return Outcome(dict(counts), ran, problems, bool(crew and crew.stopped_by), crew.broken if crew else None)


def accelerator() -> bool:
    """Whether JAX will find a GPU or TPU here, without importing it: JAX_PLATFORMS, or a device file and its plugin."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked:
        return asked.split(",")[0] != "cpu"
    files = glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*") + glob.glob("/dev/kfd")
    plugins = importlib.util.find_spec("libtpu") or importlib.util.find_spec("jax_plugins")
    return bool(files and plugins)


def provenance(command: str) -> dict[str, Any]:
    """What a record says of its making: command, code version, package versions."""
    packages = ("cnn_jax", "jax", "jaxlib", "flax", "optax", "numpy")
    versions = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"command": command, "versions": versions, "code": _code_version(), "host": platform.node()}


def _code_version() -> dict[str, Any]:
    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(Path(__file__).parent), *args], capture_output=True, text=True, timeout=5, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


# ------------------------------------------------------------------------------------------------------------ processes


class _Worker:
    """A worker process as this one sees it."""

    def __init__(self, number: int, core: int | None, out: Path, setup: dict[str, Any]):
        self.number, self.core = number, core
        self.tasks: dict[int, Task] = {}
        self.last: tuple | None = None
        self.slots = 0
        read, write = os.pipe()
        (out / "logs").mkdir(exist_ok=True)
        with open(out / "logs" / f"worker-{number}.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cnn_jax.runner.worker", str(write)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[write],
                env=_environment(),
                process_group=0,  # Ctrl-C is for this process alone to handle
            )
        os.close(write)
        self.inbox, self._rest = read, b""
        self.send({**setup, "core": core})

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

    def give(self, task: Task) -> None:
        slot = next(slot for slot in range(self.slots) if slot not in self.tasks)
        self.tasks[slot] = task
        self.last = task.trials[0].static
        self.send({"slot": slot, "trials": [trial.canonical for trial in task.trials], "lanes": task.lanes})

    def dismiss(self) -> None:
        """Asks it to go: what it has under way is checkpointed."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def bury(self) -> str:
        """Makes sure that it is gone; says how it went."""
        self.dismiss()
        try:
            code = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        os.close(self.inbox)
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _environment() -> dict[str, str]:
    cache = data.cache.root(None) / "xla"
    here = str(Path(__file__).resolve().parents[2])
    return {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        # A fork's modules are found where the command was given; this package where it lies.
        "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), here, os.environ.get("PYTHONPATH")])),
    }


class _Crew:
    """The event loop over the workers: gives out tasks, replaces the dead, listens for Ctrl-C."""

    def __init__(
        self, planned: Sequence[Trial], missing: Sequence[Trial], out: Path, command: str, cost: Any, workers: int | None, keep_params: bool,
        checkpoint_seconds: float, progress: Progress,
    ):  # fmt: skip
        on_accelerator = accelerator()
        self.out, self.progress, self.missing = out, progress, missing
        self.queue = Queue(planned, missing, cost, MOST_LANES if on_accelerator else 1)
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None] * (os.cpu_count() or 1)
        if on_accelerator:
            self.cores: list[int | None] = [None]
        else:
            self.cores = [cores[i % len(cores)] for i in range(min(workers or len(cores), len(missing)))]
        self.provenance = provenance(command)
        self.setup = {
            "out": str(out),
            "keep_params": keep_params,
            "checkpoint_seconds": checkpoint_seconds,
            "provenance": self.provenance,
        }
        self.selector = selectors.DefaultSelector()
        self.workers: dict[int, _Worker] = {}
        self.deaths: collections.Counter[str] = collections.Counter()
        self.stopped_by: int | None = None
        self.broken: str | None = None
        self.writer = store.Writer(out)

    def work(self) -> "_Crew":
        with self._signals(), self.progress.running(self.missing):
            for number, core in enumerate(self.cores):
                self._hire(number, core)
            try:
                while self.workers and not self.stopped_by and not self.broken:
                    for key, _ in self.selector.select(timeout=0.25):
                        self._hear(key.data)
                    self.progress.tick()
            finally:
                self._dismiss_all()
        return self

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def handler(number: int, _: Any) -> None:
            self.stopped_by = number

        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)

    def _hire(self, number: int, core: int | None) -> None:
        worker = _Worker(number, core, self.out, self.setup)
        self.workers[number] = worker
        self.selector.register(worker.inbox, selectors.EVENT_READ, worker)

    def _hear(self, worker: _Worker) -> None:
        messages = worker.receive()
        if messages is None:
            self._lost(worker)
            return
        for message in messages:
            slot = message.get("slot")
            match message["event"]:
                case "ready":
                    worker.slots = message["slots"]
                case "images":
                    self.progress.images(message["count"])
                case "finished":
                    self.progress.finished(message)
                case "free":
                    static = worker.tasks.pop(slot).trials[0].static
                    self.queue.measured(static, message["task_seconds"], message["compile_seconds"])
                case "memory":
                    task = worker.tasks.pop(slot)
                    half = (len(task.trials) + 1) // 2
                    for part in (task.trials[half:], task.trials[:half]):
                        if part:
                            self.queue.give_back(Task(part, max(1, task.lanes // 2)))
                case "broken":
                    self.broken = message["reason"]
        self._employ()

    def _employ(self) -> None:
        for worker in list(self.workers.values()):
            while len(worker.tasks) < worker.slots and (task := self.queue.next(worker.last)):
                worker.give(task)
        if not len(self.queue):
            for worker in self.workers.values():
                if worker.slots and not worker.tasks:
                    worker.dismiss()

    def _lost(self, worker: _Worker) -> None:
        self.selector.unregister(worker.inbox)
        del self.workers[worker.number]
        how = worker.bury()
        if not worker.tasks and how == "exit status 0":
            return
        for task in worker.tasks.values():
            recorded = {record["trial"] for record in store.read(self.out) if record["status"] in store.FINISHED}
            left = tuple(trial for trial in task.trials if trial.id not in recorded)
            for trial in left:
                self.deaths[trial.id] += 1
            hopeless = [trial for trial in left if self.deaths[trial.id] >= DEATHS]
            for trial in hopeless:
                record = failure(trial, f"its worker died {DEATHS} times, at last {how}: see logs/ in the folder", self.provenance)
                self.writer.finish(record)
                self.progress.finished(record)
            if again := tuple(trial for trial in left if trial not in hopeless):
                self.queue.give_back(Task(again, task.lanes))
        if not worker.slots:
            self.deaths["start"] += 1
            if self.deaths["start"] > DEATHS:
                self.broken = f"workers die before they begin ({how}): see {self.out / 'logs'}"
                return
        if len(self.queue):
            self._hire(worker.number, worker.core)

    def _dismiss_all(self) -> None:
        workers = list(self.workers.values())
        for worker in workers:
            worker.dismiss()
            worker.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(timeout=max(0.0, deadline - time.monotonic()))
            worker.bury()
        self.workers.clear()
