"""A report in a notebook: Jupyter and Colab show it in a frame, which separates the styles; and its summary."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_jax.errors import UsageError
from cnn_jax.program import PROGRAM
from cnn_jax.records import store
from cnn_jax.report import answer, html, plots, svg

if TYPE_CHECKING:
    from cnn_jax.report import Sweep


@dataclasses.dataclass(frozen=True)
class Page:
    """A report to show as the value of a notebook cell: `Page("runs/grid")`.

    path: the folder of a sweep, or its report.html. height: of the frame in pixels.
    """

    path: str | Path
    height: int = 800

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def _repr_html_(self) -> str:
        path = store.folder(self.path)
        path = path if path.suffix == ".html" else path / "report.html"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"{path} cannot be read: {reason}: write it with {PROGRAM} report DIR") from None
        # A frame with inline text has no folder, and so no file beside it.
        text = text.replace('<a href="results.csv">results.csv</a>', "results.csv")
        # The page may run its own script, but not with the notebook's origin.
        return (
            f'<iframe srcdoc="{svg.escape(text)}" sandbox="allow-scripts allow-downloads" title="report" loading="lazy" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )


def summary(sweep: "Sweep") -> str:
    """The answer of every data set and its main picture, as an element of a notebook's page."""
    blocks = []
    for part, analysis in sweep.parts:
        name = part.records[0]["config"]["data"]["dataset"] if part.records else ""
        blocks.append(svg.tag("p", svg.escape(name), class_="kicker"))
        blocks.append(svg.tag("h2", svg.escape(answer.headline(analysis)), style="font-size:17px"))
        if figure := plots.by_factor(analysis):
            blocks.append(svg.tag("p", svg.escape(figure.note), class_="note"))
            blocks.append(html.panels(figure))
    size = "padding:12px;margin:0;max-width:960px"
    return f'<style>{html.style()}</style><div class="{html.ROOT}"><main style="{size}">{"".join(blocks)}</main></div>'
