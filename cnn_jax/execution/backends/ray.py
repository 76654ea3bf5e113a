"""Workers on a Ray cluster: every task of the queue is a Ray task, wherever Ray has room for it.

The cluster is RAY_ADDRESS; without it one is started here, on loopback alone. The driver writes the records, so the folder
need not be shared between the machines; where it is, checkpoints are kept in it too. The data must be on every machine: a
checksum sees to it that they are the same. A task that dies with its machine is given out again.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_jax.errors import UsageError
from cnn_jax.execution import cores
from cnn_jax.execution.backends.local import environment
from cnn_jax.execution.messages import WorkerConfig
from cnn_jax.execution.scheduler import MOST_LANES, finished
from cnn_jax.records import store

if TYPE_CHECKING:
    from cnn_jax.execution.trainer import Trainer

_FOLDER = "CNN_JAX_FOLDER"  # variable of a worker's environment: where the command was given, and a fork's modules are found


def _search_path() -> dict[str, str]:
    """Where a worker finds this package and a fork's modules, as variables of its environment."""
    here = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, _FOLDER: os.getcwd()}


def check() -> Any:
    """Ray, imported. Raises UsageError if it is not installed, or nobody answers at RAY_ADDRESS; writes nothing."""
    address = os.environ.get("RAY_ADDRESS")
    if _on_loopback(address):  # Ray reads this when it is imported, and else takes this machine's address for 127.0.0.1
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError:
        raise UsageError("--executor=ray: Ray is not installed: pip install -r requirements-ray.txt") from None
    if address and "://" not in address and address != "auto":  # Ray itself would wait for a minute
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


class Tasks:
    """The staff of a cluster: a worker is room for one task somewhere. Machines may come and go."""

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
        # The mailbox stays with the driver: another machine may die, and takes only its own tasks with it.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self.mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox).remote()
        self.writer = store.Writer(config.out)
        self.under_way: dict[Any, int] = {}
        self.events: list[tuple[int, dict[str, Any]]] = []

    @property
    def size(self) -> int:
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        room = sum(int(node.get(self.unit, 0)) // self.config.devices for node in nodes)
        return min(self.workers or room, room)

    def hire(self, number: int) -> None:
        self.events.append((number, {"event": "ready", "slots": 1, "parallel": 1}))

    def give(self, number: int, message: dict[str, Any]) -> None:
        self.under_way[self.task.remote(dataclasses.asdict(self.config), number, message, self.mailbox)] = number

    def dismiss(self, number: int) -> None:
        self.events.append((number, {"event": "lost", "how": "dismissed"}))

    def wait(self, seconds: float) -> list[tuple[int, dict[str, Any]]]:
        self._collect(seconds)
        # What a task said before its end comes first.
        events, self.events = self.ray.get(self.mailbox.take.remote()) + self.events, []
        return events

    def _collect(self, seconds: float, all: bool = False) -> None:
        if not self.under_way:
            return
        running = list(self.under_way)
        done, _ = self.ray.wait(running, num_returns=len(running) if all else 1, timeout=seconds)
        for task in done:
            number = self.under_way.pop(task)
            try:
                records, events = self.ray.get(task)
            except self.ray.exceptions.RayError as error:
                how = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                self.events.append((number, {"event": "lost", "how": how}))
                continue
            for slot, record, params in records:
                self.writer.finish(record, params)
                self.events.append((number, finished(slot, record)))
            self.events += [(number, event) for event in events]

    def stop(self, seconds: float) -> None:
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.mailbox.stop.remote()
            try:
                self._collect(seconds, all=True)
            finally:
                self.ray.shutdown()


class _Mailbox:
    """An actor between driver and tasks: news one way, the order to stop the other."""

    def __init__(self) -> None:
        self.events: list[tuple[int, dict[str, Any]]] = []
        self.stopped = False

    def say(self, number: int, event: dict[str, Any]) -> bool:
        self.events.append((number, event))
        return self.stopped

    def take(self) -> list[tuple[int, dict[str, Any]]]:
        events, self.events = self.events, []
        return events

    def stop(self) -> None:
        self.stopped = True


# --------------------------------------------------------------------------------------------------- in a Ray process


class _Errand:
    """What a trainer says and keeps in one task; `send` takes news to the driver and returns whether to stop."""

    def __init__(self, send: Callable[[dict[str, Any]], bool]) -> None:
        self.records: list[tuple[int, dict[str, Any], Mapping[str, np.ndarray] | None]] = []
        self.events: list[dict[str, Any]] = []
        self.send, self.stopped = send, False

    def say(self, event: str, **fields: Any) -> None:
        if event in ("images", "compiling", "compiled"):
            self.stopped = self.send({"event": event, **fields})
        else:
            self.events.append({"event": event, **fields})

    def keep(self, slot: int, record: dict[str, Any], params: Mapping[str, np.ndarray] | None) -> None:
        self.records.append((slot, record, params))


def _work(config: dict[str, Any], number: int, message: dict[str, Any], mailbox: Any) -> tuple[list, list]:
    """A task: returns its records with their parameters, and its events."""
    import ray

    errand = _Errand(lambda event: ray.get(mailbox.say.remote(number, event)))
    trainer = _trainer(json.dumps(config))
    trainer.say, trainer.stopped, trainer.keep = errand.say, lambda: errand.stopped, errand.keep
    trainer.work(message["slot"], message)
    return errand.records, errand.events


@functools.lru_cache(maxsize=1)
def _trainer(text: str) -> "Trainer":
    """Ray runs many tasks in one process: what they load and compile is kept. `text`: the config as JSON."""
    config = WorkerConfig(**json.loads(text))
    sys.path.append(os.environ[_FOLDER])
    cores.claim(config.devices)
    import jax

    from cnn_jax.execution.trainer import Trainer

    trainer = Trainer(config, jax.local_devices()[: config.devices])
    trainer.keeps_checkpoints = (store.folder(config.out) / "sweep.json").exists()  # the folder is shared with this machine
    return trainer
