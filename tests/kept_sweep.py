"""Sweeps with kept parameters and images, without a training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnn_jax.nn.network import CNN
from cnn_jax.records import store
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial
from cnn_jax.zoo.resolve import spec as network_of
from tests import synthetic


@functools.cache
def shapes_of(spec, shape):
    shapes = jax.eval_shape(lambda: CNN(spec).init(jax.random.key(0), jnp.zeros((1, *shape))))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()}


def trained(spec, shape, seed=0):
    """Variables as after some training: norms have statistics, and no bias is zero."""
    rng = np.random.default_rng(seed)
    flat = {}
    for path, size in shapes_of(spec, shape).items():
        noise = rng.normal(size=size).astype(np.float32)
        if path.endswith(("scale", "var")):
            flat[path] = np.exp(0.2 * noise)
        elif path.endswith(("bias", "mean")):
            flat[path] = 0.1 * noise
        else:
            flat[path] = noise / np.float32(np.sqrt(max(1, np.prod(size[:-1]))))
    return flat


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
