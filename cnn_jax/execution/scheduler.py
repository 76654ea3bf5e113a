"""Event loop of a sweep: dispatches tasks, collects results, restarts workers, stops in time. No JAX."""

import collections
import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from cnn_jax.aliases import JsonObject
from cnn_jax.errors import UsageError
from cnn_jax.execution import messages
from cnn_jax.execution.messages import Assignment, Event, WorkerConfig
from cnn_jax.execution.outcome import failure
from cnn_jax.execution.progress import Activity, Progress
from cnn_jax.execution.queue import Queue, Task
from cnn_jax.records import store
from cnn_jax.trial import DataConfig, Trial

STOP_SECONDS = 3.5  # for a checkpoint at an interrupt; then workers are killed, which loses the time since their last one
MOST_LANES = 16  # trials of one program on a device of an accelerator; halved when they do not fit
DEATHS = 2  # of workers, before their trials are marked as failed


class Backend(Protocol):
    """Workers of one kind. Each has a number, takes tasks into its slots, and sends events (see `messages`).

    The backend itself sends `Lost` when a worker ended.
    """

    most_lanes: int  # trials of one program

    @property
    def size(self) -> int:
        """Workers that can run at present."""
        ...

    def start(self, number: int) -> None:
        """Start a worker; `Ready` follows."""

    def send(self, number: int, task: Assignment) -> None:
        """Send a task to a worker."""

    def poll(self, seconds: float) -> list[tuple[int, Event]]:
        """Return events with the numbers of their workers, after at most `seconds`."""
        ...

    def release(self, number: int) -> None:
        """Let a worker end: there are no more tasks for it."""

    def shutdown(self, seconds: float) -> None:
        """Let all workers write checkpoints and end; kill those left after `seconds`."""


@dataclasses.dataclass
class _Worker:
    """State of a worker."""

    slots: int = 0  # 0: starting
    parallel: int = 0  # tasks trained at once
    compiling: set[int] = dataclasses.field(default_factory=set)  # slots
    tasks: dict[int, Task] = dataclasses.field(default_factory=dict)  # by slot
    last: dict[int, tuple] = dataclasses.field(default_factory=dict)  # static settings of the last task, by devices
    leaving: bool = False

    def free_slot(self, without: Collection[int]) -> int | None:
        """A slot of the devices with the fewest tasks, none of `without`; None: there is no other."""
        busy = collections.Counter(self.group(slot) for slot in self.tasks)
        free = [slot for slot in range(self.slots) if slot not in self.tasks and slot not in without]
        return min(free, key=lambda slot: (busy[self.group(slot)], slot), default=None)

    def group(self, slot: int) -> int:
        """Number of the devices that a slot is of."""
        return slot % self.parallel


