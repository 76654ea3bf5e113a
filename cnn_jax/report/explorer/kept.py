"""Trained networks that a sweep kept, as steps of a forward pass in NumPy. A report runs no code of a fork: those have none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import stats, zoo
from cnn_jax.data.normalization import Normalization
from cnn_jax.errors import UsageError
from cnn_jax.lowering import NotLowered, Op, fold, lower
from cnn_jax.records import store
from cnn_jax.trial import ModelConfig
from cnn_jax.zoo.models import MODELS


def steps(folders: Sequence[Path], record: stats.Record, shape: Sequence[int], classes: int) -> tuple[Op, ...] | None:
    """The trained network of a run; None if its parameters were not kept or do not fit, or its model is a fork's."""
    model = record["config"]["model"]
    if model["name"] not in MODELS:
        return None
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in model.items()}
    fields["options"] = tuple((name, value) for name, value in model["options"])
    for folder in folders:
        try:
            variables = store.load_params(folder, record["trial"])
            spec = zoo.spec(ModelConfig(**fields), tuple(shape), classes)
            return fold(lower(spec, tuple(shape), variables))
        except (OSError, ValueError, TypeError, NotLowered, UsageError):
            continue
    return None


def normalization(record: stats.Record) -> Normalization:
    """What converts images to inputs of a run's network."""
    known = record["data"].get("normalization") or {}
    kind = record["config"]["data"].get("normalize", "none")
    return Normalization(kind, tuple(known.get("mean", ())), tuple(known.get("std", ())))


def best_and_median(cell: stats.Cell, metric: str) -> list[tuple[str, stats.Record]]:
    """The best run of a cell, and the median one if that is another: of an even number of runs the lower one."""
    runs = sorted(cell.runs(metric), key=lambda r: (r[metric], r["trial"]))
    if not runs:
        return []
    best, median = max(cell.runs(metric), key=lambda r: r[metric]), runs[(len(runs) - 1) // 2]
    if best["trial"] == median["trial"]:
        return [("best and median seed" if len(runs) > 1 else "only seed", best)]
    return [("best seed", best), ("median seed", median)]


def first_kernels(ops: Sequence[Op], shape: Sequence[int]) -> tuple[str, np.ndarray] | None:
    """Name of the first layer with weights and its kernels (F, height, width, channels); None if it does not see the image."""
    for op in ops:
        if op.paths:
            found = [kernels for path in op.paths if (kernels := first_kernels(path, shape))]
            return found[0] if found else None
        if op.kind == "conv":
            return op.name, np.moveaxis(op.arrays["kernel"], -1, 0)
        if op.kind == "dense":
            kernel = op.arrays["kernel"]
            return (op.name, kernel.T.reshape(-1, *shape)) if len(kernel) == int(np.prod(shape)) else None
        if op.arrays:
            return None
    return None
