"""A worker process: takes tasks, trains them, appends their records, says so. `python -m cnn_jax.runner.worker FD`.

It reads JSON lines from standard input and writes JSON lines to the file descriptor FD. First comes the setup, then tasks:

    in   {"out", "core", "keep_params", "checkpoint_seconds", "provenance"}   then   {"trials": [...], "lanes": n} ...
    out  {"event": "ready", "platform", "slots"}           a slot is a task that it can hold at once
         {"event": "images", "count"}                      trained since the last such line
         {"event": "finished", "slot", "trial", "status", "reason", ...}   one per trial: its record is on disk
         {"event": "free", "slot", "task_seconds", "compile_seconds"}      the task is over
         {"event": "memory", "slot"}                       the task did not fit: nothing of it was recorded
         {"event": "broken", "reason"}                     the folder cannot be written any more

End of input, or SIGTERM, means: keep a checkpoint of what is under way, and go.
"""

import base64
import contextlib
import datetime
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnn_jax import store
from cnn_jax.config import Trial

CHUNK_SECONDS = 0.5  # how long steps run before the worker looks up: for messages, checkpoints, and the order to stop


def main() -> None:
    outbox = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    setup = json.loads(sys.stdin.readline())
    if setup["core"] is not None:
        os.sched_setaffinity(0, {setup["core"]})  # before JAX counts the cores that it may use
    _die_with_parent()

    tasks: queue.Queue[tuple[int, dict] | None] = queue.Queue()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: (stop.set(), tasks.put(None)))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says what happens

    def listen() -> None:
        for line in sys.stdin:
            message = json.loads(line)
            tasks.put((message["slot"], message))
        stop.set()
        tasks.put(None)

    threading.Thread(target=listen, daemon=True).start()

    import jax  # here, after the affinity

    lock = threading.Lock()

    def say(event: str, **fields: Any) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            outbox.write(json.dumps({"event": event, **fields}) + "\n")

    devices = jax.local_devices()
    accelerator = devices[0].platform != "cpu"
    # Two tasks for each accelerator: one is compiled while the other runs.
    benches = [_Bench(setup, device, stop, say, threading.Lock()) for device in (devices if accelerator else devices[:1])]
    slots = [bench for bench in benches for _ in range(2 if accelerator else 1)]
    say("ready", platform=devices[0].platform, device=devices[0].device_kind, slots=len(slots))

    def serve() -> None:
        while (item := tasks.get()) is not None and not stop.is_set():
            slot, message = item
            slots[slot].work(slot, message)
        tasks.put(None)  # the others too

    helpers = [threading.Thread(target=serve) for _ in slots[1:]]
    for thread in helpers:
        thread.start()
    serve()
    for thread in helpers:
        thread.join()
    os._exit(0)  # the listening thread may still sit in a read


def _die_with_parent() -> None:
    # On Linux the kernel sees to it at once, elsewhere the end of input does.
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)


