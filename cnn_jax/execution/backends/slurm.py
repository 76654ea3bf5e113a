"""Workers on a Slurm cluster: each is a job that runs tasks until there are no more. submitit submits, cancels and polls.

Driver and job share only the folder of the sweep: tasks and events go through a mailbox in it, records and checkpoints directly
into it. No port is opened and nothing is pickled. A job that ends for any reason is a lost worker.

    DIR/slurm/NAME/tasks.jsonl     to a job, which ends when this file is removed
    DIR/slurm/NAME/events.jsonl    from it
    DIR/logs/slurm-ID.log          its output
"""

import contextlib
import dataclasses
import logging
import os
import secrets
import shlex
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_jax.errors import UsageError
from cnn_jax.execution.backends.local import environment, python
from cnn_jax.execution.backends.mailbox import Inbox, Outbox
from cnn_jax.execution.messages import Assignment, Event, Lost, WorkerConfig
from cnn_jax.execution.scheduler import MOST_LANES
from cnn_jax.records import store

if TYPE_CHECKING:
    from submitit import SlurmJob

TASKS, EVENTS = "tasks.jsonl", "events.jsonl"
_COMMANDS = ("sbatch", "srun", "sacct", "scancel")
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip


def check(out: Path) -> None:
    """Raise UsageError if no jobs can be submitted for a sweep into `out`. Writes nothing."""
    if missing := [name for name in _COMMANDS if shutil.which(name) is None]:
        raise UsageError(f"--executor=slurm: {missing[0]} is not installed: run the command on a login node of the cluster")
    if not store.is_local(out):
        raise UsageError(f"--executor=slurm: --out={out} must be a folder in a file system that all nodes share")
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UsageError("--executor=slurm: submitit is not installed: pip install -r requirements-slurm.txt") from None


