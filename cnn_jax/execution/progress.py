"""Progress display of a sweep: a live line in a terminal; a line every few seconds in a pipe, a file or a notebook."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import rich.progress
from rich.console import Console

from cnn_jax.execution.forecast import Forecast
from cnn_jax.trial import Trial


@dataclasses.dataclass(frozen=True)
class Activity:
    """Activity of the workers. starting: workers; compiling: programs; parallel: tasks that are trained at once."""

    starting: int = 0
    compiling: int = 0
    parallel: int = 0


class Progress:
    """Trials done, images per second, programs being compiled, and the time left once it is known (see `Forecast`)."""

    PLAIN_SECONDS = 10.0  # between lines where there is no live display, and a tenth of the time so far in a long sweep

    def __init__(self, console: Console, images_of: Callable[[Trial], int], cost: Callable[[Trial], float]):
        """images_of: trial -> training images over all epochs. cost: trial -> work, in any unit."""
        self.console, self.images_of, self.cost = console, images_of, cost
        self.live: rich.progress.Progress | None = None
        self._begin(())

    def _begin(self, trials: Sequence[Trial]) -> None:
        self.forecast = Forecast(trials, self.images_of, self.cost)
        self.done, self.total, self.seen = 0, len(trials), 0
        self.began = self.printed = time.monotonic()
        self.trained_since: float | None = None

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Context in which the data are read for the first time."""
        sentence = "reading the data"
        if self.console.is_interactive:
            with self.console.status(sentence, spinner="line"):
                yield
            return
        late = threading.Timer(self.PLAIN_SECONDS, self.console.print, [sentence])
        late.daemon = True
        late.start()
        try:
            yield
        finally:
            late.cancel()

    @contextlib.contextmanager
    def running(self, trials: Sequence[Trial]) -> Iterator[None]:
        """Context in which `trials` are trained."""
        self._begin(trials)
        if not self.console.is_interactive:
            yield
            return
        columns: list[rich.progress.ProgressColumn] = [
            rich.progress.TextColumn("{task.fields[before]}", markup=False),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TextColumn("{task.fields[after]}", markup=False),
        ]
        self.narrow = self.console.width < 60
        if not self.narrow:
            columns.append(rich.progress.TimeElapsedColumn())
        with rich.progress.Progress(*columns, console=self.console, transient=True, expand=True) as self.live:
            self.bar = self.live.add_task("", total=1.0, before="", after="")
            self.tick(Activity())
            yield
        self.live = None

    def trained(self, trials: Sequence[Trial], images: int, seconds: float) -> None:
        """Count `images` more training images of trials of one program, processed in `seconds` by one worker."""
        if self.trained_since is None:
            self.trained_since = time.monotonic() - seconds
        self.seen += images
        self.forecast.trained(trials, images, seconds)

    def compiled(self, trial: Trial, seconds: float) -> None:
        """Note the compilation of a trial's program."""
        self.forecast.compiled(trial, seconds)

    def restarted(self, trials: Sequence[Trial]) -> None:
        """Note requeued trials."""
        self.forecast.restarted(trials)

    def finished(self, trial: str, status: str, reason: str | None) -> None:
        """Count a trial whose record is on disk. `trial`: its id."""
        self.done += 1
        self.forecast.finished(trial)
        if status != "done":
            self._warn(f"{status}: {trial}: {reason}")

    def note(self, sentence: str) -> None:
        """Print information that needs no action."""
        self._warn(f"note: {sentence}")

    def _warn(self, line: str) -> None:
        self.console.print(line, style="yellow", soft_wrap=True, highlight=False, markup=False)

    def tick(self, activity: Activity) -> None:
        """Refresh the display; called a few times per second."""
        now = time.monotonic()
        trials, *rest = self._texts(activity, now)
        if self.live is not None:
            room = self.console.width - len(trials) - (9 if self.narrow else 17)  # a short bar, spaces, the time so far
            while rest and len(" · ".join(rest)) > room:
                rest.pop(0)  # least important first
            self.live.update(self.bar, completed=self.forecast.share_done, before=trials, after=" · ".join(rest))
        elif now - self.printed > max(self.PLAIN_SECONDS, (now - self.began) / 10):
            self.printed = now
            self.console.print(" · ".join([trials, *rest]), soft_wrap=True, highlight=False)

    def _texts(self, activity: Activity, now: float) -> list[str]:
        texts = [f"{self.done:,}/{self.total:,} trials"]
        if activity.starting and not activity.parallel:
            texts.append("starting workers")
        if self.trained_since is not None:
            texts.append(f"{self.seen / max(now - self.trained_since, 1e-3):,.0f} images/s")
        if activity.compiling:
            texts.append(f"compiling {activity.compiling} program{'s' * (activity.compiling > 1)}")
        if (seconds := self.forecast.seconds_left(activity.parallel)) is not None:
            texts.append(f"{about(seconds)} left")
        return texts


def about(seconds: float) -> str:
    """A duration, rounded as far as a forecast is exact: 'a few seconds', '25 s', '3 min', '2 h 10 min'."""
    if seconds < 7.5:
        return "a few seconds"
    if seconds < 57.5:
        return f"{5 * round(seconds / 5)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60 // 10 * 10} min"
