"""Trainer of a worker: devices, loaded data, compiled programs; checkpoints, stopping, errors, records."""

import contextlib
import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np

from cnn_jax import data, plugins
from cnn_jax.aliases import JsonObject
from cnn_jax.data import Dataset
from cnn_jax.execution import messages
from cnn_jax.execution.backends.local import DETERMINISTIC
from cnn_jax.execution.messages import Assignment, Event, WorkerConfig
from cnn_jax.execution.outcome import failure, success
from cnn_jax.records import store
from cnn_jax.records.arrays import Kept
from cnn_jax.training.device_data import DeviceData, Divides
from cnn_jax.training.loop import steps_per_epoch
from cnn_jax.training.position import Position, advance, finished, start
from cnn_jax.training.program import Program, compile_program, implementation
from cnn_jax.training.result import results
from cnn_jax.trial import DataConfig, Trial

CHUNK_SECONDS = 0.5  # of training steps between messages, checkpoints and checks for a stop


class Trainer:
    """Trains tasks on devices. Keeps the last data set and the last few programs."""

    def __init__(
        self,
        config: WorkerConfig,
        devices: Sequence[jax.Device],
        send: Callable[[Event], None] = lambda _: None,
        stopped: Callable[[], bool] = lambda: False,
        keep: Callable[[int, dict[str, Any], Kept], None] = lambda *_: None,
        share: Callable[[bytes], bytes] = lambda data: data,
    ):
        """
        Args:
          config: of the worker.
          devices: that divide every batch if the configuration names several, or else the lanes of every program.
          send: sends an event to the scheduler.
          stopped: whether to write a checkpoint and return.
          keep: stores a record of a slot with its arrays: (slot, record, arrays).
          share: broadcasts bytes of host 0 to all hosts, see `backends.batch_hosts`.
        """
        self.config, self.devices = config, tuple(devices)
        self.send, self.stopped, self.keep, self.share = send, stopped, keep, share
        self.writer, self.keeps_checkpoints = store.Writer(config.out), config.host == 0
        self.divides: Divides = "batch" if config.devices * config.hosts > 1 else "lanes"
        self.data: dict[DataConfig, tuple[Dataset, DeviceData]] = {}
        self.programs: dict[tuple[Hashable, int], Program] = {}
        self.loading, self.running = threading.Lock(), threading.Lock()
        self.compiling: dict[tuple[Hashable, int], threading.Lock] = {}

    def run(self, task: Assignment) -> None:
        """Train the trials of a task and keep their records. An exception becomes a failed record."""
        slot = task.slot
        trials = [Trial.from_json(text) for text in task.trials]
        try:
            try:
                self._train(slot, trials, task.lanes, task.checksum)
            except store.StoreError:
                raise
            except Exception as error:
                full = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
                if full and task.lanes > (len(self.devices) if self.divides == "lanes" else 1):
                    self.send(messages.OutOfMemory(slot))
                    return
                with contextlib.suppress(OSError):  # of a log that cannot be written
                    traceback.print_exc()
                reason = plugins.describe_error(error)
                if self.config.hosts > 1 and isinstance(error, jax.errors.JaxRuntimeError):
                    # Usually another host died: the trial did not fail, and its checkpoint is valid.
                    hint = (
                        "" if self.config.host else ": rerun the same commands on all hosts to resume from the last checkpoint"
                    )
                    raise store.StoreError(f"the hosts lost each other ({reason}){hint}") from None
                for trial in trials:
                    self.keep(slot, failure(trial, reason, self.config.provenance), Kept())
                self.send(messages.Idle(slot, 0.0, 0.0))
        except store.StoreError as error:
            self.send(messages.Broken(str(error)))

    def _train(self, slot: int, trials: list[Trial], lanes: int, checksum: str) -> None:
        with jax.default_device(self.devices[0]):
            dataset, on_device = self._dataset(trials[0])
            if dataset.checksum != checksum:
                raise ValueError(f"{trials[0].data.dataset} has other data on this machine than on the machine of the command")
            program, compile_seconds = self._program(slot, trials[0], lanes, on_device)
            with self.running:
                began = time.perf_counter()
                made_with = self._made_with(dataset, on_device)
                position = self._resume(start(program, trials, on_device, self.config.snapshots), trials, made_with)
                first, kept, most_steps = position.step, time.monotonic(), 8
                while not finished(trials, position):
                    stop, most_steps = json.loads(self.share(json.dumps([self.stopped(), most_steps]).encode()))
                    if stop:
                        self._checkpoint(trials, position, made_with)
                        if position.step > first:  # otherwise the task could be stopped and requeued forever
                            self.send(messages.Checkpointed(slot))
                        return
                    before, started = position.step, time.perf_counter()
                    position = advance(program, trials, on_device, position, most_steps)
                    steps, seconds = position.step - before, time.perf_counter() - started
                    most_steps = max(1, int(steps * CHUNK_SECONDS / max(seconds, 1e-6)))
                    images = steps * trials[0].train.batch_size * len(trials)
                    self.send(messages.Trained(slot, images, seconds))
                    if time.monotonic() - kept > self.config.checkpoint_seconds:
                        self._checkpoint(trials, position, made_with)
                        kept = time.monotonic()
                outcomes = results(program, trials, on_device, position)
                seconds = time.perf_counter() - began
        epochs = position.step / steps_per_epoch(len(dataset.train_labels), trials[0].train.batch_size)
        images_per_second = epochs * len(dataset.train_labels) / position.train_seconds  # of each trial
        for trial, outcome in zip(trials, outcomes, strict=True):
            record = success(trial, outcome, dataset, self.config.provenance, self._device(), self._precision(trial))
            record |= {"train_seconds": position.train_seconds, "compile_seconds": compile_seconds, "lanes": lanes}
            record |= {"convolution": made_with["convolution"], "images_per_second": images_per_second}
            self.keep(slot, record, Kept(outcome.variables, outcome.snapshots or None) if self.config.keep_params else Kept())
            compile_seconds = 0.0  # recorded once
        self.send(messages.Idle(slot, seconds, program.compile_seconds))

    def _device(self) -> str:
        times = f" x{len(self.devices)}" if len(self.devices) > 1 and self.divides == "batch" else ""
        return f"{self.devices[0].platform}: {self.devices[0].device_kind}{times}"

    def _precision(self, trial: Trial) -> str:
        """Type that a trial computes in; accelerators multiply less exactly, unless jax_default_matmul_precision says so."""
        products = jax.config.jax_default_matmul_precision or "default"  # type: ignore[attr-defined]
        computed, platform = trial.train.precision, self.devices[0].platform
        if platform == "cpu":
            return computed
        return f"{computed}, products {products}{', not deterministic' if platform == 'gpu' and not _deterministic() else ''}"

    def _dataset(self, trial: Trial) -> tuple[Dataset, DeviceData]:
        with self.loading:
            if trial.data not in self.data:
                self.data.clear()
                self.programs.clear()
                loaded = data.load(trial.data)
                self.data[trial.data] = (loaded, DeviceData.put(loaded, self.devices, self.divides))
            return self.data[trial.data]

    def _program(self, slot: int, trial: Trial, lanes: int, on_device: DeviceData) -> tuple[Program, float]:
        key = (trial.static, lanes)
        with self.loading:
            compiling = self.compiling.setdefault(key, threading.Lock())
        with compiling:  # not twice by two slots
            if key in self.programs:
                return self.programs[key], 0.0
            self.send(messages.Compiling(slot))
            program = compile_program(trial, lanes, on_device)
            self.send(messages.Compiled(slot, program.compile_seconds))
            with self.loading:
                while len(self.programs) >= 4:
                    self.programs.pop(next(iter(self.programs)))
                self.programs[key] = program
            return program, program.compile_seconds

    # A checkpoint holds all lanes of a task, under the id of its first trial. It is valid only for the same trials, data and
    # versions: a run of two halves would give a number that neither gives.

    def _made_with(self, dataset: Dataset, on_device: DeviceData) -> JsonObject:
        versions = self.config.provenance["versions"]
        return {
            "data": dataset.checksum, "device": self._device(), "convolution": implementation(on_device), "versions": versions
        }  # fmt: skip

    def _checkpoint(self, trials: list[Trial], position: Position, made_with: JsonObject) -> None:
        if not self.keeps_checkpoints:
            return
        notes = json.dumps({"trials": [trial.id for trial in trials], **made_with})
        self.writer.checkpoint(
            trials[0].id, position.step, {**position.arrays(), "made": np.frombuffer(notes.encode(), np.uint8)}
        )

    def _resume(self, begin: Position, trials: list[Trial], made_with: JsonObject) -> Position:
        wanted = {"trials": [trial.id for trial in trials], **made_with}
        found = b""
        for arrays in store.checkpoints(self.config.out, trials[0].id) if self.keeps_checkpoints else ():
            with contextlib.suppress(ValueError, KeyError):
                if json.loads(arrays["made"].tobytes()) == wanted:
                    begin.restored(arrays)
                    found = store.to_npz(arrays)
                    break
        found = self.share(found)
        return begin.restored(store.from_npz(found)) if found else begin


def _deterministic() -> bool:
    """Whether the deterministic operations of XLA on a GPU are on."""
    said = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if flag.partition("=")[0] == DETERMINISTIC]
    return bool(said) and said[-1].partition("=")[2].lower() not in ("false", "0")
