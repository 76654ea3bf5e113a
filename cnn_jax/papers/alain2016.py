"""Alain and Bengio 2016: the error of linear probes decreases from layer to layer."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from cnn_jax import stats
from cnn_jax.papers import networks
from cnn_jax.papers.paper import Above, Measure, Paper, Row

_LAYERS = ("pixels", "conv1", "pool1", "conv2", "pool2", "dense1")


def _gain(before: str, after: str, name: str = "probe") -> Measure:
    """Return a measure of a trial: probe accuracy of a layer minus that of an earlier one."""

    def measure(folder: Path, record: stats.Record) -> float:
        found = networks.values(folder, record["trial"], "probe")
        return found[name][after] - found["probe" if before == "pixels" else name][before]

    return measure


def _rows() -> Iterator[Row]:
    for before, after in itertools.pairwise(_LAYERS):
        yield Row(f"trained, {before} to {after}", {}, _gain(before, after), Above())
    yield Row("trained, pixels to dense1", {}, _gain("pixels", "dense1"), Above())
    yield Row("untrained, pixels to pool2", {}, _gain("pixels", "pool2", "probe_untrained"), Above())


ALAIN2016 = Paper(
    "Understanding intermediate layers using linear classifier probes (Alain, Bengio 2016)",
    "section 3.5, figure 3; arXiv 1610.01644",
    "alain2016",
    tuple(_rows()),
    margin=0.005,
    seeds=10,
    quick={"seeds": "3", "epochs": "1", "train_examples": "6000"},
    note=(
        "Published: after training the test error of the probe decreases at every layer but one; before training from 8 % on "
        "the pixels to 2 %. Probes are ridge regressions on 1,000 images here, softmax on all images there."
    ),
)