class SlurmBackend:
    """Workers of a Slurm cluster: at most `workers` jobs."""

    def __init__(self, config: WorkerConfig, workers: int):
        from submitit import SlurmExecutor

        # It repeats in several places what is reported here in one line.
        logging.getLogger("submitit").setLevel(logging.CRITICAL)
        self.config, self.size = dataclasses.replace(config, out=os.path.abspath(config.out)), workers
        on_gpu = "gpu" in os.environ.get("SBATCH_GRES", "") or any(name.startswith("SBATCH_GPUS") for name in os.environ)
        self.most_lanes = MOST_LANES if on_gpu and config.devices == 1 else 1
        out = Path(self.config.out)
        self.home, log = out / "slurm", str(out / "logs" / "slurm-%j.log")
        with store.reporting(config.out):
            shutil.rmtree(self.home, ignore_errors=True)  # of a killed driver: jobs of it that still run end now
            self.home.mkdir(mode=0o700, exist_ok=True)
            (out / "logs").mkdir(exist_ok=True)
        self.slurm = SlurmExecutor(self.home)
        self.slurm.update_parameters(
            job_name="cnn_jax", cpus_per_task=config.devices, time=None, wckey=None, stderr_to_stdout=True,
            srun_args=[f"--cpus-per-task={config.devices}", "--output", log],
            # A job that Slurm requeues would run tasks that have been requeued here.
            additional_parameters={"output": log, "no-requeue": True},
        )  # fmt: skip
        self.jobs: dict[int, _Job] = {}
        self.events: list[tuple[int, Event]] = []
        self.submitting, self.over, self.accepted = threading.Lock(), threading.Event(), False
        threading.Thread(target=self._poll_states, daemon=True).start()

    def start(self, number: int) -> None:
        folder = self.home / secrets.token_hex(8)
        with store.reporting(self.config.out):
            folder.mkdir()
            job = self.jobs[number] = _Job(Outbox(folder / TASKS), Inbox(folder / EVENTS))
            job.outbox.send({"config": dataclasses.asdict(self.config)})
        # In a thread: the controller of Slurm may be slow, and an interrupt must not wait for it.
        threading.Thread(target=self._submit, args=(job, folder), daemon=True).start()

    def _submit(self, job: "_Job", folder: Path) -> None:
        from submitit import SlurmJob

        settings = [f"{name}={value}" for name, value in environment(self.config.devices).items()]
        command = ["env", *settings, *python("cnn_jax.execution.backends.job", str(folder))]
        script = folder / "sbatch.sh"
        with self.submitting:
            if self.over.is_set() or job.released:
                return
            try:
                # `SlurmExecutor.submit` would leave a pickle for the job to load.
                script.write_text(self.slurm._make_submission_file_text(shlex.join(command), ""))
                # In its own session: Ctrl-C must not reach sbatch.
                told = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, start_new_session=True)
                if told.returncode:
                    raise OSError(told.stderr or "sbatch failed without a message")
                job.ticket = SlurmJob(self.home, self.slurm._get_job_id_from_submission_command(told.stdout))
            except (OSError, RuntimeError) as error:
                job.refused = " ".join(str(error).split())[-300:]
                return
        if self.over.is_set() or job.released:
            _cancel([job])

    def _poll_states(self) -> None:
        from submitit import SlurmJob

        while not self.over.wait(1.0):
            SlurmJob.watcher.update_if_long_enough("standard")  # seconds at first, minutes later

    def send(self, number: int, task: Assignment) -> None:
        with store.reporting(self.config.out):
            self.jobs[number].outbox.send(dataclasses.asdict(task))

    def poll(self, seconds: float) -> list[tuple[int, Event]]:
        time.sleep(seconds)
        for number, job in list(self.jobs.items()):
            with store.reporting(self.config.out):
                if not job.released:
                    job.outbox.heartbeat()
            if job.refused and not self.accepted:
                raise UsageError(f"--executor=slurm: {job.refused}")
            self.accepted = self.accepted or job.ticket is not None
            found = job.receive()
            self.events += [(number, event) for event in found]
            if job.gone:
                del self.jobs[number]
        events, self.events = self.events, []
        return events

    def release(self, number: int) -> None:
        self.jobs[number].release()
        if not self.jobs[number].started:  # it may wait in the queue of Slurm
            self.events.append((number, Lost("released")))
            _cancel([self.jobs.pop(number)])

    def shutdown(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self.over.set()
        for job in self.jobs.values():
            job.release()
        left = [job for job in self.jobs.values() if job.started]
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            for job in left:
                job.receive()
            left = [job for job in left if not job.gone]
        _cancel([job for job in self.jobs.values() if not job.gone])
        shutil.rmtree(self.home, ignore_errors=True)


@dataclasses.dataclass
class _Job:
    """A submitted job. `ticket`: the Job of submitit, once sbatch has accepted it."""

    outbox: Outbox
    inbox: Inbox
    ticket: "SlurmJob | None" = None
    refused: str = ""
    started: bool = False
    released: bool = False
    gone: bool = False

    def receive(self) -> list[Event]:
        """Return the events since the last call; the last event of a job is `Lost`."""
        # The state is read first, so that no event before the end is missed.
        state = self.ticket.watcher.get_state(self.ticket.job_id, mode="cache").split()[0] if self.ticket else ""
        name, how = f"job {self.ticket.job_id}" if self.ticket else "a job", ""
        found: list[Event] = []
        try:
            found = [Event.from_json(raw) for raw in self.inbox.receive()]
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            how = f"{name}: its messages cannot be read: {error}"
        self.started = self.started or bool(found)
        self.gone = any(isinstance(event, Lost) for event in found)
        if self.gone:
            return found
        if self.refused:
            how = self.refused
        elif state in _ENDED:
            how = f"{name}: {state}{'' if self.started else '; is --out in a file system that the nodes share?'}"
        elif self.started and self.inbox.silent:
            how = f"{name} is silent and presumed dead"
        if how:
            self.gone = True
            found.append(Lost(how))
            if state not in _ENDED:
                _cancel([self])
        return found

    def release(self) -> None:
        """Remove its tasks: it writes checkpoints and ends."""
        self.released = True
        with contextlib.suppress(OSError):
            self.outbox.path.unlink()


def _cancel(jobs: list[_Job]) -> None:
    """Cancel jobs that have not ended."""
    if ids := [job.ticket.job_id for job in jobs if job.ticket]:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            scancel = subprocess.Popen(["scancel", *ids], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            scancel.wait(timeout=1)