class _Bench:
    """A device with what it has loaded and compiled: the last data set and the last few programs."""

    def __init__(self, setup: Mapping[str, Any], device: Any, stop: threading.Event, say: Any, running: threading.Lock):
        self.setup, self.device, self.stop, self.say, self.running = setup, device, stop, say, running
        self.writer = store.Writer(setup["out"])
        self.data: dict[Any, Any] = {}
        self.programs: dict[Any, Any] = {}
        self.loading = threading.Lock()

    def work(self, slot: int, message: Mapping[str, Any]) -> None:
        trials = [Trial.from_json(text) for text in message["trials"]]
        try:
            self._train(slot, trials, message["lanes"])
        except store.StoreError as error:
            self.say("broken", reason=str(error))
        except Exception as error:
            if "RESOURCE_EXHAUSTED" in str(error) and message["lanes"] > 1:
                self.say("memory", slot=slot)
                return
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:500]
            for trial in trials:
                record = failure(trial, reason, self.setup["provenance"])
                self.writer.finish(record)
                self._report(slot, record)
            self.say("free", slot=slot, task_seconds=0.0, compile_seconds=0.0)

    def _train(self, slot: int, trials: list[Trial], lanes: int) -> None:
        import jax

        from cnn_jax import train

        with jax.default_device(self.device):
            dataset, on_device = self._dataset(trials[0])
            program, compile_seconds = self._program(trials[0], lanes, on_device)
            with self.running:
                began = time.perf_counter()
                position = self._resume(train.start(program, trials, on_device), trials)
                kept, most_steps = time.monotonic(), 8
                while not train.finished(trials, position):
                    if self.stop.is_set():
                        self._checkpoint(trials, position)
                        return
                    before, started = position.step, time.perf_counter()
                    position = train.advance(program, trials, on_device, position, most_steps)
                    steps, seconds = position.step - before, time.perf_counter() - started
                    most_steps = max(1, int(steps * CHUNK_SECONDS / max(seconds, 1e-6)))
                    self.say("images", count=steps * trials[0].train.batch_size * len(trials))
                    if time.monotonic() - kept > self.setup["checkpoint_seconds"]:
                        self._checkpoint(trials, position)
                        kept = time.monotonic()
                outcomes = train.results(program, trials, on_device, position)
                seconds = time.perf_counter() - began
        for trial, outcome in zip(trials, outcomes, strict=True):
            record = success(trial, outcome, dataset, self.setup["provenance"], _device(self.device))
            record |= {"train_seconds": position.train_seconds, "compile_seconds": compile_seconds, "lanes": lanes}
            self.writer.finish(record, outcome.variables if self.setup["keep_params"] else None)
            self._report(slot, record)
            compile_seconds = 0.0  # paid once, written down once
        self.say("free", slot=slot, task_seconds=seconds, compile_seconds=program.compile_seconds)

    def _report(self, slot: int, record: Mapping[str, Any]) -> None:
        self.say("finished", slot=slot, **{k: record[k] for k in ("trial", "status", "reason", "val_accuracy", "test_accuracy")})

    def _dataset(self, trial: Trial) -> tuple[Any, Any]:
        from cnn_jax import data, train

        with self.loading:
            if trial.data not in self.data:
                self.data.clear()
                self.programs.clear()
                loaded = data.load(trial.data)
                self.data[trial.data] = (loaded, train.DeviceData.put(loaded, self.device))
            return self.data[trial.data]

    def _program(self, trial: Trial, lanes: int, on_device: Any) -> tuple[Any, float]:
        from cnn_jax import train

        key = (trial.static, lanes)
        if key in self.programs:
            return self.programs[key], 0.0
        program = train.compile_program(trial, lanes, on_device)
        while len(self.programs) >= 4:
            self.programs.pop(next(iter(self.programs)))
        self.programs[key] = program
        return program, program.compile_seconds

    # A checkpoint holds all lanes of a task, under the name of its first trial; it is good for the same trials only.

    def _checkpoint(self, trials: list[Trial], position: Any) -> None:
        names = np.frombuffer("\n".join(t.id for t in trials).encode(), np.uint8)
        self.writer.checkpoint(trials[0].id, position.step, {**position.arrays(), "trials": names})

    def _resume(self, begin: Any, trials: list[Trial]) -> Any:
        arrays = store.latest_checkpoint(self.setup["out"], trials[0].id)
        if arrays is not None and arrays["trials"].tobytes().decode().split("\n") == [t.id for t in trials]:
            with contextlib.suppress(ValueError):
                return begin.restored(arrays)
        return begin


# ---------------------------------------------------------------------------------------------------------------- records


def success(trial: Trial, outcome: Any, dataset: Any, provenance: Mapping[str, Any], device: str) -> dict[str, Any]:
    """The record of a trial that was trained: `outcome` is a train.Result, `dataset` the data.Dataset."""
    from cnn_jax import summary

    shape = summary.describe(trial.model, dataset.info.input_shape, dataset.info.num_classes)
    last = outcome.history[-1] if outcome.history else dict.fromkeys(("train_loss", "train_accuracy", "val_loss", "val_accuracy"))
    correct = outcome.test_correct
    return _record(trial, provenance) | {
        "status": outcome.status,
        "reason": outcome.reason,
        "params": shape.params,
        "macs": shape.macs,
        "receptive_field": shape.receptive_field,
        "history": outcome.history,
        **{name: last[name] for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")},
        "test_loss": outcome.test_loss,
        "test_accuracy": None if correct is None else float(correct.mean()),
        "test_correct": None if correct is None else base64.b64encode(np.packbits(correct).tobytes()).decode(),
        "test_examples": len(dataset.test_labels),
        "device": device,
        "precision": "float32",
        "data": {
            "checksum": dataset.checksum,
            "train": len(dataset.train_labels),
            "validation": len(dataset.validation_labels),
            "test": len(dataset.test_labels),
        },
    }


def failure(trial: Trial, reason: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a trial that could not be trained."""
    empty = (
        "params", "macs", "receptive_field", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy",
        "test_correct", "test_examples", "train_seconds", "compile_seconds", "device", "precision", "data",
    )  # fmt: skip
    return _record(trial, provenance) | {"status": "failed", "reason": reason, "history": [], **dict.fromkeys(empty)}


def _record(trial: Trial, provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema": store.SCHEMA,
        "trial": trial.id,
        "config": json.loads(trial.canonical),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **provenance,
    }


def _device(device: Any) -> str:
    return f"{device.platform}: {device.device_kind}"


if __name__ == "__main__":
    main()
