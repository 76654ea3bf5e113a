"""Picard 2021: influence of the random seed on accuracy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnn_jax import stats
from cnn_jax.papers import spread
from cnn_jax.papers.paper import OfAll, Paper, Published, Row


def _sd(folder: Path, records: Sequence[stats.Record], level: float) -> stats.Estimate:
    """Estimate the standard deviation of test accuracy between seeds."""
    found = spread.noise(records)
    if found is None:
        return spread.UNKNOWN
    return spread.interval_of_sd(found.sd, spread.freedom(found, records), found.runs, level)


def _range(folder: Path, records: Sequence[stats.Record], level: float) -> stats.Estimate:
    """Estimate the range of test accuracies relative to that of the same number of normal values."""
    return spread.range_of_normal(np.array([record["test_accuracy"] for record in records]), level)


# Of 10,000 seeds of a short training: 90.02 +- 0.23, from 89.01 to 90.83; the range of as many normal values is 7.7 standard
# deviations.
PICARD2021 = Paper(
    "Torch.manual_seed(3407) is all you need (Picard 2021)",
    "arXiv 2109.08203",
    "picard2021",
    (
        Row("standard deviation between seeds", {}, OfAll(_sd), Published(0.0023)),
        Row("range, relative to normal seeds", {}, OfAll(_range), Published(7.91 / 7.70), margin=0.25, share=False),
    ),
    margin=0.001,
    seeds=500,
    quick={"seeds": "12"},
    note="Published: 10,000 seeds of a short training on CIFAR-10, 90.02 ± 0.23, from 89.01 to 90.83.",
)
