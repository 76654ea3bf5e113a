"""Main loop of a worker: receives tasks, trains them, appends their records, sends events. Started by `backends.local.python`.

A worker process reads JSON lines from standard input and writes JSON lines to the file descriptor FD, its argument: first a
setup {"parent", "cores", "config": WorkerConfig}, then `Assignment`s in, `Event`s out. End of input or SIGTERM: the worker
writes checkpoints of its tasks and ends.
"""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cnn_jax.aliases import JsonObject
from cnn_jax.execution import messages
from cnn_jax.execution.backends import batch_hosts
from cnn_jax.execution.messages import Assignment, Event, WorkerConfig
from cnn_jax.execution.queue import devices_per_program
from cnn_jax.records.arrays import Kept

if TYPE_CHECKING:
    from cnn_jax.execution.trainer import Trainer

# What the lanes of a device should work on at most, by platform: a quarter of a TPU v5e's vector memory. Beyond it the compiler
# moves activations to main memory, and a lane takes longer than alone (modelled: docs/accelerators.md).
LANE_BYTES = {"tpu": 32 << 20}


def main() -> None:
    outbox = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    setup = json.loads(sys.stdin.readline())
    if setup["cores"]:
        os.sched_setaffinity(0, setup["cores"])  # before JAX counts the cores that it may use
    _die_with(setup["parent"])

    def send(event: Event) -> None:
        with contextlib.suppress(BrokenPipeError):
            outbox.write(json.dumps(event.to_json()) + "\n")

    serve(WorkerConfig(**setup["config"]), map(json.loads, sys.stdin), send)
    os._exit(0)  # the reading thread may be blocked


def serve(config: WorkerConfig, assignments: Iterator[JsonObject], send: Callable[[Event], None]) -> None:
    """Run tasks until `assignments` (as JSON) end or a signal arrives. `send` is called by one thread at a time."""
    tasks: queue.Queue[Assignment | None] = queue.Queue()
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        tasks.put(None)

    for number in (signal.SIGTERM, signal.SIGUSR2):  # SIGUSR2: of Slurm, before the time limit
        signal.signal(number, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent

    def read() -> None:
        for raw in assignments:
            tasks.put(Assignment(**raw))
        end()

    threading.Thread(target=read, daemon=True).start()

    import jax  # after the affinity is set

    from cnn_jax.execution.trainer import Trainer

    lock = threading.Lock()

    def locked_send(event: Event) -> None:
        with lock:
            send(event)

    def trainer_on(devices: list[Any], share: batch_hosts.Share = lambda data: data) -> "Trainer":
        def keep(slot: int, record: dict[str, Any], arrays: Kept) -> None:
            if config.host == 0:
                trainer.writer.finish(record, *arrays)
                locked_send(messages.Finished.of(slot, record))

        trainer = Trainer(config, devices, locked_send, stop.is_set, keep, share)
        return trainer

    share = batch_hosts.join(config) if config.hosts > 1 else None
    devices, wanted = jax.local_devices(), config.devices
    accelerator = devices[0].platform != "cpu"
    if len(devices) < wanted:
        locked_send(messages.Broken(f"--devices={wanted}: there are {len(devices)} here ({devices[0].device_kind})"))
        return
    if share:
        everywhere = [d for host in range(config.hosts) for d in jax.local_devices(process_index=host)[:wanted]]
        locked_send(messages.Ready(1, 1))
        _run_in_step(trainer_on(everywhere, share), tasks)
        return
    divided = devices_per_program(len(devices), config.programs, config.trials) if wanted == 1 else 1
    size = max(wanted, divided)
    trainers = [trainer_on(devices[i : i + size]) for i in range(0, len(devices) - size + 1, size)]
    # Two slots per accelerator: one task is compiled while the other runs.
    slots = trainers * (2 if accelerator else 1)
    locked_send(messages.Ready(len(slots), len(trainers), divided, LANE_BYTES.get(devices[0].platform)))

    def work() -> None:
        while (task := tasks.get()) is not None and not stop.is_set():
            slots[task.slot].run(task)
        tasks.put(None)  # ends the other threads

    helpers = [threading.Thread(target=work) for _ in slots[1:]]
    for thread in helpers:
        thread.start()
    work()
    for thread in helpers:
        thread.join()


def _run_in_step(trainer: "Trainer", tasks: "queue.Queue[Assignment | None]") -> None:
    """Run the tasks of host 0 on every host, until it has no more."""
    while True:
        task = tasks.get() if trainer.config.host == 0 and not trainer.stopped() else None
        text = trainer.share(json.dumps(None if task is None else dataclasses.asdict(task)).encode())
        if json.loads(text) is None:
            return
        trainer.run(Assignment(**json.loads(text)))


def _die_with(parent: int) -> None:
    # On Linux the kernel kills this process with its parent; elsewhere the end of input ends it.
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)
