"""Messages between the scheduler and its workers."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class WorkerConfig:
    """What a worker is told once. `provenance` goes into every record.

    `devices` of each of the `hosts` share the batches of a trial; this is host number `host`, see `hosts`.
    """

    out: str
    keep_params: bool
    checkpoint_seconds: float
    provenance: dict[str, Any]
    devices: int = 1
    hosts: int = 1
    host: int = 0
    coordinator: str = ""
