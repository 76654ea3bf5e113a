"""Buckets of trials -> tasks, and the next task of a worker. No processes and no JAX."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from cnn_jax import sweep
from cnn_jax.trial import Trial


@dataclasses.dataclass(frozen=True)
class Task:
    """Trials of one program of `lanes` lanes; with fewer trials than lanes, some lanes are idle."""

    trials: tuple[Trial, ...]
    lanes: int


def devices_per_program(devices: int, programs: int, trials: int) -> int:
    """How many devices divide the lanes of a program, so that all are used and few programs are compiled for several.

    Args:
      devices: of a worker.
      programs: of the sweep.
      trials: of each program, at least.
    """
    most = max(1, min(devices // max(1, programs), trials))
    return max(count for count in range(1, most + 1) if devices % count == 0)


class Queue:
    """Pending tasks, ordered so that few programs are compiled twice and the last worker ends early.

    A worker stays with its bucket; then it takes the costliest bucket without a worker; then a task of the bucket with the
    most work left, if that work takes longer than another compilation of its program.
    """

    def __init__(
        self,
        planned: Iterable[Trial],
        missing: Iterable[Trial],
        cost: Callable[[Trial], float],
        most_lanes: int,
        lane_bytes: Callable[[Trial], int] = lambda _: 0,
    ):
        """Divide the trials into tasks.

        Lanes follow from the *planned* size of a bucket, so that the program of a trial does not depend on finished trials.

        Args:
          planned: all trials of the sweep.
          missing: those without a record.
          cost: of a trial, in any unit.
          most_lanes: trials of one program on a device, at most.
          lane_bytes: what a training step of a trial works on.
        """
        planned = list(planned)
        self._bytes = {bucket.static: lane_bytes(bucket.trials[0]) for bucket in sweep.buckets(planned)}
        self._most = most_lanes
        self._planned = {bucket.static: len(bucket.trials) for bucket in sweep.buckets(planned)}
        self._devices = 1
        self._spread: tuple[int, int, int | None] = (1, 1, None)
        self._lanes = {static: min(most_lanes, count) for static, count in self._planned.items()}
        self._pending: dict[tuple, list[Task]] = {}
        for bucket in sweep.buckets(missing):
            self._pending[bucket.static] = self._tasks(bucket.trials)
        self._cost = {static: cost(tasks[0].trials[0]) for static, tasks in self._pending.items()}
        self._begun: set[tuple] = set()
        self._task_seconds: dict[tuple, float] = {}
        self._compile_seconds = 1.5

    def _tasks(self, trials: Sequence[Trial]) -> list[Task]:
        """Trials of a bucket, divided into tasks."""
        lanes = self._lanes[trials[0].static]
        return [Task(tuple(trials[i : i + lanes]), lanes) for i in range(0, len(trials), lanes)]

    def spread(self, parallel: int, devices: int, lane_bytes: int | None = None) -> None:
        """Divide pending trials anew, to keep a worker busy.

        Args:
          parallel: tasks that it trains at once.
          devices: of each task.
          lane_bytes: what the lanes of a device should work on at most; None: it does not matter.
        """
        if (parallel, devices, lane_bytes) == self._spread:
            return
        self._spread, self._devices = (parallel, devices, lane_bytes), devices
        parts = -(-parallel // len(self._planned))  # tasks of a bucket at once
        for static, count in self._planned.items():
            most = self._most if lane_bytes is None else min(self._most, max(1, lane_bytes // max(1, self._bytes[static])))
            self._lanes[static] = devices * min(most, -(-count // (devices * parts)))
        self._pending = {static: self._tasks(_trials(tasks)) for static, tasks in self._pending.items()}

    def too_large(self, task: Task) -> None:
        """Put back a task that did not fit in the memory of its devices; its bucket's tasks get half of the lanes."""
        static = task.trials[0].static
        half = max(1, task.lanes // self._devices // 2) * self._devices
        self._lanes[static] = min(self._lanes[static], half)
        self.requeue(task)
        self._pending[static] = self._tasks(_trials(self._pending[static]))

    def __len__(self) -> int:
        """Number of pending trials."""
        return sum(len(task.trials) for tasks in self._pending.values() for task in tasks)

    def next(self, current: tuple | None) -> Task | None:
        """Return the next task for a worker whose last task had the static settings `current`; None: no task is worth it."""
        static = self._choose(current)
        if static is None:
            return None
        self._begun.add(static)
        tasks = self._pending[static]
        task = tasks.pop(0)
        if not tasks:
            del self._pending[static]
        return task

    def _choose(self, current: tuple | None) -> tuple | None:
        if current in self._pending:
            return current

        def left(static: tuple) -> float:
            return self._cost[static] * len(self._pending[static])

        untouched = [static for static in self._pending if static not in self._begun]
        if untouched:
            return max(untouched, key=left)
        worth = [
            static
            for static, tasks in self._pending.items()
            if self._task_seconds.get(static, float("inf")) * len(tasks) > self._compile_seconds
        ]
        return max(worth, key=left, default=None)

    def requeue(self, task: Task) -> None:
        """Put back a task whose worker died or was stopped."""
        static = task.trials[0].static
        self._pending.setdefault(static, []).insert(0, task)
        self._begun.discard(static)
        self._task_seconds.pop(static, None)

    def measured(self, static: tuple, task_seconds: float, compile_seconds: float) -> None:
        """Note the measured times of a task of a bucket."""
        self._task_seconds[static] = task_seconds
        if compile_seconds:
            self._compile_seconds = compile_seconds


def _trials(tasks: Iterable[Task]) -> list[Trial]:
    return [trial for task in tasks for trial in task.trials]