class Scheduler:
    """Runs the tasks of a queue on the workers of a backend."""

    def __init__(
        self, backend: Backend, queue: Queue, config: WorkerConfig, checksums: Mapping[DataConfig, str], progress: Progress
    ):
        """checksums: of every data set in this process; a worker with other data refuses its task."""
        self.backend, self.queue, self.config, self.checksums, self.progress = backend, queue, config, checksums, progress
        self.workers: dict[int, _Worker] = {}
        self.deaths: collections.Counter[str] = collections.Counter()  # by trial; '': of workers that never were ready
        self.stopped = False
        self.writer = store.Writer(config.out)

    def run(self) -> bool:
        """Return when all tasks ended, False, or at an interrupt, True. Raises StoreError if the folder cannot be written."""
        with self._signals():
            try:
                self._start_workers()
                while self.workers and not self.stopped:
                    for number, event in self.backend.poll(0.25):
                        if number in self.workers:
                            self._handle(number, event)
                    self._start_workers()
                    self._dispatch()
                    self.progress.tick(self._activity())
            finally:
                self.backend.shutdown(STOP_SECONDS)
        return self.stopped

    def _activity(self) -> Activity:
        workers = self.workers.values()
        return Activity(
            starting=sum(not worker.slots for worker in workers),
            compiling=sum(len(worker.compiling) for worker in workers),
            parallel=sum(min(worker.parallel, len(worker.tasks)) for worker in workers),
        )

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def handler(*_: object) -> None:
            self.stopped = True

        if threading.current_thread() is not threading.main_thread():  # another thread gets no signals
            yield
            return
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)

    def _start_workers(self) -> None:
        # No more than there are tasks.
        while len(self.queue):
            starting = sum(not worker.slots for worker in self.workers.values())
            if starting >= len(self.queue) or len(self.workers) >= self.backend.size:
                return
            number = next(n for n in range(len(self.workers) + 1) if n not in self.workers)
            self.workers[number] = _Worker()
            self.backend.start(number)

    def _handle(self, number: int, event: Event) -> None:
        worker = self.workers[number]
        match event:
            case messages.Ready(slots, parallel, devices, lane_bytes):
                worker.slots, worker.parallel = slots, parallel
                self.queue.spread(parallel, devices, lane_bytes)
                self.deaths.pop("", None)
            case messages.Compiling(slot):
                worker.compiling.add(slot)
            case messages.Compiled(slot, seconds):
                worker.compiling.discard(slot)
                if task := worker.tasks.get(slot):  # events of a lost task may arrive late from a cluster
                    self.progress.compiled(task.trials[0], seconds)
            case messages.Trained(slot, images, seconds):
                if task := worker.tasks.get(slot):
                    self.progress.trained(task.trials, images, seconds)
            case messages.Finished():
                self.progress.finished(event.trial, event.status, event.reason)
            case messages.Idle(slot, task_seconds, compile_seconds):
                worker.compiling.discard(slot)  # of a program whose compilation failed
                static = worker.tasks.pop(slot).trials[0].static
                self.queue.measured(static, task_seconds, compile_seconds)
            case messages.OutOfMemory(slot):
                task = worker.tasks.pop(slot)
                worker.compiling.discard(slot)
                self.progress.restarted(task.trials)
                self.queue.too_large(task)
            case messages.Checkpointed(slot):
                self.progress.note("a worker was told to stop: its task was requeued, to resume from its checkpoint")
                task = worker.tasks.pop(slot)
                self.progress.restarted(task.trials)
                self.queue.requeue(task)
                worker.leaving = True
            case messages.Broken(reason):
                raise store.StoreError(reason)
            case messages.Lost(how):
                del self.workers[number]
                if not worker.leaving or worker.tasks:
                    self._requeue(worker, how)

    def _dispatch(self) -> None:
        for number, worker in self.workers.items():
            without: set[int] = set()
            while not worker.leaving and (slot := worker.free_slot(without)) is not None:
                if (task := self.queue.next(worker.last.get(worker.group(slot)))) is None:
                    without.add(slot)
                    continue
                worker.tasks[slot], worker.last[worker.group(slot)] = task, task.trials[0].static
                texts = tuple(trial.canonical for trial in task.trials)
                self.backend.send(number, Assignment(slot, texts, task.lanes, self.checksums[task.trials[0].data]))
        if not len(self.queue):
            for number, worker in self.workers.items():
                if not worker.tasks and not worker.leaving:  # ready or not: a cluster may keep a worker waiting for days
                    worker.leaving = True
                    self.backend.release(number)

    def _requeue(self, worker: _Worker, how: str) -> None:
        """Requeue the trials of a worker that died. A trial whose workers died `DEATHS` times is recorded as failed."""
        self.progress.note(f"worker died ({how}): its tasks were requeued")
        if not worker.slots:
            self.deaths[""] += 1
            if self.deaths[""] > DEATHS:
                raise store.StoreError(f"workers die at start-up ({how}): see {self.config.out}/logs")
        recorded = {record["trial"] for record in records(self.config.out) if record["status"] in store.FINISHED}
        for task in worker.tasks.values():
            again: list[Trial] = []
            for trial in task.trials:
                if trial.id in recorded:
                    continue
                self.deaths[trial.id] += 1
                if self.deaths[trial.id] < DEATHS:
                    again.append(trial)
                    continue
                reason = f"its worker died {DEATHS} times, last {how}: see logs/ in the folder"
                record = failure(trial, reason, self.config.provenance)
                self.writer.finish(record)
                self.progress.finished(trial.id, record["status"], reason)
            if again:
                self.progress.restarted(again)
                self.queue.requeue(Task(tuple(again), task.lanes))


def records(out: str | os.PathLike) -> list[JsonObject]:
    """Records of a folder during the run. Raises StoreError if it is a sweep's folder no more."""
    try:
        return store.read(out)
    except UsageError as error:
        raise store.StoreError(f"--out: {out} was changed or removed during the run: {error}") from None
