"""The event loop of a sweep: gives out tasks, hears what became of them, replaces the dead, stops in time. No JAX."""

import collections
import contextlib
import dataclasses
import signal
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from cnn_jax.errors import UsageError
from cnn_jax.execution.messages import WorkerConfig
from cnn_jax.execution.outcome import failure
from cnn_jax.execution.progress import Activity, Progress
from cnn_jax.execution.queue import Queue, Task
from cnn_jax.records import store
from cnn_jax.trial import DataConfig, Trial

STOP_SECONDS = 3.5  # for a checkpoint when interrupted; then a worker is killed, which loses only the time since its last one
MOST_LANES = 16  # trials side by side on an accelerator; halved when they do not fit
DEATHS = 2  # of workers, before their trials are marked as failed


class Staff(Protocol):
    """Workers, wherever they are: each has a number, takes tasks into its slots, and sends the events that `worker` lists.

    One event more comes from the staff itself: {"event": "lost", "how"}, the worker is gone, with all its tasks.
    """

    most_lanes: int  # trials side by side in a task

    @property
    def size(self) -> int:
        """Workers to be had at present."""
        ...

    def hire(self, number: int) -> None:
        """Starts a worker; it says "ready" when it is."""

    def give(self, number: int, message: dict[str, Any]) -> None:
        """Sends a task: {"slot", "trials", "lanes", "checksum"}."""

    def wait(self, seconds: float) -> list[tuple[int, dict[str, Any]]]:
        """Events with their senders, after at most so long."""
        ...

    def dismiss(self, number: int) -> None:
        """There is nothing more to do for it."""

    def stop(self, seconds: float) -> None:
        """Lets all checkpoint and go; whoever is left after so long is killed."""


@dataclasses.dataclass
class _Desk:
    """A worker as the crew sees it."""

    slots: int = 0
    parallel: int = 0  # tasks that it trains at once
    compiling: set[int] = dataclasses.field(default_factory=set)  # slots
    tasks: dict[int, Task] = dataclasses.field(default_factory=dict)
    last: tuple | None = None
    leaving: bool = False


