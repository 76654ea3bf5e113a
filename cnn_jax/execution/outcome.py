"""Records of trained and of failed trials. No JAX."""

import base64
import dataclasses
import datetime
import json
from typing import TYPE_CHECKING

import numpy as np

from cnn_jax import description, zoo
from cnn_jax.aliases import JsonObject
from cnn_jax.data import Dataset
from cnn_jax.errors import UsageError
from cnn_jax.records import store
from cnn_jax.trial import Trial

if TYPE_CHECKING:
    from cnn_jax.training.result import Result


def success(
    trial: Trial, outcome: "Result", dataset: Dataset, provenance: JsonObject, device: str, precision: str
) -> JsonObject:
    """Return the record of a trained trial: `outcome` is a training.result.Result, `dataset` a data.Dataset."""
    shape = description.describe(trial.model, dataset.info.input_shape, dataset.info.num_classes)
    epoch = outcome.epoch or len(outcome.history)
    last = outcome.history[epoch - 1] if epoch else dict.fromkeys(("train_loss", "train_accuracy", "val_loss", "val_accuracy"))
    correct = outcome.test_correct
    return _record(trial, provenance) | {
        "status": outcome.status,
        "reason": outcome.reason,
        "params": shape.params,
        "macs": shape.macs,
        "receptive_field": shape.receptive_field,
        "history": outcome.history,
        **{name: last[name] for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")},
        "test_loss": outcome.test_loss,
        "test_accuracy": None if correct is None else float(correct.mean()),
        "test_correct": _bitmap(correct),
        "val_correct": _bitmap(outcome.val_correct),
        "test_examples": len(dataset.test_labels),
        "selected_epoch": outcome.epoch,
        "metrics": outcome.metrics,
        "confusion": outcome.confusion,
        "device": device,
        "precision": precision,
        "data": _data(dataset),
    }


def _data(dataset: Dataset) -> JsonObject:
    """The data set as a record describes it; with the normalization and its statistics where it is not the default."""
    found = {
        "checksum": dataset.checksum,
        "train": len(dataset.train_labels),
        "validation": len(dataset.validation_labels),
        "test": len(dataset.test_labels),
    }
    normalization = dataset.normalization
    return found if normalization.kind == "none" else found | {"normalization": dataclasses.asdict(normalization)}


def _bitmap(correct: np.ndarray | None) -> str | None:
    """Answers as base64, a bit per image."""
    return None if correct is None else base64.b64encode(np.packbits(correct).tobytes()).decode()


def failure(trial: Trial, reason: str, provenance: JsonObject) -> JsonObject:
    """Return the record of a failed trial."""
    empty = (
        "params", "macs", "receptive_field", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss",
        "test_accuracy", "test_correct", "val_correct", "test_examples", "train_seconds", "compile_seconds",
        "images_per_second", "device", "precision", "convolution", "data", "selected_epoch", "confusion",
    )  # fmt: skip
    return (
        _record(trial, provenance) | {"status": "failed", "reason": reason, "history": [], "metrics": {}} | dict.fromkeys(empty)
    )


def _omitted(trial: Trial) -> JsonObject:
    try:
        return zoo.omitted_options(trial.model)
    except UsageError:  # the model itself may have failed
        return {}


def _record(trial: Trial, provenance: JsonObject) -> JsonObject:
    return {
        "schema": store.SCHEMA,
        "trial": trial.id,
        "config": json.loads(trial.canonical),
        "model_defaults": _omitted(trial),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **provenance,
    }
