"""The pictures of a report, each from an analysis alone."""

from cnn_jax.report.plots.cells import against_best, cost, noise_floor
from cnn_jax.report.plots.factors import by_factor, interactions
from cnn_jax.report.plots.figure import Figure
from cnn_jax.report.plots.images import disagreement
from cnn_jax.report.plots.runs import curves, parallel

__all__ = ["Figure", "against_best", "by_factor", "cost", "curves", "disagreement", "interactions", "noise_floor", "parallel"]