class Crew:
    """Works through a queue with a staff."""

    def __init__(
        self, staff: Staff, queue: Queue, config: WorkerConfig, checksums: Mapping[DataConfig, str], progress: Progress
    ):
        """checksums: of every data set as the parent has it; a worker that finds other data refuses its task."""
        self.staff, self.queue, self.config, self.checksums, self.progress = staff, queue, config, checksums, progress
        self.desks: dict[int, _Desk] = {}
        self.deaths: collections.Counter[str] = collections.Counter()
        self.stopped = False
        self.writer = store.Writer(config.out)

    def work(self) -> bool:
        """Returns when all is done, or when it was interrupted: True. Raises StoreError if the folder cannot be written."""
        with self._signals():
            try:
                self._hire()
                while self.desks and not self.stopped:
                    for number, message in self.staff.wait(0.25):
                        if number in self.desks:
                            self._hear(number, message)
                    self._hire()
                    self._employ()
                    self.progress.tick(self._activity())
            finally:
                self.staff.stop(STOP_SECONDS)
        return self.stopped

    def _activity(self) -> Activity:
        desks = self.desks.values()
        return Activity(
            starting=sum(not desk.slots for desk in desks),
            compiling=sum(len(desk.compiling) for desk in desks),
            parallel=sum(min(desk.parallel, len(desk.tasks)) for desk in desks),
        )

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def handler(*_: Any) -> None:
            self.stopped = True

        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)

    def _hire(self) -> None:
        # Not more than there are tasks; of those at work, some will take what is left.
        while len(self.queue):
            starting = sum(not desk.slots for desk in self.desks.values())
            if starting >= len(self.queue) or len(self.desks) >= self.staff.size:
                return
            number = next(n for n in range(len(self.desks) + 1) if n not in self.desks)
            self.desks[number] = _Desk()
            self.staff.hire(number)

    def _hear(self, number: int, message: Mapping[str, Any]) -> None:
        desk = self.desks[number]
        match message["event"]:
            case "ready":
                desk.slots, desk.parallel = message["slots"], message["parallel"]
                self.deaths.pop("", None)  # of workers that never began: only many in a row are a reason to give up
            case "compiling":
                desk.compiling.add(message["slot"])
            case "compiled":
                desk.compiling.discard(message["slot"])
                if task := desk.tasks.get(message["slot"]):  # news of a lost task may come late, from a cluster
                    self.progress.compiled(task.trials[0], message["seconds"])
            case "images":
                if task := desk.tasks.get(message["slot"]):
                    self.progress.trained(task.trials, message["count"], message["seconds"])
            case "finished":
                self.progress.finished(message)
            case "free":
                desk.compiling.discard(message["slot"])  # it may have failed there
                static = desk.tasks.pop(message["slot"]).trials[0].static
                self.queue.measured(static, message["task_seconds"], message["compile_seconds"])
            case "memory":
                task = desk.tasks.pop(message["slot"])
                desk.compiling.discard(message["slot"])
                self.progress.restarted(task.trials)
                half = (len(task.trials) + 1) // 2
                for part in (task.trials[half:], task.trials[:half]):
                    if part:
                        self.queue.give_back(Task(part, max(1, task.lanes // 2)))
            case "kept":
                self.progress.note("a worker was told to go: another goes on with what it had")
                task = desk.tasks.pop(message["slot"])
                self.progress.restarted(task.trials)
                self.queue.give_back(task)
                desk.leaving = True
            case "broken":
                raise store.StoreError(message["reason"])
            case "lost":
                del self.desks[number]
                if not desk.leaving or desk.tasks:
                    self._mourn(desk, message["how"])

    def _employ(self) -> None:
        for number, desk in self.desks.items():
            while not desk.leaving and len(desk.tasks) < desk.slots and (task := self.queue.next(desk.last)):
                slot = next(slot for slot in range(desk.slots) if slot not in desk.tasks)
                desk.tasks[slot], desk.last = task, task.trials[0].static
                texts = [trial.canonical for trial in task.trials]
                checksum = self.checksums[task.trials[0].data]
                self.staff.give(number, {"slot": slot, "trials": texts, "lanes": task.lanes, "checksum": checksum})
        if not len(self.queue):
            for number, desk in self.desks.items():
                if not desk.tasks and not desk.leaving:  # ready or not: a cluster may let them wait for days
                    desk.leaving = True
                    self.staff.dismiss(number)

    def _mourn(self, desk: _Desk, how: str) -> None:
        """Gives a dead worker's trials to others, but not for ever: a trial that kills its workers has failed."""
        self.progress.note(f"a worker was lost ({how}): what it had goes to another")
        if not desk.slots:
            self.deaths[""] += 1
            if self.deaths[""] > DEATHS:
                raise store.StoreError(f"workers die before they begin ({how}): see {self.config.out}/logs")
        recorded = {record["trial"] for record in records(self.config.out) if record["status"] in store.FINISHED}
        for task in desk.tasks.values():
            again: list[Trial] = []
            for trial in task.trials:
                if trial.id in recorded:
                    continue
                self.deaths[trial.id] += 1
                if self.deaths[trial.id] < DEATHS:
                    again.append(trial)
                    continue
                reason = f"its worker died {DEATHS} times, at last {how}: see logs/ in the folder"
                record = failure(trial, reason, self.config.provenance)
                self.writer.finish(record)
                self.progress.finished(record)
            if again:
                self.progress.restarted(again)
                self.queue.give_back(Task(tuple(again), task.lanes))


def finished(slot: int, record: Mapping[str, Any]) -> dict[str, Any]:
    """The event that a trial has its record: what is shown of it."""
    shown = ("trial", "status", "reason", "val_accuracy", "test_accuracy")
    return {"event": "finished", "slot": slot, **{name: record[name] for name in shown}}


def records(out: Any) -> list[dict[str, Any]]:
    """The records of a folder that we are writing into: that it holds none of ours any more is a fault, not bad usage."""
    try:
        return store.read(out)
    except UsageError as error:
        raise store.StoreError(f"--out: {out} was changed or removed during the run: {error}") from None
