"""Progress of a sweep in a notebook: one line that is updated in place."""

import contextlib
import html
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cnn_jax.execution.progress import Activity, Progress
from cnn_jax.trial import Trial

if TYPE_CHECKING:
    from IPython.display import DisplayHandle


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook (Jupyter, Colab), not a command run from a cell."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


class NotebookProgress(Progress):
    """The line of `Progress` and a bar, as one output of a cell that is replaced."""

    SECONDS = 0.5  # between two updates

    _handle: "DisplayHandle | None" = None
    _updated = 0.0

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        self._show("reading the data", None)
        yield
        self._show("the data are ready", 0.0)  # the last line where all trials are recorded already

    @contextlib.contextmanager
    def running(self, trials: Sequence[Trial]) -> Iterator[None]:
        self._begin(trials)
        self._show(f"0/{self.total:,} trials", 0.0)
        try:
            yield
        finally:
            seconds = time.monotonic() - self.began
            self._show(f"{self.done:,}/{self.total:,} trials · {seconds:,.0f} s", self.done / max(self.total, 1))

    def tick(self, activity: Activity) -> None:
        now = time.monotonic()
        if now - self._updated >= self.SECONDS:
            self._show(" · ".join(self._texts(activity, now)), self.forecast.share_done)

    def _show(self, text: str, share: float | None) -> None:
        """Replace the line. `share`: of the work that is done, from 0 to 1; None: not known."""
        from IPython.display import display

        value = "" if share is None else f' value="{share:.3f}"'
        shown = {"text/plain": text, "text/html": f"<div><progress{value}></progress> {html.escape(text)}</div>"}
        self._updated = time.monotonic()
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)
