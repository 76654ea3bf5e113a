"""Runs trials and records them: what is missing -> queue -> crew -> store. This process never imports JAX.

queue.py    which task next: bookkeeping alone
crew.py     the event loop over a staff of workers
local.py    the staff of this machine: processes         worker.py   such a process
hosts.py    several machines that share every batch
ray.py      the staff of a Ray cluster: its tasks
slurm.py    the staff of a Slurm cluster: its jobs           job.py      such a job         mailbox.py  what joins them
cores.py    a core for each, where no parent hands them out
bench.py    where a worker of any kind trains: data, programs, checkpoints, records
"""

import collections
import contextlib
import dataclasses
import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cnn_jax
from cnn_jax import data
from cnn_jax.errors import UsageError
from cnn_jax.execution.backends import ray, slurm
from cnn_jax.execution.backends.local import Processes, overridden
from cnn_jax.execution.backends.local import warm_up as warm_up
from cnn_jax.execution.messages import WorkerConfig
from cnn_jax.execution.progress import Progress
from cnn_jax.execution.queue import Queue
from cnn_jax.execution.scheduler import Crew, Staff, records
from cnn_jax.records import store
from cnn_jax.trial import DataConfig, Trial

EXECUTORS = ("local", "ray", "slurm")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a sweep ended. `counts`: records by status, of the `total` trials; `problems`: a line per trial that failed."""

    counts: dict[str, int]
    total: int
    problems: list[str]
    interrupted: bool

    @property
    def complete(self) -> bool:
        """Whether every trial has its record, of success or of failure."""
        return not self.interrupted and sum(self.counts.values()) == self.total


def run(
    trials: Sequence[Trial], out: Path, *, command: str, cost: Callable[[Trial], float], workers: int | None,
    keep_params: bool = True, checkpoint_seconds: float = 120.0, devices: int = 1, hosts: int = 1, host: int = 0,
    coordinator: str = "", executor: str = "local", about: Mapping[str, Any] | None = None,
    progress: Progress,
) -> Outcome:  # fmt: skip
    """Trains what `out` does not have yet of `trials`, and returns when every trial is recorded or the run is interrupted.

    cost: trial -> work, in any unit (the costliest start first). workers: processes at most; None: one per core, or one
    for all accelerators. devices: that share the batches of a trial, on each of `hosts` machines, of which this
    is number `host`, 0 (see `hosts`, and `follow` for the others). executor: one of EXECUTORS. about: see `store.begin`.
    The data must have been prepared. Raises UsageError if another process holds `out` or its records are of other data, and
    StoreError if it cannot be written.
    """
    checksums = {config: data.load(config).checksum for config in dict.fromkeys(trial.data for trial in trials)}
    with store.locked(out):
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        notes = store.begin(out, command, time, trials, about)
        missing = _missing(trials, out, checksums, keep_params, notes)
        if found := overridden():
            notes.append(f"{', '.join(found)}: not used by workers, which train with JAX's defaults")
        for note in notes:
            progress.note(note)
        interrupted = False
        if missing:
            config = WorkerConfig(
                str(out), keep_params, checkpoint_seconds, provenance(command), devices, hosts, host, coordinator
            )
            staff = _staff(config, workers, executor)
            queue = Queue(trials, missing, cost, staff.most_lanes)
            with progress.running(missing):
                interrupted = Crew(staff, queue, config, checksums, progress).work()
        return _outcome(trials, out, interrupted)


def check(out: Path, executor: str, workers: int | None) -> None:
    """Raises UsageError if the executor cannot be had here; writes nothing."""
    if executor == "slurm":
        if workers is None:
            raise UsageError("--workers: with --executor=slurm, say how many jobs are to be submitted at most")
        slurm.check(out)
    elif executor == "ray":
        ray.check()


def _staff(config: WorkerConfig, workers: int | None, executor: str) -> Staff:
    if executor == "slurm":
        assert workers is not None
        return slurm.Jobs(config, workers)
    return ray.Tasks(config, workers) if executor == "ray" else Processes(config, workers)


def follow(out: Path, *, devices: int, hosts: int, host: int, coordinator: str) -> str | None:
    """Works as host number `host`, above 0, until host 0 has no more to do; returns what went wrong, or None."""
    staff = Processes(
        WorkerConfig(
            str(out), False, float("inf"), {"versions": provenance("")["versions"]}, devices, hosts, host, coordinator
        ),
        1,
    )
    try:
        staff.hire(0)
        while True:
            for _, event in staff.wait(1.0):
                if event["event"] == "lost":
                    return None if event["how"] == "exit status 0" else f"this host's worker ended: {event['how']}"
                if event["event"] == "broken":
                    return event["reason"]
    finally:
        staff.stop(1.0)


def _missing(
    trials: Sequence[Trial], out: Path, checksums: dict[DataConfig, str], keep_params: bool, notes: list[str]
) -> list[Trial]:
    known = {record["trial"]: record for record in records(out)}
    finished = {trial.id for trial in trials if trial.id in known and known[trial.id]["status"] in store.FINISHED}
    for trial in trials:
        if trial.id in finished and known[trial.id]["data"]["checksum"] != checksums[trial.data]:
            raise UsageError(
                f"--dataset: {trial.data.dataset} has changed since {out} was recorded with it: "
                "restore it, or name another --out"
            )
    if keep_params and (lost := store.lost_params(out) & finished):
        notes.append(f"the parameters of {len(lost)} trial{'s' * (len(lost) > 1)} are gone or damaged: trained again")
        finished -= lost
    return [trial for trial in trials if trial.id not in finished]


def _outcome(trials: Sequence[Trial], out: Path, interrupted: bool) -> Outcome:
    found = {record["trial"]: record for record in records(out)}
    mine = [found[trial.id] for trial in trials if trial.id in found]
    counts = collections.Counter(record["status"] for record in mine)
    problems = [f"{r['trial']} {r['status']}: {r['reason']}" for r in mine if r["status"] != "done"]
    return Outcome(dict(counts), len(trials), problems, interrupted)


def provenance(command: str) -> dict[str, Any]:
    """What a record says of its making: command, code version, package versions, host."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    versions = {"python": platform.python_version(), "cnn_jax": cnn_jax.__version__}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"command": command, "versions": versions, "code": _code_version(), "host": platform.node()}


def _code_version() -> dict[str, Any]:
    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(Path(__file__).parent), *args], capture_output=True, text=True, timeout=5, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}
