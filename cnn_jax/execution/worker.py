"""A worker process: takes tasks, trains them, appends their records, says so. `local.python` starts it with FD.

It reads JSON lines from standard input and writes JSON lines to the file descriptor FD; a job of Slurm says the same through a
mailbox, see `job`. First comes the setup, then tasks:

    in   {"parent", "cores", "config": trainer.WorkerConfig}   then   {"slot", "trials": [...], "lanes": n, "checksum"} ...
    out  {"event": "ready", "slots", "parallel"}           tasks that it can hold at once, and train at once
         {"event": "compiling", "slot"}                    the program of a task, until:
         {"event": "compiled", "slot", "seconds"}
         {"event": "images", "slot", "count", "seconds"}   trained since the last such line of the task
         {"event": "finished", "slot", "trial", "status", "reason", ...}   one per trial: its record is on disk
         {"event": "free", "slot", "task_seconds", "compile_seconds"}      the task is over
         {"event": "memory", "slot"}                       the task did not fit: nothing of it was recorded
         {"event": "kept", "slot"}                         it was told to go: the task can go on elsewhere, from a checkpoint
         {"event": "broken", "reason"}                     nothing more can be done: the folder is full, a device is missing

End of input, or SIGTERM, means: keep a checkpoint of what is under way, and go.
"""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_jax.execution.backends import hosts
from cnn_jax.execution.messages import WorkerConfig
from cnn_jax.execution.scheduler import finished

if TYPE_CHECKING:
    from cnn_jax.execution.trainer import Trainer


def main() -> None:
    outbox = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    setup = json.loads(sys.stdin.readline())
    if setup["cores"]:
        os.sched_setaffinity(0, setup["cores"])  # before JAX counts the cores that it may use
    _die_with(setup["parent"])

    def send(event: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            outbox.write(json.dumps(event) + "\n")

    serve(WorkerConfig(**setup["config"]), map(json.loads, sys.stdin), send)
    os._exit(0)  # the listening thread may still sit in a read


def serve(config: WorkerConfig, messages: Iterator[dict[str, Any]], send: Callable[[dict[str, Any]], None]) -> None:
    """Does the tasks that `messages` brings until they end or a signal comes; `send` takes events, one at a time."""
    tasks: queue.Queue[tuple[int, dict] | None] = queue.Queue()
    stop = threading.Event()

    def end(*_: Any) -> None:
        stop.set()
        tasks.put(None)

    for number in (signal.SIGTERM, signal.SIGUSR2):  # the second is Slurm's: the time limit is near
        signal.signal(number, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says what happens

    def listen() -> None:
        for message in messages:
            tasks.put((message["slot"], message))
        end()

    threading.Thread(target=listen, daemon=True).start()

    import jax  # after the affinity is set

    from cnn_jax.execution.trainer import Trainer

    lock = threading.Lock()

    def say(event: str, **fields: Any) -> None:
        with lock:
            send({"event": event, **fields})

    def at(devices: list[Any], share: hosts.Share = lambda data: data) -> "Trainer":
        def keep(slot: int, record: dict[str, Any], params: Mapping[str, np.ndarray] | None) -> None:
            if config.host == 0:
                trainer.writer.finish(record, params)
                say(**finished(slot, record))

        trainer = Trainer(config, devices, say, stop.is_set, keep, share)
        return trainer

    share = hosts.join(config) if config.hosts > 1 else None
    devices, wanted = jax.local_devices(), config.devices
    accelerator = devices[0].platform != "cpu"
    if len(devices) < wanted:
        say("broken", reason=f"--devices={wanted}: there are {len(devices)} here ({devices[0].device_kind})")
        return
    if share:
        everywhere = [d for host in range(config.hosts) for d in jax.local_devices(process_index=host)[:wanted]]
        say("ready", slots=1, parallel=1)
        _in_step(at(everywhere, share), tasks)
        return
    trainers = [at(devices[i : i + wanted]) for i in range(0, len(devices) - wanted + 1, wanted)]
    # Two tasks for each accelerator: one is compiled while the other runs.
    slots = [trainer for trainer in trainers for _ in range(2 if accelerator else 1)]
    say("ready", slots=len(slots), parallel=len(trainers))

    def work() -> None:
        while (item := tasks.get()) is not None and not stop.is_set():
            slot, message = item
            slots[slot].work(slot, message)
        tasks.put(None)  # the others too

    helpers = [threading.Thread(target=work) for _ in slots[1:]]
    for thread in helpers:
        thread.start()
    work()
    for thread in helpers:
        thread.join()


def _in_step(trainer: "Trainer", tasks: "queue.Queue[tuple[int, dict] | None]") -> None:
    """Does host 0's tasks, on every host, until it has no more."""
    while True:
        item = tasks.get() if trainer.config.host == 0 and not trainer.stopped() else None
        text = trainer.share(json.dumps(item).encode())
        if json.loads(text) is None:
            return
        trainer.work(*json.loads(text))


def _die_with(parent: int) -> None:
    # On Linux the kernel sees to it at once, elsewhere the end of input does.
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before we asked
            os._exit(1)
