"""The report of a running sweep: a thread of the driver rewrites it from time to time."""

import threading
import time
from collections.abc import Callable

from rich.console import Console

from cnn_jax.execution.notebook import NotebookProgress, in_notebook
from cnn_jax.execution.progress import Activity, Progress
from cnn_jax.trial import Trial

FIRST_SECONDS = 30.0  # before the first page, so that a short sweep has no overhead
LEAST_SECONDS = 10.0  # between two pages, at least,
SHARE = 50  # and this multiple of the time that the last page took


class Live:
    """Call `write` in a separate thread, one call at a time.

    An error ends it: the report at the end of the sweep raises the same error.
    """

    def __init__(self, write: Callable[[], object], clock: Callable[[], float] = time.monotonic):
        self.write, self.clock = write, clock
        self.due = clock() + FIRST_SECONDS
        self.thread: threading.Thread | None = None
        self.failed = False
        self.written = False

    def tick(self) -> None:
        """Start writing if it is time; return immediately."""
        if self.failed or self.clock() < self.due or (self.thread and self.thread.is_alive()):
            return
        self.due = float("inf")  # until this one is done
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        began = self.clock()
        try:
            self.write()
            self.written = True
        except Exception:
            self.failed = True
        now = self.clock()
        self.due = now + max(LEAST_SECONDS, SHARE * (now - began))

    def close(self) -> None:
        """Wait for the page that is being written, and write no more: the final report follows."""
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
