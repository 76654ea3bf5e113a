"""The page: one file, nothing fetched."""

from typing import TYPE_CHECKING

from cnn_jax import stats

if TYPE_CHECKING:
    from cnn_jax.report import Sweep


def page(sweep: "Sweep", analysis: stats.Analysis) -> str:
    """The whole report as the text of one HTML file."""
    from cnn_jax.report import plots

    return "<!doctype html><meta charset=utf-8><title>cnn_jax</title>" + "".join(plots.by_factor(analysis))
