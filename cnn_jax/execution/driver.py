"""`run`: records what is missing of a sweep. This process imports no JAX."""

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
from cnn_jax import data, sweep
from cnn_jax.aliases import JsonObject
from cnn_jax.errors import UsageError
from cnn_jax.execution.backends import ray, slurm, trial_hosts
from cnn_jax.execution.backends.local import LocalBackend, overridden
from cnn_jax.execution.messages import Broken, Lost, WorkerConfig
from cnn_jax.execution.progress import Progress
from cnn_jax.execution.queue import Queue
from cnn_jax.execution.scheduler import Backend, Scheduler, records
from cnn_jax.records import store
from cnn_jax.trial import DataConfig, Trial

EXECUTORS = ("local", "ray", "slurm")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of a run. `counts`: records by status, of the `total` trials; `problems`: a line per trial that failed."""

    counts: dict[str, int]
    total: int
    problems: list[str]
    interrupted: bool

    @property
    def complete(self) -> bool:
        """Whether every trial has its record, of success or of failure."""
        return not self.interrupted and sum(self.counts.values()) == self.total


@dataclasses.dataclass(frozen=True)
class Options:
    """How trials are executed; results do not depend on it, except on the number of devices.

    workers: processes at most; None: one per core, or one for all accelerators. executor: one of EXECUTORS. devices: that share
    the batches of a trial. hosts: machines, of which this is number `host`; with a `coordinator` they share those batches (see
    `backends.batch_hosts`), else the trials (see `backends.trial_hosts`). snapshots: epochs whose parameters are kept besides
    those of the end.
    """

    workers: int | None = None
    executor: str = "local"
    keep_params: bool = True
    checkpoint_seconds: float = 120.0
    devices: int = 1
    hosts: int = 1
    host: int = 0
    coordinator: str = ""
    snapshots: tuple[int, ...] = ()

    @property
    def batch_hosts(self) -> int:
        """Machines that share the batches of a trial."""
        return self.hosts if self.coordinator else 1

    def worker_config(self, out: Path, provenance: JsonObject, trials: Sequence[Trial] = ()) -> WorkerConfig:
        """The part that workers need. `trials`: of the sweep."""
        programs = sweep.buckets(trials)
        return WorkerConfig(
            str(out),
            self.keep_params,
            self.checkpoint_seconds,
            provenance,
            self.devices,
            self.batch_hosts,
            self.host if self.coordinator else 0,
            self.coordinator,
            self.snapshots,
            len(programs),
            min((len(program.trials) for program in programs), default=1),
        )


def run(
    trials: Sequence[Trial], out: Path, command: str, options: Options, *,
    cost: Callable[[Trial], float], lane_bytes: Callable[[Trial], int], progress: Progress, about: JsonObject | None = None,
) -> Outcome:  # fmt: skip
    """Train the trials without a record in `out`; return when every trial is recorded or the run is interrupted.

    Args:
      trials: of the sweep; their data must have been prepared.
      out: folder of the sweep.
      command: recorded with the results.
      options: how trials are executed.
      cost: work of a trial in any unit; the costliest start first.
      lane_bytes: what a training step of a trial works on.
      progress: display.
      about: see `store.begin`.

    Raises:
      UsageError: another process holds `out`, or its records are of other data.
      StoreError: the folder cannot be written.
    """
    checksums = {config: data.load(config).checksum for config in dict.fromkeys(trial.data for trial in trials)}
    with store.locked(out):
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        notes = store.begin(out, command, time, trials, about)
        missing = _missing(trials, out, checksums, options, notes)
        if found := overridden():
            notes.append(f"{', '.join(found)}: ignored by workers, which use the defaults of JAX")
        for note in notes:
            progress.note(note)
        interrupted = False
        if missing:
            config = options.worker_config(out, provenance(command), trials)
            backend = _backend(config, options)
            queue = Queue(trials, missing, cost, backend.most_lanes, lane_bytes)
            with progress.running(missing):
                interrupted = Scheduler(backend, queue, config, checksums, progress).run()
        return _outcome(trials, out, interrupted)


def check(out: Path, options: Options) -> None:
    """Raise UsageError if the executor is not available. Writes nothing."""
    if options.executor == "slurm":
        if options.workers is None:
            raise UsageError("--workers: with --executor=slurm, give the number of jobs to submit at most")
        slurm.check(out)
    elif options.executor == "ray":
        ray.check()
    elif options.hosts > options.batch_hosts and not store.is_local(out):
        raise UsageError(f"--hosts: --out={out} must be a folder in a file system that all hosts share")


def _backend(config: WorkerConfig, options: Options) -> Backend:
    if options.executor == "slurm":
        assert options.workers is not None
        return slurm.SlurmBackend(config, options.workers)
    if options.executor == "ray":
        return ray.RayBackend(config, options.workers)
    if options.hosts > options.batch_hosts:
        return trial_hosts.TrialHosts(config, options.workers, options.hosts)
    return LocalBackend(config, options.workers)


def end(out: Path, options: Options) -> None:
    """Let hosts that share the trials go: this command has no more."""
    if options.hosts > options.batch_hosts:
        trial_hosts.end(out)


def follow(trials: Sequence[Trial], out: Path, options: Options, note: Callable[[str], object]) -> str | None:
    """Work as host number `options.host`, above 0, until host 0 has no more tasks; return the error, or None.

    Args:
      trials: of the sweep.
      out: its folder.
      options: those of host 0, but for the number of the host.
      note: prints a line.
    """
    if not options.coordinator:

        def done() -> bool:
            try:
                known = {record["trial"] for record in store.read(out) if record["status"] in store.FINISHED}
            except UsageError:  # host 0 has not begun
                return False
            return all(trial.id in known for trial in trials)

        trial_hosts.follow(out, options.host, options.workers, done, lambda: note(f"host {options.host} waits for host 0"))
        return None
    return _follow_in_step(out, options)


def _follow_in_step(out: Path, options: Options) -> str | None:
    """Do what host 0 does, step by step."""
    options = dataclasses.replace(options, keep_params=False, snapshots=(), checkpoint_seconds=float("inf"))
    backend = LocalBackend(options.worker_config(out, {"versions": provenance("")["versions"]}), 1)
    try:
        backend.start(0)
        while True:
            for _, event in backend.poll(1.0):
                match event:
                    case Lost(how):
                        return None if how == "exit status 0" else f"the worker of this host ended: {how}"
                    case Broken(reason):
                        return reason
    finally:
        backend.shutdown(1.0)


def _missing(
    trials: Sequence[Trial], out: Path, checksums: dict[DataConfig, str], options: Options, notes: list[str]
) -> list[Trial]:
    known = {record["trial"]: record for record in records(out)}
    finished = {trial.id for trial in trials if trial.id in known and known[trial.id]["status"] in store.FINISHED}
    for trial in trials:
        if trial.id in finished and known[trial.id]["data"]["checksum"] != checksums[trial.data]:
            raise UsageError(
                f"--dataset: {trial.data.dataset} has changed since it was recorded in {out}: restore it, or name another --out"
            )
    if options.keep_params and (lost := store.lost_params(out) & finished):
        notes.append(f"the parameters of {len(lost)} trial{'s' * (len(lost) > 1)} are missing or damaged: trained again")
        finished -= lost
    if options.snapshots and (lost := store.lost_params(out, "snapshots") & finished):
        notes.append(f"the snapshots of {len(lost)} trial{'s' * (len(lost) > 1)} are missing or damaged: trained again")
        finished -= lost
    if without := sum(not _has_snapshots(known[id], options.snapshots) for id in finished):
        notes.append(
            f"--snapshots: {without} trial{'s' * (without > 1)} that {'are' if without > 1 else 'is'} done did not keep all of "
            "these epochs: use another --out to train them again"
        )
    return [trial for trial in trials if trial.id not in finished]


def _has_snapshots(record: Mapping[str, Any], epochs: Sequence[int]) -> bool:
    """Whether a trial kept its parameters at those of the epochs that it has been through."""
    return all(epoch in record["snapshots"] for epoch in epochs if epoch <= len(record["history"]))


def _outcome(trials: Sequence[Trial], out: Path, interrupted: bool) -> Outcome:
    found = {record["trial"]: record for record in records(out)}
    mine = [found[trial.id] for trial in trials if trial.id in found]
    counts = collections.Counter(record["status"] for record in mine)
    problems = [f"{r['trial']} {r['status']}: {r['reason']}" for r in mine if r["status"] != "done"]
    return Outcome(dict(counts), len(trials), problems, interrupted)


def provenance(command: str) -> JsonObject:
    """Provenance of a record: command, code version, package versions, host."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    versions = {"python": platform.python_version(), "cnn_jax": cnn_jax.__version__}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"command": command, "versions": versions, "code": _code_version(), "host": platform.node()}


def _code_version() -> JsonObject:
    root = Path(cnn_jax.__file__).resolve().parents[1]

    def git(*args: str) -> str | None:
        if not (root / ".git").exists():  # installed: a repository further up is not that of this code
            return None
        try:
            done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=5, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}
