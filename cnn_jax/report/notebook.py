"""A report in a notebook: Jupyter and Colab show it in a frame, where neither's styles reach the other."""

import dataclasses
from pathlib import Path

from cnn_jax.errors import UsageError
from cnn_jax.records import store
from cnn_jax.report import svg


@dataclasses.dataclass(frozen=True)
class Page:
    """A report to show as the value of a notebook cell: `Page("runs/grid")`.

    path: the folder of a sweep, or its report.html. height: of the frame in pixels.
    """

    path: str | Path
    height: int = 800

    def _repr_html_(self) -> str:
        path = store.folder(self.path)
        path = path if path.suffix == ".html" else path / "report.html"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"{path} cannot be read: {reason}: write it with python launch.py report DIR") from None
        # A frame with its text inside has no folder, and so no file beside it.
        text = text.replace('<a href="results.csv">results.csv</a>', "results.csv")
        # The page may run its own script, but it has no part in the notebook's origin.
        return (
            f'<iframe srcdoc="{svg.escape(text)}" sandbox="allow-scripts allow-downloads" title="report" loading="lazy" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )
