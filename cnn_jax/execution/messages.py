"""Messages between the scheduler and its workers, and their JSON. A worker has slots; each slot holds one task at a time."""

import dataclasses
from typing import ClassVar

from cnn_jax.aliases import JsonObject


@dataclasses.dataclass(frozen=True)
class WorkerConfig:
    """Sent once to every worker. `provenance` is part of every record.

    `devices` of each of the `hosts` share the batches of a trial; this is host number `host`, see `backends.batch_hosts`.
    `snapshots`: epochs whose parameters are kept besides those of the end. `programs` of the sweep, each of `trials` or more:
    with fewer programs than devices, several devices divide the lanes of one, see `queue.devices_per_program`.
    """

    out: str
    keep_params: bool
    checkpoint_seconds: float
    provenance: JsonObject
    devices: int = 1
    hosts: int = 1
    host: int = 0
    coordinator: str = ""
    snapshots: tuple[int, ...] = ()
    programs: int = 1
    trials: int = 1


@dataclasses.dataclass(frozen=True)
class Assignment:
    """A task for a slot: trials as canonical JSON, to be trained by one program of `lanes` lanes.

    checksum: of the data set in the scheduler's process; a worker with other data refuses the task.
    """

    slot: int
    trials: tuple[str, ...]
    lanes: int
    checksum: str


@dataclasses.dataclass(frozen=True)
class Event:
    """A message from a worker to the scheduler."""

    kinds: ClassVar[dict[str, type["Event"]]] = {}

    def __init_subclass__(cls) -> None:
        Event.kinds[cls.__name__] = cls

    def to_json(self) -> JsonObject:
        """The fields, and the class under 'event'."""
        return {"event": type(self).__name__, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(raw: JsonObject) -> "Event":
        """Inverse of `to_json`. Raises ValueError for anything else."""
        try:
            fields = dict(raw)
            return Event.kinds[fields.pop("event")](**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not an event: {error}") from None


@dataclasses.dataclass(frozen=True)
class Ready(Event):
    """The worker started: it holds `slots` tasks at once and trains `parallel` of them, each on `devices`.

    Slots i and i + parallel are of the same devices. `lane_bytes`: what the lanes of a device should work on at most; None:
    it does not matter.
    """

    slots: int
    parallel: int
    devices: int = 1
    lane_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Compiling(Event):
    """Compilation of a task's program started."""

    slot: int


@dataclasses.dataclass(frozen=True)
class Compiled(Event):
    """Compilation of a task's program ended."""

    slot: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Trained(Event):
    """Training steps on `images` images since the last such event of the task."""

    slot: int
    images: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Finished(Event):
    """A trial has its record on disk."""

    slot: int
    trial: str
    status: str
    reason: str | None
    val_accuracy: float | None
    test_accuracy: float | None

    @classmethod
    def of(cls, slot: int, record: JsonObject) -> "Finished":
        """The event for a record."""
        names = ("trial", "status", "reason", "val_accuracy", "test_accuracy")
        return cls(slot, **{name: record[name] for name in names})


@dataclasses.dataclass(frozen=True)
class Idle(Event):
    """The task of a slot ended, after `task_seconds` of training; `compile_seconds` is 0 for a program compiled earlier."""

    slot: int
    task_seconds: float
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class OutOfMemory(Event):
    """The task did not fit in the device's memory; none of it was recorded."""

    slot: int


@dataclasses.dataclass(frozen=True)
class Checkpointed(Event):
    """The worker received a stop signal and wrote a checkpoint: the task can be resumed elsewhere."""

    slot: int


@dataclasses.dataclass(frozen=True)
class Broken(Event):
    """The run cannot continue: the folder cannot be written, or devices are missing."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Lost(Event):
    """The worker ended, with all its tasks. Sent by the backend."""

    how: str
