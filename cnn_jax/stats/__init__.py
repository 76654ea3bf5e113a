"""Intervals, effects and comparisons from recorded results alone. The unit is the run; accuracies are fractions of 1."""

from cnn_jax.stats.cells import Cell, Design, Record, design, flat, numeric, text
from cnn_jax.stats.intervals import Estimate, mean_interval, seeds_to_resolve, smallest_difference
from cnn_jax.stats.summary import Analysis, analyse

__all__ = [
    "Analysis",
    "Cell",
    "Design",
    "Estimate",
    "Record",
    "analyse",
    "design",
    "flat",
    "mean_interval",
    "numeric",
    "seeds_to_resolve",
    "smallest_difference",
    "text",
]
