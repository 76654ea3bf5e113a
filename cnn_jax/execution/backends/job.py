"""A Slurm job: a worker that receives its tasks through a mailbox. Started by `backends.local.python` with FOLDER.

It sends the events of a worker; the last one is `Lost`. It ends when its file of tasks is removed, when the driver is presumed
dead, and when Slurm signals the time limit (SIGTERM, SIGUSR2); before that it writes checkpoints of its tasks.
"""

import os
import sys
import traceback
from pathlib import Path

from cnn_jax.execution import cores, worker
from cnn_jax.execution.backends.local import accelerator
from cnn_jax.execution.backends.mailbox import Inbox, Outbox
from cnn_jax.execution.backends.slurm import EVENTS, TASKS
from cnn_jax.execution.messages import Event, Lost, WorkerConfig


def main() -> None:
    folder = Path(sys.argv[1])
    inbox, outbox = Inbox(folder / TASKS), Outbox(folder / EVENTS)
    try:
        messages = inbox.messages(outbox)
        config = WorkerConfig(**next(messages)["config"])
        open(outbox.path, "xb").close()
    except (OSError, StopIteration) as error:  # cancelled, or started again by Slurm
        sys.exit(f"no tasks in {folder}: {error}")

    def send(event: Event) -> None:
        try:
            outbox.send(event.to_json())
        except FileNotFoundError:
            pass  # the folder was removed: the worker ends when its tasks do
        except OSError:
            os._exit(1)  # the driver cannot be reached

    name = f"job {os.environ.get('SLURM_JOB_ID', '?')}"
    try:
        if not accelerator():
            cores.claim(config.devices)
        worker.serve(config, messages, send)
        how = f"{name} was told to stop"
    except Exception as error:
        traceback.print_exc()
        how = f"{name}: {type(error).__name__}: {error}".splitlines()[0][:300]
    send(Lost(how))
    os._exit(0)  # reading threads may be blocked
