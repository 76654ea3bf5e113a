"""What a person sees while a sweep runs: a live line on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import rich.progress
from rich.console import Console
from rich.markup import escape

from cnn_jax.config import Trial


class Progress:
    """Trials done, images a second, time left. Time left goes by images, which cost differs by cell: it is an estimate."""

    PLAIN_SECONDS = 10.0  # between lines where there is no terminal

    def __init__(self, console: Console, images_of: Callable[[Trial], int]):
        """`images_of`: trial -> images that its training will see."""
        self.console, self.images_of = console, images_of
        self.live: rich.progress.Progress | None = None
        self.done = self.total = 0
        self.seen = self.expected = 0

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """While the data are read for the first time."""
        if self.console.is_terminal:
            with self.console.status("reading the data"):
                yield
        else:
            yield

    @contextlib.contextmanager
    def running(self, trials: Sequence[Trial]) -> Iterator[None]:
        """While the trials are trained."""
        self.total, self.expected = len(trials), sum(self.images_of(trial) for trial in trials)
        self.began = self.printed = time.monotonic()
        if not self.console.is_terminal:
            yield
            return
        columns = (
            rich.progress.TextColumn("{task.fields[trials]}"),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TextColumn("{task.fields[speed]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("{task.fields[left]}"),
        )
        with rich.progress.Progress(*columns, console=self.console, transient=True, expand=True) as self.live:
            self.bar = self.live.add_task("", total=self.expected, **self._fields())
            yield
        self.live = None

    def images(self, count: int) -> None:
        """So many more images were trained on."""
        self.seen += count

    def finished(self, record: Mapping[str, Any]) -> None:
        """A trial's record is on disk."""
        self.done += 1
        if record["status"] != "done":
            self.console.print(f"[yellow]{record['status']}[/] {escape(record['trial'])}: {escape(str(record['reason']))}")

    def note(self, sentence: str) -> None:
        """Something that the user should know and need not act on."""
        self.console.print(f"[yellow]note:[/] {escape(sentence)}", soft_wrap=True, highlight=False)

    def tick(self) -> None:
        """Called a few times a second."""
        now = time.monotonic()
        if self.live is not None:
            self.live.update(self.bar, completed=self.seen, **self._fields())
        elif now - self.printed > self.PLAIN_SECONDS:
            self.printed = now
            self.console.print(" · ".join(text for text in self._texts().values() if text), soft_wrap=True)

    def _fields(self) -> dict[str, Any]:
        return dict(self._texts())

    def _texts(self) -> dict[str, str]:
        spent = max(time.monotonic() - self.began, 1e-3)
        speed = self.seen / spent
        left = "" if not self.seen else f"{_clock((self.expected - self.seen) / speed)} left"
        return {"trials": f"{self.done}/{self.total} trials", "speed": f"{speed:,.0f} images/s", "left": left}


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
