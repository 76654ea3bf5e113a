"""Intervals, effects and comparisons from recorded results alone. The unit is the run; accuracies are fractions of 1."""

from cnn_jax.stats.cells import Cell, Design, Level, Record, compared_on, design, flat, numeric, one_image, text
from cnn_jax.stats.comparisons import Comparison, against_best, holm
from cnn_jax.stats.effects import Contrast, Effects, Term, effects
from cnn_jax.stats.images import Noise, correct_SN, correctness, flipped, never_right, noise, rates
from cnn_jax.stats.intervals import (
    LEVEL,
    POWER,
    Estimate,
    bca,
    expected_best,
    mean_interval,
    power,
    probability_better,
    seeds_to_resolve,
    smallest_difference,
)
from cnn_jax.stats.means import Means, Test
from cnn_jax.stats.sequential import confidence_sequence, expected_seeds, open_cells
from cnn_jax.stats.summary import Analysis, analyse

__all__ = [
    "LEVEL",
    "POWER",
    "Analysis",
    "Cell",
    "Comparison",
    "Contrast",
    "Design",
    "Effects",
    "Estimate",
    "Level",
    "Means",
    "Noise",
    "Record",
    "Term",
    "Test",
    "against_best",
    "analyse",
    "bca",
    "compared_on",
    "confidence_sequence",
    "correct_SN",
    "correctness",
    "design",
    "effects",
    "expected_best",
    "expected_seeds",
    "flat",
    "flipped",
    "holm",
    "mean_interval",
    "never_right",
    "noise",
    "numeric",
    "one_image",
    "open_cells",
    "power",
    "probability_better",
    "rates",
    "seeds_to_resolve",
    "smallest_difference",
    "text",
]
