"""Sweeps with kept parameters and images, without a training."""

import numpy as np
import synthetic

from cnn_jax.records import store
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial
from cnn_jax.zoo.resolve import spec as network_of
from tests.random_networks import trained

SHAPE, CLASSES = (8, 8, 1), 10


def cell_of(padding, seed, filters=4, normalize="none"):
    model = ModelConfig("cnn", (filters,), (3,), (1,), padding, "relu")
    return Trial(model, DataConfig(normalize=normalize), TrainConfig(epochs=2), seed)


def folder_of(path, trials, *, model=None):
    """A finished sweep with parameters and images, and its variables by trial."""
    records = [synthetic.record(t, 0.9 + 0.01 * t.seed) for t in trials]
    found = {}
    synthetic.folder(path, [])
    store.begin(path, "python launch.py", "2026-11-01T00:00:00", trials)
    writer = store.Writer(path)
    for trial, record in zip(trials, records, strict=True):
        if trial.data.normalize == "per_channel":
            record["data"]["normalization"] = {"kind": "per_channel", "mean": [0.3], "std": [0.4]}
        spec = network_of(trial.model, SHAPE, CLASSES)
        found[trial.id] = spec, trained(spec, SHAPE, trial.seed)
        if model:
            record["config"]["model"]["name"] = model
        writer.finish(record, found[trial.id][1])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, *SHAPE), dtype=np.uint8)
    store.keep_images(
        path,
        "sha256:0f1e2d",
        {
            "example_images": images, "example_labels": np.arange(10), "class_names": np.array([str(i) for i in range(10)]),
            "missed_images": images[:1], "missed_labels": np.array([3]), "missed_indices": np.array([17]),
            "picked_images": images[1:3], "picked_labels": np.array([4, 5]), "picked_indices": np.array([18, 19]),
        },
    )  # fmt: skip
    return found
