"""Workers on a Ray cluster: every task of the queue is a Ray task.

RAY_ADDRESS names the cluster; without it, one is started on loopback. The driver writes the records, so the folder need not be
shared between machines; if it is, checkpoints are written to it. The data must be on every machine, with the same checksum. A
task whose machine dies is requeued.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cnn_jax.aliases import JsonObject
from cnn_jax.errors import UsageError
from cnn_jax.execution import cores
from cnn_jax.execution.backends.local import environment
from cnn_jax.execution.messages import Assignment, Compiled, Compiling, Event, Finished, Lost, Ready, Trained, WorkerConfig
from cnn_jax.execution.scheduler import MOST_LANES
from cnn_jax.records import store
from cnn_jax.records.arrays import Kept

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from cnn_jax.execution.trainer import Trainer

_FOLDER = "CNN_JAX_FOLDER"  # environment variable of workers: current folder of the command, which may hold modules of a fork


def _search_path() -> dict[str, str]:
    """Environment variables with which a worker finds this package and the modules of a fork."""
    here = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, _FOLDER: os.getcwd()}


def check() -> ModuleType:
    """Import Ray and return it. Raises UsageError if it is not installed, or if RAY_ADDRESS does not answer."""
    address = os.environ.get("RAY_ADDRESS")
    if _on_loopback(address):  # read by Ray at import; otherwise 127.0.0.1 is replaced by the address of this machine
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError:
        raise UsageError("--executor=ray: Ray is not installed: pip install -r requirements-ray.txt") from None
    if address and "://" not in address and address != "auto":  # Ray would wait for a minute
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise _no_cluster(address, error) from None
    return ray


def _on_loopback(address: str | None) -> bool:
    return not address or address.startswith("127.0.0.1")


def _no_cluster(address: str | None, error: Exception) -> UsageError:
    return UsageError(f"--executor=ray: no cluster at RAY_ADDRESS={address}: {error}".split("\n")[0])


class RayBackend:
    """Workers of a Ray cluster: a worker is the resources of one task. Machines may join and leave."""

    def __init__(self, config: WorkerConfig, workers: int | None):
        """Raises UsageError as `check` does, or if no machine of the cluster has enough devices."""
        ray, address = check(), os.environ.get("RAY_ADDRESS")
        self.ray, self.config, self.workers = ray, config, workers
        try:
            ray.init(
                address=address or "local",
                runtime_env={"env_vars": environment(config.devices) | _search_path()},
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({"_node_ip_address": "127.0.0.1"} if _on_loopback(address) else {}),
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise _no_cluster(address, error) from None
        self.unit = "GPU" if ray.cluster_resources().get("GPU") else "CPU"
        if not self.size:
            ray.shutdown()
            raise UsageError(f"--devices: no machine of the cluster has {config.devices} {self.unit}s")
        self.most_lanes = MOST_LANES if self.unit == "GPU" and config.devices == 1 else 1
        self.task = ray.remote(**{f"num_{self.unit.lower()}s": config.devices, "max_retries": 0})(_work)
        # The mailbox runs on the machine of the driver: the death of another machine must not end it.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self.mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox).remote()
        self.writer = store.Writer(config.out)
        self.running: dict[object, int] = {}
        self.events: list[tuple[int, Event]] = []

    @property
    def size(self) -> int:
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        room = sum(int(node.get(self.unit, 0)) // self.config.devices for node in nodes)
        return min(self.workers or room, room)

    def start(self, number: int) -> None:
        self.events.append((number, Ready(1, 1)))

    def send(self, number: int, task: Assignment) -> None:
        self.running[self.task.remote(self.config, number, task, self.mailbox)] = number

    def release(self, number: int) -> None:
        self.events.append((number, Lost("released")))

    def poll(self, seconds: float) -> list[tuple[int, Event]]:
        self._collect(seconds)
        # Events that a task sent before its end come first.
        events, self.events = self.ray.get(self.mailbox.take.remote()) + self.events, []
        return events

    def _collect(self, seconds: float, all: bool = False) -> None:
        if not self.running:
            return
        running = list(self.running)
        done, _ = self.ray.wait(running, num_returns=len(running) if all else 1, timeout=seconds)
        for task in done:
            number = self.running.pop(task)
            try:
                records, events = self.ray.get(task)
            except self.ray.exceptions.RayError as error:
                how = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                self.events.append((number, Lost(how)))
                continue
            for slot, record, arrays in records:
                self.writer.finish(record, *arrays)
                self.events.append((number, Finished.of(slot, record)))
            self.events += [(number, event) for event in events]

    def shutdown(self, seconds: float) -> None:
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.mailbox.stop.remote()
            try:
                self._collect(seconds, all=True)
            finally:
                self.ray.shutdown()


class _Mailbox:
    """Actor between driver and tasks: events in one direction, the request to stop in the other."""

    def __init__(self) -> None:
        self.events: list[tuple[int, Event]] = []
        self.stopped = False

    def add(self, number: int, event: Event) -> bool:
        self.events.append((number, event))
        return self.stopped

    def take(self) -> list[tuple[int, Event]]:
        events, self.events = self.events, []
        return events

    def stop(self) -> None:
        self.stopped = True


# --------------------------------------------------------------------------------------------------- in a Ray process


class _Buffer:
    """Records and events of one task. Events of progress are sent at once; `post` returns whether to stop."""

    def __init__(self, post: Callable[[Event], bool]) -> None:
        self.records: list[tuple[int, JsonObject, Kept]] = []
        self.events: list[Event] = []
        self.post, self.stopped = post, False

    def send(self, event: Event) -> None:
        if isinstance(event, Trained | Compiling | Compiled):
            self.stopped = self.post(event)
        else:
            self.events.append(event)

    def keep(self, slot: int, record: JsonObject, arrays: Kept) -> None:
        self.records.append((slot, record, arrays))


def _work(config: WorkerConfig, number: int, task: Assignment, mailbox: "ActorHandle") -> tuple[list, list]:
    """Run a task; return its records with their arrays, and its events."""
    import ray

    buffer = _Buffer(lambda event: ray.get(mailbox.add.remote(number, event)))
    trainer = _trainer(json.dumps(dataclasses.asdict(config)))
    trainer.send, trainer.stopped, trainer.keep = buffer.send, lambda: buffer.stopped, buffer.keep
    trainer.run(task)
    return buffer.records, buffer.events


@functools.lru_cache(maxsize=1)
def _trainer(text: str) -> "Trainer":
    """Trainer of this process, for all its tasks: data and programs are reused. `text`: the config as JSON."""
    config = WorkerConfig(**json.loads(text))
    sys.path.append(os.environ[_FOLDER])
    cores.claim(config.devices)
    import jax

    from cnn_jax.execution.trainer import Trainer

    trainer = Trainer(config, jax.local_devices()[: config.devices])
    trainer.keeps_checkpoints = (store.folder(config.out) / "sweep.json").exists()  # if this machine shares the folder
    return trainer
