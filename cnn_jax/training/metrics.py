"""Metrics of a network's answers to a set of images. Shapes: N images, K classes.

A metric is a function (logits_NK, labels_N) -> number, of NumPy arrays. A fork's `package.module:attribute` has the same form.
"""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from cnn_jax import plugins
from cnn_jax.errors import UsageError
from cnn_jax.recipes.names import is_attribute

Metric = Callable[[np.ndarray, np.ndarray], float]
BINS = 15  # of the calibration error, as in Guo et al. 2017


def log_softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities, (N, K) float64."""
    shifted_NK = logits_NK.astype(np.float64) - logits_NK.max(-1, keepdims=True)
    return shifted_NK - np.log(np.exp(shifted_NK).sum(-1, keepdims=True))


def nll(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    return float(-log_softmax(logits_NK)[np.arange(len(labels_N)), labels_N].mean())


def top5_accuracy(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Share of images whose label has one of the five largest logits; of equal logits, that of the lower class is larger."""
    own_N1 = logits_NK[np.arange(len(labels_N)), labels_N][:, None]
    lower_NK = np.arange(logits_NK.shape[1]) < labels_N[:, None]
    ahead_N = ((logits_NK > own_N1) | ((logits_NK == own_N1) & lower_NK)).sum(-1)
    return float((ahead_N < 5).mean())


def ece(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over bins of equal width, weighted by their images.

    Guo et al. 2017 (arXiv 1706.04599, eq. 3), with bins (0, 1/15], (1/15, 2/15], ...
    """
    confidence_N = np.exp(log_softmax(logits_NK).max(-1))
    right_N = logits_NK.argmax(-1) == labels_N
    bins_N = np.clip(np.ceil(confidence_N * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins_N, right_N - confidence_N, BINS)
    return float(np.abs(gaps).sum() / len(labels_N))


def built_in(num_classes: int) -> dict[str, Metric]:
    """Metrics of every trial; the top five only where there are more classes than that."""
    return {"nll": nll, "ece": ece} | ({"top5_accuracy": top5_accuracy} if num_classes > 5 else {})


def load(names: Sequence[str]) -> dict[str, Metric]:
    """Metrics of a fork by the name of their function.

    Raises:
      UsageError: for a name that is not package.module:attribute, and for two metrics of one name.
    """
    found: dict[str, Metric] = {}
    for name in names:
        if not is_attribute(name):
            raise UsageError(
                f"--metrics: {name!r} is not package.module:attribute; {', '.join(built_in(10))} and the confusion matrix are "
                "always measured"
            )
        short = name.rpartition(":")[2].rpartition(".")[2]
        if short in found or short in built_in(10) or short in ("accuracy", "loss", "correct"):
            raise UsageError(f"--metrics: {name}: a metric of the name {short} exists: give the function another name")
        found[short] = cast(Metric, plugins.load_attribute(name, f"--metrics: {name}"))
    return found


def measure(names: Sequence[str], logits_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, float | None]:
    """All metrics of some images by name, None where one is not finite; nothing for no images, or logits not finite."""
    if not len(labels_N) or not np.isfinite(logits_NK).all():
        return {}
    metrics = built_in(logits_NK.shape[1]) | load(names)
    values = {name: float(metric(logits_NK, labels_N)) for name, metric in metrics.items()}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def check_metrics(names: Sequence[str], num_classes: int) -> None:
    """Raise UsageError unless each metric of a fork gives a number for some logits."""
    logits_NK = np.random.default_rng(0).normal(size=(8, num_classes)).astype(np.float32)
    labels_N = np.arange(8, dtype=np.int32) % num_classes
    for (short, metric), name in zip(load(names).items(), names, strict=True):
        what = f"--metrics: {name}"
        if not callable(metric):
            raise UsageError(f"{what} is a {type(metric).__name__}: it must be a function")
        with plugins.reporting(f"{what} failed", metric):
            value = metric(logits_NK, labels_N)
        if np.ndim(value) or not np.isrealobj(value) or not np.issubdtype(np.asarray(value).dtype, np.number):
            kind = f"array of shape {np.shape(value)}" if np.ndim(value) else type(value).__name__
            raise UsageError(f"{what} must return a number for logits (N, K) and labels (N,): {short} gave a {kind}")
