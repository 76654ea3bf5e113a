"""Records as a sweep would leave them, with effects and noise that the tests know."""

import base64
import dataclasses
import datetime
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.records import store
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial


def record(trial: Trial, accuracy: float, *, status: str = "done", images: int = 500, hardness: int = 0, **more: Any) -> dict:
    """One trial whose test images are right with probability `accuracy` on average, hard images less often."""
    config = dataclasses.asdict(trial)
    rng = np.random.default_rng([trial.seed, *trial.canonical.encode()])
    level = np.random.default_rng(hardness).normal(size=images) * 2.5  # the same images are hard for every trial
    logit = np.quantile(level, np.clip(accuracy, 0.001, 0.999))
    correct = level + rng.logistic(size=images) * 0.12 < logit
    epochs = trial.train.epochs or 5
    rise = 1 - np.exp(-3 * np.arange(1, epochs + 1) / epochs)
    filters, kernel = (trial.model.filters or (8,))[-1], (trial.model.kernel_size or (3,))[-1]
    held_out = trial.data.validation_fraction > 0
    done = status == "done"
    value = float(np.clip(accuracy, 0, 1))
    return {
        "schema": 1, "trial": trial.id, "config": config, "status": status, "reason": None if done else "loss is nan",
        "params": filters * (kernel**2 + 1) + filters * 90 + 10, "macs": filters * kernel**2 * 64 + filters * 90,
        "receptive_field": kernel + 1,
        "history": [
            {"epoch": e + 1, "train_loss": 2.3 * (1 - r) + 0.05, "train_accuracy": r * min(1.0, value + 0.01),
             "val_loss": 2.3 * (1 - r) + 0.08 if held_out else None, "val_accuracy": r * value if held_out else None}
            for e, r in enumerate(rise)
        ],
        "train_loss": 0.05 if done else None, "val_accuracy": value if held_out and done else None,
        "val_loss": 0.1 if held_out and done else None, "test_accuracy": float(correct.mean()) if done else None,
        "test_loss": 0.12 if done else None, "test_examples": images,
        "test_correct": base64.b64encode(np.packbits(correct)).decode() if done else None,
        "train_seconds": 0.8 + filters * kernel**2 / 400, "compile_seconds": 1.1, "images_per_second": 30000 / filters,
        "device": "cpu", "versions": {"jax": "0.10.2", "python": "3.11.7"},
        "code": {"commit": "0123456789abcdef", "dirty": False},
        "data": {"checksum": "sha256:0f1e2d", "train": 1300, "validation": 140 if held_out else 0, "test": images},
        "finished": datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC).isoformat(),
        "command": "python launch.py grid", **more,
    }  # fmt: skip


def minimal(trial: Trial, name: str = "", status: str = "done", checksum: str = "sum") -> dict[str, Any]:
    """The fields that a record must have, of a trial that may go by another name."""
    return {
        "schema": store.SCHEMA, "trial": name or trial.id, "config": json.loads(trial.canonical), "status": status,
        "test_accuracy": 0.5 if status == "done" else None, "test_examples": 10,
        "data": {"checksum": checksum, "train": 20, "validation": 0, "test": 10},
    }  # fmt: skip


def sweep(
    *, filters: tuple[int, ...] = (8, 16, 32), kernels: tuple[int, ...] = (3, 5), paddings: tuple[str, ...] = ("valid", "same"),
    seeds: int = 3, sd: float = 0.004, effect: float = 0.006, validation_fraction: float = 0.1, rng_seed: int = 0,
) -> list[dict]:  # fmt: skip
    """A full factorial: `effect` per doubling of filters, half of it for the larger kernel, none of padding."""
    rng = np.random.default_rng(rng_seed)
    out = []
    for (i, f), (j, k), p, seed in itertools.product(enumerate(filters), enumerate(kernels), paddings, range(seeds)):
        trial = Trial(
            ModelConfig("cnn", (f,), (k,), (1,), p, "relu"), DataConfig(validation_fraction=validation_fraction),
            TrainConfig(epochs=10), seed,
        )  # fmt: skip
        out.append(record(trial, 0.96 + effect * i + effect / 2 * j + sd * rng.normal()))
    return out


def folder(path: Path, records: list[dict], planned: list[Trial] = ()) -> Path:  # type: ignore[assignment]
    """Writes records into a folder by the store's own writer, as a sweep does."""
    path.mkdir(parents=True, exist_ok=True)
    trials = [Trial.from_json(json.dumps(r["config"])) for r in records]
    store.begin(path, "python launch.py grid", "2026-11-01T00:00:00", [*trials, *planned])
    writer = store.Writer(path)
    for r in records:
        writer.finish(r)
    return path
