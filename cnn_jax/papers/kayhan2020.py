"""Kayhan and van Gemert 2020: convolutions with zero padding encode absolute location.

Networks classify whether red is left of green. In the training images and the similar test images the location predicts the
class; in the dissimilar ones it predicts the other class, so a network that uses it is wrong.
"""

from collections.abc import Iterator
from pathlib import Path

from cnn_jax import stats
from cnn_jax.papers.paper import Measure, Paper, Published, Row
from cnn_jax.trial import DataConfig


def dissimilar(folder: Path, record: stats.Record) -> float:
    """Compute the accuracy of a trial's network on the dissimilar test images."""
    from cnn_jax import data
    from cnn_jax.analysis.trained import open_trial

    images = data.load(DataConfig("red_green:published_dissimilar"))
    logits_NK = open_trial(folder, record["trial"]).logits(images.test_images)
    return float((logits_NK.argmax(-1) == images.test_labels).mean())


# Percent on the similar and the dissimilar images, and their standard deviations, over 10 runs.
_TABLE = {
    "valid": ((100.0, 0.0), (0.2, 0.1)),
    "same": ((99.8, 0.1), (8.4, 0.7)),
    "circular": ((73.7, 1.0), (73.7, 1.0)),
    "full": ((89.7, 0.5), (89.7, 0.5)),
}


def _rows() -> Iterator[Row]:
    measures: dict[str, str | Measure] = {"similar": "test_accuracy", "dissimilar": dissimilar}
    for padding, values in _TABLE.items():
        for (images, measure), (value, sd) in zip(measures.items(), values, strict=True):
            yield Row(f"{padding}, {images}", {"padding": padding}, measure, Published(value / 100, sd / 100, 10))


KAYHAN2020 = Paper(
    "On Translation Invariance in CNNs: Convolutional Layers can Exploit Absolute Spatial Location (Kayhan, van Gemert 2020)",
    "CVPR 2020, section 3; arXiv 2003.07064",
    "kayhan2020",
    tuple(_rows()),
    margin=0.03,
    seeds=10,
    quick={"seeds": "3", "epochs": "20"},
    note="As in the published program, validation and similar test images are among the training images; see docs/papers.md.",
)
