"""Intervals, effects and comparisons from recorded results alone. The unit is the run; accuracies are fractions of 1."""

from cnn_jax.stats.analysis import Analysis, accuracy_interval, analyse, analyse_numbers
from cnn_jax.stats.cells import (
    Cell,
    Design,
    Level,
    Record,
    compared_on,
    crossing,
    datasets,
    design,
    flat,
    key,
    numeric,
    one_image,
    text,
)
from cnn_jax.stats.comparisons import Comparison, against_best
from cnn_jax.stats.effects import Contrast, Effects, Term, effects
from cnn_jax.stats.image_variance import Images
from cnn_jax.stats.images import Noise, answers, correct_SN, correctness, flipped, never_right, noise, rates
from cnn_jax.stats.intervals import (
    LEVEL,
    POWER,
    Estimate,
    expected_best,
    power,
    probability_better,
    seeds_to_resolve,
    smallest_difference,
)
from cnn_jax.stats.means import Means, Test
from cnn_jax.stats.metric import ACCURACIES, TEST, VALIDATION, Metric
from cnn_jax.stats.sequential import Decision, confidence_sequence, decide, expected_seeds, open_cells
from cnn_jax.stats.simultaneous import holm, range_critical, range_p

__all__ = [
    "ACCURACIES",
    "LEVEL",
    "POWER",
    "TEST",
    "VALIDATION",
    "Analysis",
    "Cell",
    "Comparison",
    "Contrast",
    "Decision",
    "Design",
    "Effects",
    "Estimate",
    "Images",
    "Level",
    "Means",
    "Metric",
    "Noise",
    "Record",
    "Term",
    "Test",
    "accuracy_interval",
    "against_best",
    "analyse",
    "analyse_numbers",
    "answers",
    "compared_on",
    "confidence_sequence",
    "correct_SN",
    "correctness",
    "crossing",
    "datasets",
    "decide",
    "design",
    "effects",
    "expected_best",
    "expected_seeds",
    "flat",
    "flipped",
    "holm",
    "key",
    "never_right",
    "noise",
    "numeric",
    "one_image",
    "open_cells",
    "power",
    "probability_better",
    "range_critical",
    "range_p",
    "rates",
    "seeds_to_resolve",
    "smallest_difference",
    "text",
]
