"""A place where trials are trained: devices, with what was loaded and compiled for them. Workers of every kind stand at one.

Training is `train`'s pure functions; here are their surroundings: checkpoints, stopping, faults, and the record of a trial.
"""

import base64
import contextlib
import dataclasses
import datetime
import json
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax import plugins, store
from cnn_jax.config import Trial

CHUNK_SECONDS = 0.5  # how long steps run before the worker looks up: for messages, checkpoints, and the order to stop


@dataclasses.dataclass(frozen=True)
class Orders:
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


class Bench:
    """Devices with what they have loaded and compiled: the last data set and the last few programs."""

    def __init__(
        self,
        orders: Orders,
        devices: Sequence[Any],
        say: Callable[..., None] = lambda *_, **__: None,
        stopped: Callable[[], bool] = lambda: False,
        keep: Callable[[int, dict[str, Any], Mapping[str, np.ndarray] | None], None] = lambda *_: None,
        share: Callable[[bytes], bytes] = lambda data: data,
    ):
        """say: sends an event (see `worker`). stopped: whether to checkpoint and go. keep: (slot, record, parameters).

        share: what the first of several hosts gives, see `hosts`.
        """
        self.orders, self.devices = orders, tuple(devices)
        self.say, self.stopped, self.keep, self.share = say, stopped, keep, share
        self.writer, self.keeps_checkpoints = store.Writer(orders.out), orders.host == 0
        self.data: dict[Any, Any] = {}
        self.programs: dict[Any, Any] = {}
        self.loading, self.running = threading.Lock(), threading.Lock()

    def work(self, slot: int, task: Mapping[str, Any]) -> None:
        """Trains the trials of a task and keeps their records. A fault becomes a failed record, never an exception."""
        import jax

        trials = [Trial.from_json(text) for text in task["trials"]]
        try:
            try:
                self._train(slot, trials, task["lanes"], task["checksum"])
            except store.StoreError:
                raise
            except Exception as error:
                full = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
                if full and task["lanes"] > 1:
                    self.say("memory", slot=slot)
                    return
                with contextlib.suppress(OSError):  # of a log that cannot be written
                    traceback.print_exc()
                reason = plugins.describe_error(error)
                if self.orders.hosts > 1 and isinstance(error, jax.errors.JaxRuntimeError):
                    # Another host is gone, as a rule. No trial is to blame, and the checkpoint is good.
                    hint = "" if self.orders.host else ": the same commands on all hosts go on from the last checkpoint"
                    raise store.StoreError(f"the hosts cannot go on together ({reason}){hint}") from None
                for trial in trials:
                    self.keep(slot, failure(trial, reason, self.orders.provenance), None)
                self.say("free", slot=slot, task_seconds=0.0, compile_seconds=0.0)
        except store.StoreError as error:
            self.say("broken", reason=str(error))

    def _train(self, slot: int, trials: list[Trial], lanes: int, checksum: str) -> None:
        import jax

        from cnn_jax import train

        with jax.default_device(self.devices[0]):
            dataset, on_device = self._dataset(trials[0])
            if dataset.checksum != checksum:
                raise ValueError(
                    f"{trials[0].data.dataset} is not the same data on this machine as where the command was given"
                )
            program, compile_seconds = self._program(slot, trials[0], lanes, on_device)
            with self.running:
                began = time.perf_counter()
                made_with = self._made_with(dataset, on_device)
                position = self._resume(train.start(program, trials, on_device), trials, made_with)
                first, kept, most_steps = position.step, time.monotonic(), 8
                while not train.finished(trials, position):
                    stop, most_steps = json.loads(self.share(json.dumps([self.stopped(), most_steps]).encode()))
                    if stop:
                        self._checkpoint(trials, position, made_with)
                        if position.step > first:  # else another might come just as far, and so on for ever
                            self.say("kept", slot=slot)
                        return
                    before, started = position.step, time.perf_counter()
                    position = train.advance(program, trials, on_device, position, most_steps)
                    steps, seconds = position.step - before, time.perf_counter() - started
                    most_steps = max(1, int(steps * CHUNK_SECONDS / max(seconds, 1e-6)))
                    self.say("images", slot=slot, count=steps * trials[0].train.batch_size * len(trials), seconds=seconds)
                    if time.monotonic() - kept > self.orders.checkpoint_seconds:
                        self._checkpoint(trials, position, made_with)
                        kept = time.monotonic()
                outcomes = train.results(program, trials, on_device, position)
                seconds = time.perf_counter() - began
        for trial, outcome in zip(trials, outcomes, strict=True):
            record = success(trial, outcome, dataset, self.orders.provenance, self._device(), self._precision())
            record |= {"train_seconds": position.train_seconds, "compile_seconds": compile_seconds, "lanes": lanes}
            record |= {"convolution": made_with["convolution"]}
            self.keep(slot, record, outcome.variables if self.orders.keep_params else None)
            compile_seconds = 0.0  # paid once, written down once
        self.say("free", slot=slot, task_seconds=seconds, compile_seconds=program.compile_seconds)

    def _device(self) -> str:
        times = f" x{len(self.devices)}" if len(self.devices) > 1 else ""
        return f"{self.devices[0].platform}: {self.devices[0].device_kind}{times}"

    def _precision(self) -> str:
        """Values are float32 everywhere; accelerators multiply less exactly, unless jax_default_matmul_precision says so."""
        import jax

        products = jax.config.jax_default_matmul_precision or "default"  # type: ignore[attr-defined]
        return "float32" if self.devices[0].platform == "cpu" else f"float32, products {products}"

    def _dataset(self, trial: Trial) -> tuple[Any, Any]:
        from cnn_jax import data, train

        with self.loading:
            if trial.data not in self.data:
                self.data.clear()
                self.programs.clear()
                loaded = data.load(trial.data)
                self.data[trial.data] = (loaded, train.DeviceData.put(loaded, self.devices))
            return self.data[trial.data]

    def _program(self, slot: int, trial: Trial, lanes: int, on_device: Any) -> tuple[Any, float]:
        from cnn_jax import train

        key = (trial.static, lanes)
        if key in self.programs:
            return self.programs[key], 0.0
        self.say("compiling", slot=slot)
        program = train.compile_program(trial, lanes, on_device)
        self.say("compiled", slot=slot, seconds=program.compile_seconds)
        while len(self.programs) >= 4:
            self.programs.pop(next(iter(self.programs)))
        self.programs[key] = program
        return program, program.compile_seconds

    # A checkpoint holds all lanes of a task, under the name of its first trial. It is good for the same trials, data and
    # versions only: half a run of each of two would be a number that neither gives.

    def _made_with(self, dataset: Any, on_device: Any) -> dict[str, Any]:
        from cnn_jax import train

        versions = self.orders.provenance["versions"]
        return {
            "data": dataset.checksum, "device": self._device(), "convolution": train.design(on_device), "versions": versions
        }  # fmt: skip

    def _checkpoint(self, trials: list[Trial], position: Any, made_with: Mapping[str, Any]) -> None:
        if not self.keeps_checkpoints:
            return
        notes = json.dumps({"trials": [trial.id for trial in trials], **made_with})
        self.writer.checkpoint(
            trials[0].id, position.step, {**position.arrays(), "made": np.frombuffer(notes.encode(), np.uint8)}
        )

    def _resume(self, begin: Any, trials: list[Trial], made_with: Mapping[str, Any]) -> Any:
        wanted = {"trials": [trial.id for trial in trials], **made_with}
        found = b""
        for arrays in store.checkpoints(self.orders.out, trials[0].id) if self.keeps_checkpoints else ():
            with contextlib.suppress(ValueError, KeyError):
                if json.loads(arrays["made"].tobytes()) == wanted:
                    begin.restored(arrays)
                    found = store.to_npz(arrays)
                    break
        found = self.share(found)
        return begin.restored(store.from_npz(found)) if found else begin


