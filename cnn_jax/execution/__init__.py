"""Execution of trials: missing trials -> queue -> scheduler -> workers of a backend -> records.

The process of the scheduler imports no JAX.

driver.py      run(): what is missing, then the scheduler     backends/   where workers run: local, ray, slurm, hosts
queue.py       the next task of a worker                      cores.py    a core for each worker
scheduler.py   event loop over the workers of a backend       progress.py, notebook.py, forecast.py    display of the progress
worker.py      main loop of a worker                          messages.py  messages between scheduler and workers
trainer.py     training of a task: data, programs, checkpoints                outcome.py   the record of a trial
"""

from cnn_jax.execution.backends.local import warm_up
from cnn_jax.execution.driver import EXECUTORS, Options, Outcome, check, end, follow, provenance, run

__all__ = ["EXECUTORS", "Options", "Outcome", "check", "end", "follow", "provenance", "run", "warm_up"]
