"""Jordan 2023: after long training, the variance over seeds is that of independent errors on a finite test set.

The shortest and the longest training of the sweep correspond to the published 4 and 64 epochs.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from cnn_jax import stats
from cnn_jax.papers import spread
from cnn_jax.papers.paper import Above, OfAll, Paper, Published, Row

Choice = Callable[[Sequence[int]], int]  # of epochs: min, max


def excess(records: Sequence[stats.Record], level: float) -> stats.Estimate:
    """Estimate the ratio of the standard deviation on the test set to that of independent errors.

    The errors on image i have variance e_i (1 - e_i) over seeds; if they are independent, the accuracy on N images has variance
    sum_i e_i (1 - e_i) / N^2. That is estimated far more precisely than the observed variance, whose interval is used.
    """
    found = spread.noise(records)
    if found is None or found.independent_sd == 0:
        return spread.UNKNOWN
    ratio = found.sd / found.independent_sd
    return spread.interval_of_sd(ratio, spread.freedom(found, records), found.runs, level)


def of_distribution(records: Sequence[stats.Record], level: float) -> stats.Estimate:
    """Estimate the share of the test-set variance that is also present on new images.

    Theorem 2 of the paper: N / (N - 1) times (variance on the test set minus that of independent errors), divided by the
    former; 0 if negative.
    """
    found, ratio = spread.noise(records), excess(records, level)
    if found is None or not ratio.known:
        return spread.UNKNOWN

    def share(ratio: float) -> float:
        return max(0.0, found.images / (found.images - 1) * (1 - 1 / ratio**2)) if ratio > 0 else 0.0

    return dataclasses.replace(ratio, value=share(ratio.value), low=share(ratio.low), high=share(ratio.high))


def _of(choice: Choice, function: Callable[[Sequence[stats.Record], float], stats.Estimate]) -> OfAll:
    def measure(folder: Path, records: Sequence[stats.Record], level: float) -> stats.Estimate:
        epochs = {record["config"]["train"]["epochs"] for record in records}
        chosen = choice(sorted(epochs)) if epochs else 0
        return function([record for record in records if record["config"]["train"]["epochs"] == chosen], level)

    return OfAll(measure)


# Standard deviations in percentage points over 60,000 runs: after 4 epochs 0.56 on the test set, 0.22 if independent and 0.52
# of the distribution; after 64 epochs 0.149, 0.145 and 0.033.
JORDAN2023 = Paper(
    "On the Variance of Neural Network Training with respect to Test Sets and Distributions (Jordan 2023)",
    "ICLR 2024, sections 3.2 and 3.3; arXiv 2304.01910",
    "jordan2023",
    (
        Row("short, observed over independent", {}, _of(min, excess), Above(1.0), share=False),
        Row("long, observed over independent", {}, _of(max, excess), Published(0.149 / 0.145), share=False),
        Row("short, variance of the distribution", {}, _of(min, of_distribution), Published((0.52 / 0.56) ** 2)),
        Row("long, variance of the distribution", {}, _of(max, of_distribution), Published((0.033 / 0.149) ** 2)),
    ),
    margin=0.2,
    seeds=100,
    quick={"seeds": "12", "epochs": "1,4", "train_examples": "6000"},
    note=(
        "Published: ratios over 60,000 runs of a ResNet on CIFAR-10, 4 epochs (short) and 64 (long). The interval "
        f"of a ratio is that of a standard deviation: with n seeds about ± {100 * 1.96 / math.sqrt(2):.0f} % / √n."
    ),
)
