"""A Slurm job: a worker that hears of its tasks through a mailbox. `local.python` starts it with FOLDER.

What is said is what `worker` says, and at last {"event": "lost", "how"}. It goes when its file of tasks is removed, when the
driver has fallen silent, and when Slurm says that its time is up (SIGTERM, SIGUSR2): with a checkpoint of what is under way.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from cnn_jax.execution import cores, worker
from cnn_jax.execution.backends.local import accelerator
from cnn_jax.execution.backends.mailbox import Inbox, Outbox
from cnn_jax.execution.backends.slurm import EVENTS, TASKS
from cnn_jax.execution.messages import WorkerConfig


def main() -> None:
    folder = Path(sys.argv[1])
    inbox, outbox = Inbox(folder / TASKS), Outbox(folder / EVENTS)
    try:
        messages = inbox.messages(outbox)
        config = WorkerConfig(**next(messages)["config"])
        open(outbox.path, "xb").close()
    except (OSError, StopIteration) as error:  # not wanted any more, or begun once more by Slurm
        sys.exit(f"there is nothing to do in {folder}: {error}")

    def send(event: dict[str, Any]) -> None:
        try:
            outbox.send(event)
        except FileNotFoundError:
            pass  # the tasks are gone with it, which ends this worker in a moment, with a checkpoint
        except OSError:
            os._exit(1)  # nobody can be told any more

    name = f"job {os.environ.get('SLURM_JOB_ID', '?')}"
    try:
        if not accelerator():
            cores.claim(config.devices)
        worker.serve(config, messages, send)
        how = f"{name} was told to go"
    except Exception as error:
        traceback.print_exc()
        how = f"{name}: {type(error).__name__}: {error}".splitlines()[0][:300]
    send({"event": "lost", "how": how})
    os._exit(0)  # threads may still sit in a read
