"""Description of a sweep for its report, collected where networks and images are available.

A report is built from the files of a sweep's folder alone. The question, the networks and a few small images are therefore
stored there with the results. A report without them is complete except for these parts.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cnn_jax import data, description, stats
from cnn_jax.aliases import JsonObject
from cnn_jax.records import store
from cnn_jax.sweep.plan import Plan
from cnn_jax.trial import DataConfig, ModelConfig

NETWORKS = 4  # drawn; a sweep over more models shows the first
SIDE = 64  # pixels of a stored image at most, along the longer axis
CLASSES = 12  # with example images
EXAMPLES = 5  # images of a class, fewer where images are large
EXAMPLE_BYTES = 100_000  # limit of all example images, unless one per class takes more
MISSED = 60  # test images that no run got right
DISPUTED = 60  # on which runs disagree most
RIGHT = 20  # that every run got right


def describe(planned: Plan, question: str, resolve: float | None = None) -> JsonObject:
    """Describe a command for the report, as JSON for `store.begin`.

    Args:
      planned: the plan; the first network of every model and data set is described.
      question: the experiment's question.
      resolve: the difference for which seeds are added, a fraction of 1.
    """
    first: dict[tuple[str, str], tuple[ModelConfig, DataConfig]] = {}
    for model, config in planned.shapes:
        first.setdefault((model.name, config.dataset), (model, config))
    networks = []
    for model, config in list(first.values())[:NETWORKS]:
        found = planned.info[config]
        outline = description.outline(model, found.input_shape, found.num_classes)
        networks.append({"dataset": config.dataset, "settings": _settings(model)} | outline)
    return {"question": question, "networks": networks} | ({"resolve": resolve} if resolve else {})


def _settings(model: ModelConfig) -> str:
    fields = stats.flat({"model": dataclasses.asdict(model), "data": {}, "train": {}})
    return " ".join(f"{name}={stats.text(value)}" for name, value in fields.items() if value is not None and name != "model")


def keep_images(out: Path, configs: Iterable[DataConfig], records: Sequence[stats.Record]) -> None:
    """Store example images of each data set, and the test images that no run of `records` got right. Needs prepared data."""
    for config in {config.dataset: config for config in configs}.values():
        images = data.load(config)
        mine = [r for r in records if r.get("data") and r["data"]["checksum"] == images.checksum]
        if mine:
            arrays = _examples(images) | _missed(images, stats.never_right(mine)) | _picked(images, mine)
            store.keep_images(out, images.checksum, arrays)


def _examples(images: data.Dataset) -> dict[str, np.ndarray]:
    """The first training images of each class, side by side in order of class."""
    labels = images.train_labels
    present = np.unique(labels)
    shown = present[np.linspace(0, len(present) - 1, min(CLASSES, len(present))).round().astype(int)]
    size = small(images.train_images[:1]).nbytes
    count = min(EXAMPLES, max(1, EXAMPLE_BYTES // (size * len(shown))))
    chosen = np.concatenate([np.flatnonzero(labels == label)[:count] for label in shown])
    return {
        "example_images": small(images.train_images[chosen]),
        "example_labels": labels[chosen],
        "class_names": np.array(images.info.class_names),
    }


def _missed(images: data.Dataset, missed: np.ndarray) -> dict[str, np.ndarray]:
    # Evenly spaced: in a test set sorted by class, the first ones would be of few classes.
    missed = missed[np.linspace(0, len(missed) - 1, min(MISSED, len(missed))).round().astype(int)]
    return {
        "missed_images": small(images.test_images[missed]),
        "missed_labels": images.test_labels[missed],
        "missed_indices": missed,
    }


def _picked(images: data.Dataset, records: Sequence[stats.Record]) -> dict[str, np.ndarray]:
    """Test images on which runs disagree, and some that all got right."""
    right_N, runs = np.zeros(len(images.test_images)), 0
    for record in records:  # one at a time: the answers of 100,000 runs would not fit in memory
        bits = stats.correctness(record) if record["status"] == "done" else None
        if bits is not None and len(bits) == len(right_N):
            right_N += bits
            runs += 1
    share_N = right_N / max(runs, 1)
    # In any order among equals: a test set that is sorted by class would otherwise show its first classes.
    divided = np.lexsort((np.random.default_rng(0).permutation(len(share_N)), np.abs(share_N - 0.5)))
    disputed = divided[(share_N[divided] > 0) & (share_N[divided] < 1)][:DISPUTED]
    right = np.flatnonzero(share_N == 1)
    right = right[np.linspace(0, len(right) - 1, min(RIGHT, len(right))).round().astype(int)]
    picked = np.concatenate([disputed, right])
    return {
        "picked_images": small(images.test_images[picked]),
        "picked_labels": images.test_labels[picked],
        "picked_indices": picked,
    }


def small(images_NHWC: np.ndarray) -> np.ndarray:
    """Images as grey or RGB, uint8 (N, h, w, 1 or 3), with neither side above `SIDE`."""
    from PIL import Image

    grey = images_NHWC.shape[-1] not in (3, 4)  # for other numbers of channels, their mean
    pixels = images_NHWC.mean(axis=-1, keepdims=True).astype(np.uint8) if grey else images_NHWC[..., :3]
    height, width = pixels.shape[1:3]
    ratio = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    if size == (width, height):
        return np.ascontiguousarray(pixels)
    resized = [
        np.asarray(Image.fromarray(image[..., 0] if grey else image).resize(size, Image.Resampling.BOX)) for image in pixels
    ]
    return np.array(resized, dtype=np.uint8).reshape(len(pixels), size[1], size[0], pixels.shape[-1])
