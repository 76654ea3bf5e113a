"""The report while a sweep runs: written again now and then with the trials so far, by a thread of the driver."""

import threading
import time
from collections.abc import Callable

from rich.console import Console

from cnn_jax.execution.notebook import NotebookProgress, in_notebook
from cnn_jax.execution.progress import Activity, Progress
from cnn_jax.trial import Trial

FIRST_SECONDS = 30.0  # before the first page: a short sweep pays nothing
LEAST_SECONDS = 10.0  # between two pages,
SHARE = 50  # and so many times as long as the last one took


class Live:
    """Calls `write` in a thread of its own, at most once at a time.

    An error ends it: the report at the end of the sweep tells what is wrong.
    """

    def __init__(self, write: Callable[[], object], clock: Callable[[], float] = time.monotonic):
        self.write, self.clock = write, clock
        self.due = clock() + FIRST_SECONDS
        self.thread: threading.Thread | None = None
        self.failed = False

    def tick(self) -> None:
        """Write if it is time; returns at once."""
        if self.failed or self.clock() < self.due or (self.thread and self.thread.is_alive()):
            return
        self.due = float("inf")  # until this one is done
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        began = self.clock()
        try:
            self.write()
        except Exception:
            self.failed = True
        now = self.clock()
        self.due = now + max(LEAST_SECONDS, SHARE * (now - began))

    def close(self) -> None:
        """Wait for a page that is being written, and write no more: what follows is the last one."""
        self.failed = True
        if self.thread:
            self.thread.join()


class LiveProgress(Progress):
    """Progress that also keeps the report of the sweep up to date."""

    live_page: Live | None = None
    changed = False  # whether a trial has ended since the sweep began

    def finished(self, trial: str, status: str, reason: str | None) -> None:
        super().finished(trial, status, reason)
        self.changed = True

    def tick(self, activity: Activity) -> None:
        super().tick(activity)
        if self.live_page and self.changed:
            self.live_page.tick()


class LiveNotebookProgress(LiveProgress, NotebookProgress):
    """The same in a notebook."""


def progress_for(console: Console, images_of: Callable[[Trial], int], cost: Callable[[Trial], float]) -> LiveProgress:
    """The progress for this process: see `Progress` for the arguments."""
    return (LiveNotebookProgress if in_notebook() else LiveProgress)(console, images_of, cost)