# ---------------------------------------------------------------------------------------------------------------- records


def success(
    trial: Trial, outcome: Any, dataset: Any, provenance: Mapping[str, Any], device: str, precision: str
) -> dict[str, Any]:
    """The record of a trial that was trained: `outcome` is a train.Result, `dataset` the data.Dataset."""
    from cnn_jax import summary

    shape = summary.describe(trial.model, dataset.info.input_shape, dataset.info.num_classes)
    last = (
        outcome.history[-1] if outcome.history else dict.fromkeys(("train_loss", "train_accuracy", "val_loss", "val_accuracy"))
    )
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
        "test_correct": _bitmap(correct),
        "val_correct": _bitmap(outcome.val_correct),
        "test_examples": len(dataset.test_labels),
        "device": device,
        "precision": precision,
        "data": _data(dataset),
    }


def _data(dataset: Any) -> dict[str, Any]:
    """What a record says of the images; the normalization, with its statistics, where it is not the default."""
    found = {
        "checksum": dataset.checksum,
        "train": len(dataset.train_labels),
        "validation": len(dataset.validation_labels),
        "test": len(dataset.test_labels),
    }
    normalization = dataset.normalization
    return found if normalization.kind == "none" else found | {"normalization": dataclasses.asdict(normalization)}


def _bitmap(correct: np.ndarray | None) -> str | None:
    """Answers as base64, a bit per image."""
    return None if correct is None else base64.b64encode(np.packbits(correct).tobytes()).decode()


def failure(trial: Trial, reason: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a trial that could not be trained."""
    empty = (
        "params", "macs", "receptive_field", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss",
        "test_accuracy", "test_correct", "val_correct", "test_examples", "train_seconds", "compile_seconds", "device",
        "precision", "convolution", "data",
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
